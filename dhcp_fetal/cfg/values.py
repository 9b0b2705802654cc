"""Readers of configuration values: each checks what was parsed and gives it the package's form.

A reader returns its value, lists as tuples, or raises ValueError with what was expected.
"""

from math import isfinite


def text(value):
    """Read a string."""
    if not isinstance(value, str):
        raise ValueError("text in quotes")
    return value


def flag(value):
    """Read True or False."""
    if value not in (True, False):
        raise ValueError("True or False")
    return bool(value)


def number(value):
    """Read a number as float."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError("a number")
    return float(value)


def whole(value):
    """Read a whole number as int."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not float(value).is_integer():
        raise ValueError("a whole number")
    return int(value)


def table(value):
    """Read a dictionary; its entries are read by whoever knows them."""
    if not isinstance(value, dict):
        raise ValueError("a dictionary")
    return value


def switched_off(value):
    """Read an option that is only accepted where it asks for nothing."""
    if value:
        raise ValueError("nothing, the option not being supported")
    return value


def choice(*options):
    """Return a reader of one of a few values."""

    def read(value):
        if isinstance(value, bool) or value not in options:
            raise ValueError(f"one of {', '.join(map(str, options))}")
        return value

    return read


def positive(value):
    """Read a whole number above 0."""
    if whole(value) < 1:
        raise ValueError("a whole number above 0")
    return int(value)


def rate(value):
    """Read a number from 0 to 1."""
    if not 0.0 <= number(value) <= 1.0:
        raise ValueError("a number from 0 to 1")
    return float(value)


def list_of(read, *, length=None):
    """Return a reader of lists whose entries another reader reads."""

    def read_list(value):
        wrong = length is not None and isinstance(value, list) and len(value) != length
        if not isinstance(value, list) or wrong:
            raise ValueError("a list" if length is None else f"a list of {length}")
        try:
            return tuple(read(entry) for entry in value)
        except ValueError as mistake:
            raise ValueError(f"a list, each entry {mistake}") from None

    return read_list


def one_or_more(read_one):
    """Return a reader of one list or of a list of such lists; always gives the latter."""
    read_more = list_of(read_one)

    def read(value):
        nested = isinstance(value, list) and any(isinstance(entry, list) for entry in value)
        return read_more(value) if nested else (read_one(value),)

    return read


def table_of(readers):
    """Return a reader of dictionaries with known entries; those that are None count as absent."""

    def read_table(value):
        for name in table(value):
            if name not in readers:
                raise ValueError(f"a dictionary of {', '.join(readers)}, not of {name!r}")
        entries = {}
        for name, entry in value.items():
            try:
                if entry is not None:
                    entries[name] = readers[name](entry)
            except ValueError as mistake:
                raise ValueError(f"{name}: {mistake}") from None
        return entries

    return read_table


def feature_ranges(value):
    """Read per layer [] or [first, behind the last]; an empty list is none of them."""
    ranges = list_of(list_of(whole))(value)
    if any(len(entry) not in (0, 2) for entry in ranges):
        raise ValueError("a list, each entry [] or [first, behind the last]")
    return tuple(entry or None for entry in ranges)
