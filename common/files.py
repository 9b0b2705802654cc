"""Files that are whole: old content or new, never half of either; plain JSON and YAML.

Readers and writers turn the system's refusals into one line that names the file.
"""

import ctypes
import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import yaml

from common.errors import RunError, UserError, one_line

LARGEST_TEXT = 200_000_000
"""Bytes of JSON, YAML and logs; a manifest with a million data files fits."""
DEEPEST_YAML = 20
_YAML_STARTS = (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken,
                yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken)  # fmt: skip
_YAML_ENDS = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
_CLEARLY_TEXT = re.compile(r"[A-Za-z_/][\w ./-]*")
_TEMPORARY = re.compile(
    r"\.(?P<target>.+?)\.(?P<pid>\d+)(-(?P<host>[0-9a-f]{8}))?(?P<old>\.old)?\.tmp"
)
_ABANDONED_S = 24 * 3600.0
"""After so long without a change, what another machine was writing counts as left behind."""
_HERE, _EXCHANGE = -100, 2
"""Of Linux' renameat2: the current folder, and exchanging two names."""


@contextmanager
def atomic_file(path: Path, *, error: type[UserError] = RunError) -> Iterator[IO[bytes]]:
    """Give a temporary file, open for writing, that becomes `path` when the block ends well.

    A symbolic link stays one: the file that it names is replaced.

    Raises:
        error: names the file and the system's reason; the former file is untouched.
    """
    target = Path(os.path.realpath(path))
    temporary = _temporary_name(target)
    try:
        remove_leftovers(target.parent, of=target.name)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as failure:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(failure, OSError):
            raise error(f"{path} cannot be written: {one_line(failure)}") from failure
        raise


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; see `atomic_file`."""
    with atomic_file(path) as file:
        # What is not UTF-8 in a file's name becomes an escape, which JSON and YAML understand.
        file.write(text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write `value`, which `plain` takes, as indented JSON; see `atomic_file`.

    NaN and infinities become null, which is all JSON has for them.
    """
    text = json.dumps(_finite(plain(value)), indent=2, ensure_ascii=False, allow_nan=False)
    write_text_atomically(path, text + "\n")


def read_text(path: Path) -> str:
    """Read UTF-8 text; raise `RunError` if it is missing, unreadable, too large or not UTF-8."""
    try:
        if (size := os.path.getsize(path)) > LARGEST_TEXT:
            raise ValueError(f"found {size} bytes; expected {LARGEST_TEXT} at most")
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as failure:
        raise RunError(f"{path} cannot be read: {one_line(failure)}") from failure


def read_json(path: Path) -> Any:
    """Read a JSON file; raise `RunError` if it is missing, unreadable or not JSON."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as failure:
        raise RunError(f"{path} cannot be read: {one_line(failure)}") from failure


class _Writer(yaml.SafeDumper):
    """Puts text in quotes wherever a reader of YAML might take it for a number or a date."""


def _represent_text(writer: _Writer, text: str) -> yaml.Node:
    style = None if _CLEARLY_TEXT.fullmatch(text) else '"'
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Writer.add_representer(str, _represent_text)


def as_yaml(options: Mapping[str, Any]) -> str:
    """Return plain options as safe YAML, one line per option with the lists within it."""
    return "".join(
        yaml.dump({key: item}, Dumper=_Writer, allow_unicode=True,
                  default_flow_style=None if isinstance(item, (list, dict)) else False)
        for key, item in options.items()
    )  # fmt: skip


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of options; raise `RunError` if it is missing, damaged or not a mapping."""
    text = read_text(path)
    try:
        _check_yaml(text)
        options = plain(yaml.safe_load(text))
    except yaml.YAMLError as failure:
        raise RunError(f"{path} cannot be read: it is not YAML ({one_line(failure)})") from failure
    except (ValueError, TypeError) as failure:
        raise RunError(f"{path} cannot be read: {one_line(failure)}") from failure
    if not isinstance(options, dict):
        raise RunError(f"{path} holds no options; expected a mapping of names to values")
    return options


def _check_yaml(text: str) -> None:
    """Raise `ValueError` for what makes much of few bytes, before it is made."""
    depth = 0
    for token in yaml.scan(text):
        depth += isinstance(token, _YAML_STARTS) - isinstance(token, _YAML_ENDS)
        if depth > DEEPEST_YAML:
            raise ValueError(f"found more than {DEEPEST_YAML} levels of lists and mappings")
        if isinstance(token, yaml.AliasToken):
            raise ValueError("found an alias (*name); expected every value spelt out")


def explain_pattern(path: Path, what: str) -> str:
    """Say by which character TensorFlow takes a path for a pattern and finds no `what`; or ""."""
    sign = next((sign for sign in str(path) if sign in "*?[\\"), "")
    expected = "expected a path without * ? [ and backslashes"
    return sign and f"{path} has a {sign!r}, by which TensorFlow finds no {what}; {expected}"


def make_folder(path: Path, name: str = "") -> None:
    """Make a folder with its parents unless it is there; `RunError` calls it `name`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise RunError(f"{name or path} cannot be made: {failure.strerror}") from failure


@contextmanager
def write_folder_atomically(
    path: Path, *, replace: bool = False, error: type[UserError] = RunError
) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` when the block ends well.

    Where the file system can exchange two names, there is no moment without a whole `path`. Else
    the old folder steps aside first; after a kill in between, `remove_leftovers` puts it back.

    Args:
        path: the folder to be; missing parents are made. It may exist if it is empty. A symbolic
            link stays one: the folder that it names is written.
        replace: take the place of a folder with content, which is then deleted whole.
        error: class of the exceptions.
    Raises:
        error: `path` has content and `replace` is off, or the disk is full or unwritable.
    """
    path = Path(path)
    if not replace and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise error(f"{path} exists already; expected a new or empty folder")
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with scratch_folder(target) as folder:
            yield folder
            _put_in_place(folder, target)
    except OSError as failure:
        raise error(f"{path} cannot be written: {one_line(failure)}") from failure


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Give a new, hidden folder beside `path`, which is removed when the block ends."""
    folder = _temporary_name(path)
    remove_leftovers(path.parent, of=path.name)
    folder.mkdir()
    try:
        yield folder
    finally:
        with suppress(OSError):
            remove(folder)


def remove_leftovers(folder: Path, *, of: str | None = None) -> None:
    """Delete what killed processes left half-written in `folder` (not in its subfolders).

    What another process, which still runs, is writing stays, and so does every file of another's
    making. Whether a process of another machine runs cannot be known: what it was writing on a
    shared disk stays for a day. An old version whose successor did not come takes its name again.
    `of` names a single target, as every writer here does before it begins: a link laid for its
    temporary file goes.
    """
    for leftover in Path(folder).glob(".*.tmp"):
        name = _TEMPORARY.fullmatch(leftover.name)
        if not name or of not in (None, name["target"]) or _is_being_written(leftover, name):
            continue
        target = leftover.with_name(name["target"])
        with suppress(OSError):
            if name["old"] and any(leftover.iterdir()) and not target.exists():
                leftover.rename(target)
            else:
                remove(leftover)


def remove(path: Path) -> None:
    """Delete a file, a link, or a folder with all that it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of(*paths: Path) -> str:
    """Return the SHA-256 of what some files hold one after the other, 64 hex digits.

    Raises:
        OSError: one is unreadable.
    """
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def plain(value: Any) -> Any:
    """Reduce a value to what safe YAML and JSON hold.

    Args:
        value: None, bool, int, float, str, path, numpy scalar or array, dataclass, mapping, list,
            tuple or set of such. Paths become strings, tuples lists, dataclasses mappings.
    Returns:
        Nested dict, list, str, int, float, bool and None.
    Raises:
        TypeError: anything else.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    for base in (bool, int, float, str):
        if isinstance(value, base):
            return base(value)
    raise TypeError(f"{type(value).__name__} cannot be stored in a configuration or report")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value


def _temporary_name(path: Path) -> Path:
    # Beside the target, so that the move stays within one file system; hidden, so that no listing
    # of cases or predictions takes it for one; its suffix is what `remove_leftovers` looks for.
    return path.with_name(f".{path.name}.{_writer()}.tmp")


def _writer() -> str:
    """Return what tells this process from those of all machines that share a disk."""
    return f"{os.getpid()}-{_this_host()}"


@functools.cache
def _this_host() -> str:
    # Of one length, however long the name is: a file's name may have 255 bytes.
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_being_written(leftover: Path, name: re.Match) -> bool:
    if name["host"] not in (None, _this_host()):
        with suppress(OSError):
            return time.time() - leftover.lstat().st_mtime < _ABANDONED_S
        return True
    return _runs_elsewhere(int(name["pid"]))


def _runs_elsewhere(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _put_in_place(folder: Path, target: Path) -> None:
    """Give a folder the name of another, which is then removed or bears the first one's name."""
    if not target.exists():
        os.rename(folder, target)
    elif not _exchange(folder, target):
        old = target.with_name(f".{target.name}.{_writer()}.old.tmp")
        remove(old)
        os.rename(target, old)
        try:
            os.rename(folder, target)
        except OSError:
            os.rename(old, target)
            raise
        with suppress(OSError):
            remove(old)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; return whether system and file system could."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    names = _HERE, os.fsencode(first), _HERE, os.fsencode(second)
    return renameat2 is not None and renameat2(*names, _EXCHANGE) == 0
