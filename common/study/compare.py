"""Original beside port: the parts of a comparison, on the terminal, as JSON and as a page.

`microscope`, `effects` and `dice_definitions` make the parts that need computation.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import OptionError
from common.evaluation.overlap import dice
from common.files import write_json
from common.report.page import PHANTOM_NOTICE, Figure, Section, write_report, write_sections
from common.report.tables import TERMINAL_COLUMNS, fill, format_table, show
from common.runs.folder import load_run

PARTS = (
    "presets", "layers", "activations", "live", "effects", "metrics", "formulas", "inference",
    "weights", "flips",
)  # fmt: skip
"""What a comparison can hold, in the order of the page."""
QUICK_PARTS = ("presets", "layers", "inference", "weights", "flips")
"""Those made where neither a page nor parts are asked for; the last three need a run or data."""


@dataclass(frozen=True)
class Table:
    """One part: a table, what it says in words, and pictures for the page."""

    title: str
    rows: Sequence[Mapping[str, Any]]
    text: str = ""
    figures: Sequence[Figure] = ()
    phantom: bool = False
    """The numbers are measured on synthetic data."""


def compare_parts(
    paper: str,
    makers: Mapping[str, Callable[[], Table]],
    *,
    parts: Sequence[str] | None,
    out: Path | None,
    to: Path | None,
) -> None:
    """Make the parts that are asked for, write them, then print them; options as of `compare`.

    Args:
        paper: package name.
        makers: what makes each part that is possible, by its name in `PARTS`.
        parts: which; None: all with `to`, else those that need no computation.
        out: JSON file with the rows of every part.
        to: folder of the page, its sections and `compare.json`.

    Raises:
        OptionError: a part is unknown, or needs a run that is not given.
        RunError: a file cannot be written; nothing is printed then.
    """
    chosen = choose_parts(makers, parts, everything=to is not None)
    tables = {name: makers[name]() for name in chosen}
    if to is not None:
        write_page(to, paper, tables)
    show_tables(tables, out)
    left = [name for name in PARTS if name in makers and name not in chosen]
    if left and parts is None:
        print(f"Not shown: {', '.join(left)} (--parts all, or --to FOLDER for the page)")
    if to is not None:
        print(f"Page: {Path(to) / 'index.html'}")
    if out is not None:
        print(f"JSON: {out}")


def choose_parts(
    makers: Mapping[str, Any], parts: Sequence[str] | None, *, everything: bool
) -> list[str]:
    """Return the names of the parts to make, in the order of the page; arguments as above."""
    possible = [name for name in PARTS if name in makers]
    if parts is None:
        return possible if everything else [name for name in possible if name in QUICK_PARTS]
    if tuple(parts) == ("all",):
        return possible
    for name in parts:
        if name not in PARTS:
            known = ", ".join(PARTS)
            raise OptionError(f"--parts: found {name!r}; expected all, or some of: {known}")
        if name not in makers:
            now = ", ".join(possible)
            raise OptionError(f"--parts {name} needs more options; possible now: {now}")
    return [name for name in PARTS if name in parts]


def write_page(to: Path, paper: str, tables: Mapping[str, Table]) -> None:
    """Write `compare.json`, `sections.json` and `index.html` into a folder, made if missing."""
    to = Path(to)
    to.mkdir(parents=True, exist_ok=True)
    phantom = any(table.phantom for table in tables.values())
    parts = {
        name: {"title": table.title, "text": table.text, "phantom": table.phantom,
               "rows": list(table.rows)}
        for name, table in tables.items()
    }  # fmt: skip
    write_json(to / "compare.json", {"paper": paper, "phantom": phantom, "parts": parts})
    sections = [
        Section(
            table.title,
            text=" ".join([table.text, *([PHANTOM_NOTICE] if table.phantom else [])]),
            header=list(table.rows[0]) if table.rows else (),
            rows=[[show(value) for value in row.values()] for row in table.rows],
            figures=table.figures,
        )
        for table in tables.values()
    ]
    write_sections(to / "sections.json", sections)
    write_report(
        to / "index.html",
        title=f"{paper}: original and port",
        lead="What the released code does, what the port does, and what lies between.",
        sections=sections,
        phantom=phantom,
    )


def compare_presets(presets: Mapping[str, Any]) -> list[dict]:
    """Return a row per field of a paper's `Config`, those that differ between presets first:
    `field`, its value in every preset, and `differs` ("yes" or "")."""
    rows = []
    for field in fields(next(iter(presets.values()))):
        values = {name: getattr(config, field.name) for name, config in presets.items()}
        differs = len(set(values.values())) > 1
        rows.append({"field": field.name, **values, "differs": "yes" if differs else ""})
    return sorted(rows, key=lambda row: not row["differs"])


def presets_table(presets: Mapping[str, Any]) -> Table:
    """Return the presets side by side as a part."""
    rows = compare_presets(presets)
    differing = sum(row["differs"] == "yes" for row in rows)
    text = f"{differing} of {len(rows)} settings differ between the presets; these come first."
    return Table("presets", rows, text)


def layers_table(
    ours: Sequence[Mapping[str, Any]],
    theirs: Mapping[str, Sequence[int]] | None,
    *,
    why_not: str = "The original's shapes are not recorded in this installation.",
) -> Table:
    """Lay the original's variables and the port's side by side.

    Args:
        ours: a row per variable of the port: `original` (its name there), `port` (its path here),
            `shape` ("3x3x32"), `parameters`, perhaps `trained` ("yes" or "no") and more.
        theirs: shape of every variable of the original's network by name, as recorded; None where
            no recording is at hand.
        why_not: the sentence for that case.

    Returns:
        Part whose rows have `original`, `its shape`, then the columns of `ours`; variables of one
        side alone have a dash on the other.
    """
    left = dict(theirs or {})
    rows = []
    for row in ours:
        shape = left.pop(row["original"], None)
        there = "–" if shape is None else "x".join(map(str, shape)) or "scalar"
        rows.append({"original": row["original"], "its shape": there, **row})
    header = list(rows[0])
    for name, shape in left.items():
        known = {"original": name, "its shape": "x".join(map(str, shape)), "parameters": 0}
        rows.append({**dict.fromkeys(header, "–"), **known})
    here = sum(row["parameters"] for row in ours)
    trained = sum(row["parameters"] for row in ours if row.get("trained", "yes") == "yes")
    text = f"Port: {len(ours)} variables, {here:,} numbers, {trained:,} of them trained."
    if theirs is None:
        return Table("layers", rows, f"{text} {why_not}")
    there = sum(map(math.prod, theirs.values()))
    only_here = sum(row["original"] not in theirs for row in ours)
    text = (
        f"Original (released code, as recorded): {len(theirs)} variables, {there:,} numbers. {text}"
        f" Without a counterpart: {len(left)} there, {only_here} here."
    )
    return Table("layers", rows, text)


def describe_variable(name: str, variable: Any) -> dict[str, Any]:
    """Return the row of a Keras variable for `layers_table`, by the original's name."""
    return {
        "original": name,
        "port": variable.path,
        "shape": "x".join(map(str, variable.shape)),
        "parameters": math.prod(variable.shape),
        "trained": "yes" if variable.trainable else "no",
    }


def compare_ways(
    case: str,
    ways: Mapping[str, Callable[[], np.ndarray]],
    reference: np.ndarray | None,
    *,
    measure: Callable[[np.ndarray, np.ndarray], float] = lambda p, r: dice(p > 0, r > 0),
) -> list[dict]:
    """Segment one case in several ways and say how each differs from the first.

    Args:
        case: its name.
        ways: functions that return a label map, by name; the first is what others are held to.
        reference: label map of the same shape, or None.
        measure: of prediction and reference; default: Dice of everything above 0.

    Returns:
        A row per way: case, inference, seconds, dice, voxels unlike the first, and their share.
    """
    rows, first = [], None
    for name, segment in ways.items():
        start = time.perf_counter()
        found = np.asarray(segment())
        seconds = time.perf_counter() - start
        first = found if first is None else first
        unlike = int((found != first).sum())
        score = float("nan") if reference is None else float(measure(found, reference))
        rows.append({
            "case": case,
            "inference": name,
            "seconds": round(seconds, 2),
            "dice": round(score, 4),
            f"voxels unlike {next(iter(ways))}": unlike,
            "share": f"{unlike / max(found.size, 1):.3%}",
        })  # fmt: skip
    return rows


def inference_table(rows: Sequence[Mapping[str, Any]], run: Path) -> Table:
    """Return rows of `compare_ways` as a part; the run's manifest knows whether it is synthetic."""
    text = f"The held-out cases of {run}, segmented in several ways."
    return Table("inference", rows, text, phantom=bool(load_run(run).manifest.get("phantom")))


def compare_arrays(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict]:
    """Return a row per name in `first` with the largest absolute difference of the two arrays."""
    return [
        {"variable": name, "largest difference": float(np.abs(np.subtract(a, second[name])).max())}
        for name, a in first.items()
    ]


def require_run(run: Path | None, original: Path | None, *, what: str = "checkpoint") -> None:
    """Raise `OptionError` for a file of the original's without a run to compare it with."""
    if original is not None and run is None:
        raise OptionError(f"--original needs --run; expected the run to compare the {what} with")


def show_tables(tables: Mapping[str, Table], out: Path | None) -> None:
    """Print parts under their names, and write their rows as JSON where asked."""
    if out is not None:  # first, so that a file that cannot be written is all that is said
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_json(out, {name: list(table.rows) for name, table in tables.items()})
    for name, table in tables.items():
        print(name)
        print(format_table(table.rows, columns=TERMINAL_COLUMNS))
        for line in (table.text, PHANTOM_NOTICE if table.phantom else ""):
            if line:
                print(fill(line, TERMINAL_COLUMNS))
        print()
