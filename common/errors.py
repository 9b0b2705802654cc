"""Errors caused by user input; reported in one line on stderr, with exit status 2."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A user's mistake: one line that names the file or option, what was found and expected."""

    exit_status = 2
    """Of a command that ends with it."""


class DataError(UserError):
    """A file, or what it contains, is not what the paper's format asks for."""


class CohortError(DataError):
    """Some cases of a cohort failed; the others are done, and the same command tries them again."""

    exit_status = 1


class WriteError(DataError):
    """A file of data cannot be written; nor could the next one."""


class OptionError(UserError):
    """An option's value, or a combination of options, cannot be honoured."""


class RunError(UserError):
    """A run folder is finished, locked by another process, or belongs to another configuration."""


class TrainingDivergedError(UserError):
    """The loss is not finite."""


class ServingError(UserError):
    """A model server does not answer, or not as the model's passport says."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word that is most like one that is not known; empty: none is."""
    return next(iter(get_close_matches(word, known, n=1)), "")


def one_line(failure: Exception) -> str:
    """Return what an exception says as one line: the system's reason, its text, or its kind."""
    text = getattr(failure, "strerror", None) or str(failure)
    return " ".join(text.split()) or type(failure).__name__
