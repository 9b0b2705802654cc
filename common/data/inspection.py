"""`prepare --check`: everything that is wrong with a data set, found in one pass, nothing written.

The checks of a paper's `data.py` raise at the first mistake. Here each is attempted by itself and
its message kept, so that a rule is stated once and one table shows every fault of every file.
Faults make the data unusable and end the command with status 2; notes are warnings.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from common.errors import DataError, UserError, one_line

Found = TypeVar("Found")
BYTES_PER_UNIT = 1000
LONGEST_LIST = 10
"""Label ids and the like that are spelt out before the rest is left out."""


@dataclass
class Entry:
    """One line of the table: a file, a case, or what concerns all of them."""

    name: str
    facts: dict[str, str] = field(default_factory=dict)
    """By column of the table: size, spacing, labels, ..."""
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, check: Callable[..., Found], *args: Any, **options: Any) -> Found | None:
        """Run a check and return its result, or None after a fault, which is kept."""
        try:
            return check(*args, **options)
        except UserError as mistake:
            self.fault(str(mistake))
        except OSError as refusal:
            where = f"{refusal.filename}: " if refusal.filename else ""
            self.fault(f"{where}{one_line(refusal)}")
        return None

    def fault(self, message: str) -> None:
        """Add what makes the data unusable; the same message counts once."""
        _add(self.faults, message)

    def note(self, message: str) -> None:
        """Add a warning."""
        _add(self.notes, message)

    @property
    def verdict(self) -> str:
        """FAULT, note or ok."""
        return "FAULT" if self.faults else "note" if self.notes else "ok"


@dataclass
class Inspection:
    """What one pass over a data set found."""

    source: Path
    """The list, file or folder that was asked about; paths below its folder are shown short."""
    unit: str = "case"
    """What a line of the table is about."""
    entries: list[Entry] = field(default_factory=list)
    whole: list[Entry] = field(default_factory=list)
    """Lines about the list, the split or the disk, which are not cases."""

    def entry(self, name: str) -> Entry:
        """Add and return the line of a file or case."""
        self.entries.append(Entry(name))
        return self.entries[-1]

    def general(self, name: str) -> Entry:
        """Add and return a line about all cases."""
        self.whole.append(Entry(name))
        return self.whole[-1]

    def track(self, items: Sequence[Found]) -> Iterator[Found]:
        """Yield the items of a long scan and show how far it is on a terminal's stderr."""
        yield from tqdm(items, desc="check", unit=self.unit, disable=None)

    def check_space(self, folder: Path, needed_bytes: int) -> None:
        """Compare the bytes to be written to a folder, which may be absent, with those free."""
        entry = self.general("disk space")
        free = free_bytes(folder)
        entry.facts["needed"] = size_in_words(needed_bytes)
        if needed_bytes > free:
            entry.fault(
                f"{folder}: found {size_in_words(free)} free; expected at least "
                f"{size_in_words(needed_bytes)} for what is prepared"
            )
        else:
            entry.facts["free"] = size_in_words(free)

    @property
    def faulty(self) -> list[Entry]:
        """The lines that have a fault."""
        return [entry for entry in (*self.entries, *self.whole) if entry.faults]

    def render(self) -> str:
        """Return the table, a line per file or case, and a summary line."""
        lines = _table(self.entries, self.unit) if self.entries else []
        if self.whole:
            lines += ["", *_list(self.whole)] if lines else _list(self.whole)
        lines = [self._shortened(line).rstrip() for line in lines]
        return "\n".join([f"Checked: {self.source}", "", *lines, "", self.summary()])

    def summary(self) -> str:
        """Return how many lines are in order, have notes, have faults."""
        counts = Counter(entry.verdict for entry in self.entries)
        others = [entry.name for entry in self.whole if entry.faults]
        return (
            f"{count_in_words(len(self.entries), self.unit)}: {counts['ok']} in order, "
            f"{counts['note']} with a note, {counts['FAULT']} with a fault"
            + (f"; also a fault: {', '.join(others)}" if others else "")
        )

    def conclude(self) -> None:
        """Print the table; raise `DataError` if there is a fault."""
        print(self.render())
        parts = [entry.name for entry in self.whole if entry.faults]
        if broken := sum(1 for entry in self.entries if entry.faults):
            parts.insert(0, f"{broken} of {count_in_words(len(self.entries), self.unit)}")
        if parts:
            raise DataError(
                f"{self.source} cannot be used: faults in {' and in '.join(parts)}; the table says "
                "which"
            )

    def _shortened(self, line: str) -> str:
        folder = self.source if self.source.is_dir() else self.source.parent
        # A relative source is shown as it was typed; messages also hold absolute paths.
        for prefix in {str(folder.absolute()), str(folder)} - {"/", "."}:
            line = line.replace(f" {prefix}/", " ")
        return line


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder that may not exist yet."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size_in_words(size: int) -> str:
    """Return a number of bytes as "1.2 GB"."""
    value, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= BYTES_PER_UNIT and len(units) > 1:
        value, units = value / BYTES_PER_UNIT, units[1:]
    return f"{value:.3g} {units[0]}"


def count_in_words(count: int, unit: str) -> str:
    """Return "1 case", "2 cases"."""
    return f"{count} {unit}{'' if count == 1 else 's'}"


def listed(values: Iterable[Any]) -> str:
    """Return values as "0, 2, 9", shortened where they are many."""
    words = [str(value) for value in values]
    return ", ".join(words[:LONGEST_LIST]) + (", ..." if len(words) > LONGEST_LIST else "")


def numbers(values: Iterable[float], *, digits: int = 4) -> str:
    """Return sizes or spacings as "16 x 144 x 144"."""
    return " x ".join(f"{value:.{digits}g}" for value in values)


def note_grid(entry: Entry, grid: tuple[Sequence[int], Any]) -> None:
    """Put shape and spacing (z, y, x) of `volumes.read_geometry` into the table, with remarks."""
    shape, geometry = grid
    entry.facts["size (z, y, x)"] = " x ".join(map(str, shape))
    entry.facts["spacing, mm"] = numbers(geometry.spacing_zyx_mm)
    for remark in geometry.remarks:
        entry.note(remark)


def note_twins(entries: Mapping[str, Entry], paths: Mapping[str, Path]) -> None:
    """Note the cases, by name, whose images are one and the same file."""
    first: dict[Path, str] = {}
    for name, path in paths.items():
        path = path.resolve()
        if path in first:
            entries[name].note(f"same image as {first[path]}")
        first.setdefault(path, name)


def note_differing(
    entries: Mapping[str, Entry], values: Mapping[str, Any], *, what: str, why: str
) -> None:
    """Note the cases whose value, which `what` names, is not the commonest; `why` it matters."""
    counted = list(values.values())
    if not counted:
        return
    usual = max(counted, key=counted.count)
    for name, value in values.items():
        if value != usual:
            entries[name].note(f"{what} {value}, most have {usual}: {why}")


def _table(entries: Sequence[Entry], unit: str) -> list[str]:
    columns = list(dict.fromkeys(name for entry in entries for name in entry.facts))
    rows = [
        [each.name, each.verdict, *(each.facts.get(name, "-") for name in columns), _findings(each)]
        for each in entries
    ]
    return _aligned([[unit, "verdict", *columns, "findings"], *rows])


def _list(entries: Sequence[Entry]) -> list[str]:
    facts = [", ".join(f"{value} {name}" for name, value in each.facts.items()) for each in entries]
    return _aligned([
        [each.name, f"{each.verdict:5}", "; ".join(filter(None, [known, _findings(each)]))]
        for each, known in zip(entries, facts, strict=True)
    ])  # fmt: skip


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    return ["  ".join([*map(str.ljust, row, widths), row[-1]]) for row in rows]


def _findings(entry: Entry) -> str:
    return "; ".join([*entry.faults, *(f"note: {note}" for note in entry.notes)])


def _add(messages: list[str], message: str) -> None:
    message = " ".join(message.split())
    if message not in messages:
        messages.append(message)
