"""One case of many that cannot be used does not stop the others, and is named at the end."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from common.errors import CohortError, DataError, WriteError, one_line


class Failures:
    """The cases of one command that could not be used."""

    def __init__(self, total: int, what: str):
        """Take the number of cases and what one is called, such as "scan"."""
        self.total, self.what = total, what
        self.names: list[str] = []
        self.error: type[DataError] = DataError
        """What `conclude` raises."""

    def among_workers(self) -> None:
        """Let `conclude` raise a `CohortError`: the same command does what is left."""
        self.error = CohortError

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Do the work on a case: its `DataError` is printed on stderr, and raised by `conclude`.

        That of the only case is raised at once, as is a `WriteError`.
        """
        try:
            yield
        except WriteError:
            raise
        except DataError as failure:
            line = f"{name}: {one_line(failure)}"
            if self.total == 1:
                raise DataError(line) from failure
            self.note(name, line)

    def note(self, name: str, line: str) -> None:
        """Note that a case failed and print a line about it on stderr."""
        self.names.append(name)
        tqdm.write(line, file=sys.stderr)  # above a progress bar, where there is one

    def conclude(self, *, also: str = "the others are done") -> None:
        """Raise a `DataError` that names the cases that failed, if there are any, and says what
        becomes of the others."""
        if self.names:
            others = f"; {also}" if len(self.names) < self.total else ""
            raise self.error(
                f"no usable result for {len(self.names)} of {self.total} {self.what}s: "
                f"{', '.join(self.names)}{others}"
            )
