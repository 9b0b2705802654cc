"""`claims.yaml`: read and checked, each mistake one line that names file, claim and key."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from common.errors import DataError, OptionError
from common.evaluation.claims import Claim, Data, DataKind, PaperClaims, is_number
from common.papers import ROOT

FILE = "claims.yaml"


def find_claims(root: Path = ROOT) -> dict[str, PaperClaims]:
    """Return the claims of every paper by name; `DataError` if a file of them is damaged."""
    return {path.parent.name: read_claims(path) for path in sorted(root.glob(f"*/{FILE}"))}


def read_cohort(paper: str, cohort: str | None, *, phantom: bool) -> Data:
    """Return on what a run is measured.

    Args:
        paper: package name.
        cohort: what the user calls the data: the name of the paper's in its claims.yaml, or
            "<name>: <what differs>" where they are its patients, prepared otherwise; None: neither.
        phantom: True where the data are synthetic.

    Raises:
        OptionError: a phantom is given a cohort's name, or no claim of the paper knows the name.
    """
    if cohort is None:
        return Data(DataKind.PHANTOM if phantom else DataKind.STAND_IN)
    name, colon, preparation = (part.strip() for part in cohort.partition(":"))
    if phantom:
        raise OptionError(f"--cohort {name}: these data are phantoms; expected patients' data")
    known = sorted({claim.cohort for claim in read_claims(ROOT / paper / FILE).claims})
    if name not in known:
        raise OptionError(f"--cohort {name}: expected {' or '.join(known)}, or no cohort")
    if colon and not preparation:
        raise OptionError(f"--cohort {cohort}: expected what differs behind the colon")
    return Data(DataKind.SAME_PATIENTS if colon else DataKind.ORIGINAL, name, preparation)


def read_claims(path: Path) -> PaperClaims:
    """Read and check a `claims.yaml`; `DataError` names file, claim, key, found and expected."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as failure:
        reason = getattr(failure, "strerror", None) or " ".join(str(failure).split())
        raise DataError(f"{path} cannot be read: {reason}") from None
    reader = _Reader(str(path), content)
    claims = tuple(
        _read_claim(_Reader(f"{path}: claim {number}", entry))
        for number, entry in enumerate(reader.listing("claims"), start=1)
    )
    paper = PaperClaims(
        reader.text("paper"), reader.text("title"), reader.text("task"), reader.text("citation"),
        claims,
    )  # fmt: skip
    reader.finish()
    if paper.paper != path.resolve().parent.name:
        raise DataError(f"{path}: paper is {paper.paper!r}; expected the name of its folder")
    ids = [claim.id for claim in claims]
    if len(ids) != len(set(ids)):
        raise DataError(f"{path}: found the ids {', '.join(ids)}; expected each once")
    if sum(claim.headline for claim in claims) != 1:
        raise DataError(f"{path}: expected exactly one claim with headline: true")
    return paper


def _read_claim(reader: "_Reader") -> Claim:
    """Check the keys of one claim."""
    name = reader.text("id")
    reader.place += f" ({name})"
    published, metric = reader.group("published"), reader.group("metric")
    data, tolerance = reader.group("data"), reader.group("tolerance")
    source = reader.group("source")
    low, high = published.bounds()
    claim = Claim(
        id=name,
        statement=reader.text("statement"),
        low=low,
        high=high,
        sd=published.number("sd", required=False),
        cases=published.count("cases", required=False),
        cases_trained_on=published.count("cases_trained_on", required=False) or 0,
        metric=metric.text("name"),
        label=metric.text("label"),
        measure=metric.text("measure"),
        definition=metric.text("definition"),
        unit=metric.text("unit", required=False),
        source=source.text("where"),
        verified=source.text("verified"),
        cohort=data.text("cohort"),
        data=data.text("description"),
        access=data.text("access"),
        presets=tuple(data.texts("presets")),
        tolerance=tolerance.number("value"),
        tolerance_reason=tolerance.text("reason"),
        headline=reader.flag("headline"),
    )
    for part in (reader, published, metric, data, tolerance, source):
        part.finish()
    return claim


class _Reader:
    """Takes keys out of a mapping; each mistake is one line that names the place and the key."""

    def __init__(self, place: str, content: Any) -> None:
        self.place = place
        if not isinstance(content, Mapping):
            raise DataError(f"{place}: found {_shown(content)}; expected keys and values")
        self._left = dict(content)

    def text(self, key: str, *, required: bool = True) -> str:
        value = self._take(key, "a text", required=required)
        if value is None:
            return ""
        if not isinstance(value, str) or not value.strip():
            self._refuse(key, value, "a text")
        return " ".join(value.split())

    def number(self, key: str, *, required: bool = True) -> float | None:
        value = self._take(key, "a number", required=required)
        if value is not None and not is_number(value):
            self._refuse(key, value, "a number")
        if value is not None and value < 0:
            self._refuse(key, value, "a number from 0 on")
        return None if value is None else float(value)

    def count(self, key: str, *, required: bool = True) -> int | None:
        value = self.number(key, required=required)
        if value is not None and value != int(value):
            self._refuse(key, value, "a whole number")
        return None if value is None else int(value)

    def flag(self, key: str) -> bool:
        value = self._take(key, "true or false", required=False)
        if value not in (None, True, False):
            self._refuse(key, value, "true or false")
        return bool(value)

    def texts(self, key: str) -> list[str]:
        value = self._take(key, "a list of texts", required=True)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._refuse(key, value, "a list of texts")
        return value

    def listing(self, key: str) -> Sequence[Any]:
        value = self._take(key, "a list", required=True)
        if not isinstance(value, list) or not value:
            self._refuse(key, value, "a list with at least one entry")
        return value

    def group(self, key: str) -> "_Reader":
        return _Reader(f"{self.place}: {key}", self._take(key, "keys and values", required=True))

    def bounds(self) -> tuple[float | None, float | None]:
        """Take `value`, or `from` and `to`, or `none` with the reason why there is no number."""
        if "none" in self._left:
            self.text("none")
            return None, None
        if "value" in self._left:
            value = self.number("value")
            return value, value
        low, high = self.number("from"), self.number("to")
        if low > high:
            self._refuse("to", high, f"at least {low:g}, which is `from`")
        return low, high

    def finish(self) -> None:
        """Refuse keys that nobody asked for: a misspelt one would be a silent omission."""
        if self._left:
            raise DataError(f"{self.place}: unknown key `{next(iter(self._left))}`")

    def _take(self, key: str, expected: str, *, required: bool) -> Any:
        if self._left.get(key) is None and required:
            raise DataError(f"{self.place}: `{key}` is missing; expected {expected}")
        return self._left.pop(key, None)

    def _refuse(self, key: str, value: Any, expected: str) -> None:
        raise DataError(f"{self.place}: `{key}` is {_shown(value)}; expected {expected}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
