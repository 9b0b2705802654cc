"""Reads the original's configuration files as data.

They are Python source, which the original executes. Here they are parsed, and of what they may say
only assignments of literals and of arithmetic on numbers are understood; nothing is executed.
"""

import ast
import operator
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import DataError, OptionError, nearest
from dhcp_fetal.cfg.keys import KEYS, REFUSED

Kind = Literal["model", "train", "test"]

LARGEST_FILE = 1_000_000  # bytes; the published files have about 10 000
LARGEST_NUMBER = 1e12
LARGEST_EXPONENT = 64
OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
PARSER_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)
CURLY_QUOTES = str.maketrans({"“": '"', "”": '"', "„": '"', "‟": '"', "‘": "'", "’": "'"})


@dataclass(frozen=True)
class CfgFile:
    """The assignments of one configuration file."""

    path: Path
    kind: Kind
    values: Mapping[str, object]
    """Checked values of the known keys; None counts as absent."""
    lines: Mapping[str, int]

    def where(self, name: str) -> str:
        """Return file, line and key as error messages name them."""
        if name not in self.lines:
            return f"{self.path}: {name}"
        return f"{self.path}, line {self.lines[name]}: {name}"

    def get(self, name: str, default=None):
        """Return the value of a key, or the default where it is absent."""
        return self.values.get(name, default)

    def require(self, name: str):
        """Return the value of a key; raise `OptionError` where the file does not give it."""
        if name not in self.values:
            raise OptionError(f"{self.path}: the required key {name} is missing")
        return self.values[name]

    def resolve(self, name: str) -> Path | None:
        """Return a key's path made absolute by the file's folder, or None where it is absent."""
        return self.locate(self.values[name]) if name in self.values else None

    def locate(self, entry: str) -> Path:
        """Return a path that the file gives, made absolute by the file's folder."""
        return absolute(self.path.parent, entry)


def read_cfg(path: Path, kind: Kind) -> CfgFile:
    """Read one configuration file, every value checked for its type.

    Raises:
        DataError: the file is missing, too large or not UTF-8.
        OptionError: names file, line and key: not a literal, unknown or withdrawn key, wrong type.
    """
    path = Path(path).absolute()
    values, lines = {}, {}
    for name, (value, line) in parse_assignments(_read_text(path), path).items():
        lines[name] = line
        where = f"{path}, line {line}: {name}"
        if name not in KEYS[kind]:
            raise OptionError(f"{where}: {_explain_unknown(name, kind)}")
        if value is None:
            continue
        try:
            values[name] = KEYS[kind][name].read(value)
        except ValueError as mistake:
            raise OptionError(f"{where}: expected {mistake}, found {value!r}") from None
    return CfgFile(path, kind, values, lines)


def parse_assignments(text: str, path: Path) -> dict[str, tuple[object, int]]:
    """Return {name: (value, line)} of a configuration file's text; the last assignment wins.

    Bare strings are comments. [G1] Curly quotes are read as straight ones where the text cannot be
    parsed otherwise, with one warning.
    """
    assignments = {}
    for statement in _parse(text, path).body:
        where = f"{path}, line {statement.lineno}"
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            continue
        named = isinstance(statement, ast.Assign) and all(
            isinstance(target, ast.Name) for target in statement.targets
        )
        if not named:
            raise OptionError(f"{where}: expected `name = value`; nothing else is read, none run")
        try:
            value = _evaluate(statement.value, where)
        except RecursionError:
            raise OptionError(f"{where}: nested too deeply") from None
        for target in statement.targets:
            assignments[target.id] = (value, statement.lineno)
    return assignments


def read_list(path: Path) -> tuple[str | None, ...]:
    """Read a list file: one entry per line, `-` for none, `#` and blank lines skipped."""
    entries = [line.strip() for line in _read_text(Path(path)).splitlines()]
    return tuple(None if e == "-" else e for e in entries if e and not e.startswith("#"))


def read_path_list(path: Path) -> tuple[Path | None, ...]:
    """Read a list file of paths, which are relative to the list file's folder."""
    folder = Path(path).absolute().parent
    return tuple(None if entry is None else absolute(folder, entry) for entry in read_list(path))


def absolute(folder: Path, entry: str) -> Path:
    """Return an entry of a file as an absolute path without `..`."""
    return Path(os.path.abspath(folder / entry))


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(f"{path}: expected at most {LARGEST_FILE} bytes")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: expected UTF-8 text, byte {error.start} is not") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _parse(text: str, path: Path) -> ast.Module:
    straight = text.translate(CURLY_QUOTES)
    try:
        return ast.parse(text)
    except PARSER_ERRORS as error:
        if straight == text:
            raise _syntax_error(error, path) from None
    try:
        tree = ast.parse(straight)
    except PARSER_ERRORS as error:
        raise _syntax_error(error, path) from None
    # [G1] Told once, whoever asks: a caller's line would make it a warning of its own.
    warnings.warn(f"{path}: curly quotes are read as straight ones", stacklevel=1)
    return tree


def _syntax_error(error: Exception, path: Path) -> OptionError:
    line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
    reason = error.msg if isinstance(error, SyntaxError) else str(error) or "nested too deeply"
    return OptionError(f"{path}{line}: not Python syntax ({reason})")


def _evaluate(node: ast.expr, where: str) -> object:
    """Return the value of a literal or of bounded arithmetic on numbers."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | None):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_evaluate(element, where) for element in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        keys = [_evaluate(key, where) for key in node.keys]
        if all(isinstance(key, str | int | float) for key in keys):
            values = [_evaluate(value, where) for value in node.values]
            return dict(zip(keys, values, strict=True))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _number(node.operand, where)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return _calculate(node, where)
    raise OptionError(f"{where}: only literals and arithmetic on numbers are read, none is run")


def _calculate(node: ast.BinOp, where: str) -> float:
    left, right = _number(node.left, where), _number(node.right, where)
    if isinstance(node.op, ast.Pow) and abs(right) > LARGEST_EXPONENT:
        raise OptionError(f"{where}: expected an exponent up to {LARGEST_EXPONENT}, found {right}")
    try:
        result = OPERATIONS[type(node.op)](left, right)
    except (ZeroDivisionError, OverflowError) as error:
        raise OptionError(f"{where}: {error}") from None
    return _check_number(result, where)


def _number(node: ast.expr, where: str) -> float:
    return _check_number(_evaluate(node, where), where)


def _check_number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise OptionError(f"{where}: expected a number in the arithmetic, found {value!r}")
    if abs(value) > LARGEST_NUMBER:
        raise OptionError(f"{where}: expected numbers up to {LARGEST_NUMBER:g} in the arithmetic")
    return value


def _explain_unknown(name: str, kind: Kind) -> str:
    """Return why a name is refused and what to do about it. [G2]"""
    if name in REFUSED:
        return REFUSED[name]
    owners = [other for other in KEYS if name in KEYS[other]]
    if owners:
        return f"a key of {' and '.join(owners)} files, found in a {kind} file"
    close = nearest(name, KEYS[kind])
    hint = f"did you mean {close}? " if close else ""
    return f"unknown key; {hint}The engine would ignore it: put # before the line to do so"
