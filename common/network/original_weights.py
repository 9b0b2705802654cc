"""Weights of the originals: reading TensorFlow checkpoints, assigning arrays by name."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from common.errors import DataError
from common.files import explain_pattern

Transform = Callable[[np.ndarray], np.ndarray]
Ignored = str | Callable[[str], bool]
LISTED_NAMES = 3


def read_tf_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """Return every tensor of a TensorFlow checkpoint (0.12 to 2.x) by its name.

    Args:
        path: the checkpoint's prefix (`model.ckpt-500`) or one of its files (`.index`, `.data-...`,
            `.meta`), a folder with a `checkpoint` file (its latest one is read) or with a single
            checkpoint, a SavedModel folder, its `saved_model.pb` or its `variables` folder.
    Returns:
        {variable name: array} in the file's own dtypes.
    Raises:
        DataError: there is no checkpoint, or a truncated or damaged one; names the file.
    """
    prefix = find_checkpoint_prefix(Path(path))
    if reason := explain_pattern(prefix, "checkpoint"):
        raise DataError(reason)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        names = sorted(reader.get_variable_to_shape_map())
        return {name: np.asarray(reader.get_tensor(name)) for name in names}
    # The reader answers IndexError for short files and OpError or RuntimeError for all else.
    except (tf.errors.OpError, LookupError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(
            f"{prefix}: no readable TensorFlow checkpoint, or a truncated one ({reason})"
        ) from error


def find_checkpoint_prefix(path: Path) -> Path:
    """Return the prefix that a checkpoint's files share; see `read_tf_checkpoint`."""
    if path.is_dir():
        return _prefix_in_folder(path)
    if path.name == "saved_model.pb":
        return _prefix_in_folder(path.parent)
    for ending in (".index", ".data-", ".meta"):
        stem, found, _ = path.name.rpartition(ending)
        if found and stem:
            path = path.with_name(stem)
            break
    # A file without ending may be the older one-file format; reading it decides.
    if not path.with_name(path.name + ".index").is_file() and not path.is_file():
        raise DataError(f"{path}: no checkpoint found there (expected {path.name}.index beside it)")
    return path


def assign_by_name(
    tensors: Mapping[str, np.ndarray],
    targets: Mapping[str, tuple[Any, Transform | None]],
    *,
    ignored: Iterable[Ignored] = (),
    source: str = "the checkpoint",
) -> list[str]:
    """Assign arrays to Keras variables by name; all fit, or nothing is assigned.

    Args:
        tensors: {original name: array}.
        targets: {original name: (Keras variable, transform)}; a transform makes the variable's
            value out of the array, None takes the array as it is.
        ignored: patterns (`*/Momentum`) or predicates of the names that may be left over.
        source: what an error message calls the file.
    Returns:
        Names of the ignored tensors, sorted.
    Raises:
        DataError: a target is missing or has another shape, or a tensor is left over; one line that
            names the first differing variable with both shapes, and counts the others.
    """
    ignored = tuple(ignored)
    others = sorted(set(tensors) - set(targets))
    left = [name for name in others
            if any(p(name) if callable(p) else fnmatchcase(name, p) for p in ignored)]  # fmt: skip
    unmatched = [name for name in others if name not in left]
    values, faults = {}, []
    for name, (variable, transform) in targets.items():
        if name not in tensors:
            faults.append(f"{name} of shape {tuple(variable.shape)} is missing")
            continue
        values[name], fault = _fit(tensors[name], variable, transform)
        faults += [f"{name} {fault}"] if fault else []
    if faults or unmatched:
        raise DataError(f"{source} is of another architecture: {_first_of(faults, unmatched)}")
    for name, (variable, _) in targets.items():
        variable.assign(values[name])
    return left


def _prefix_in_folder(folder):
    if (folder / "checkpoint").is_file():
        return _latest_prefix(folder)
    for variables in (folder, folder / "variables"):
        if (variables / "variables.index").is_file():
            return variables / "variables"
    found = sorted(folder.glob("*.index"))
    if len(found) != 1:
        names = ", ".join(file.stem for file in found[:LISTED_NAMES]) or "none"
        raise DataError(
            f"{folder}: expected a `checkpoint` file, a SavedModel or one checkpoint, found {names}"
        )
    return found[0].with_suffix("")


def _latest_prefix(folder):
    try:
        state = tf.train.get_checkpoint_state(str(folder))
    except ValueError:  # not UTF-8; TensorFlow itself passes over what is not its format
        state = None
    if state is None or not state.model_checkpoint_path:
        raise DataError(f"{folder / 'checkpoint'}: expected a line `model_checkpoint_path: ...`")
    named = Path(state.model_checkpoint_path)
    # A folder that was moved may still name its old, absolute place.
    for prefix in (folder / named.name, named):
        if prefix.with_name(prefix.name + ".index").is_file() or prefix.is_file():
            return prefix
    raise DataError(f"{folder / 'checkpoint'}: names {named.name}, which is not there")


def _fit(array, variable, transform):
    """Return the value for a variable, and what forbids assigning it or None."""
    expected = tuple(variable.shape)
    try:
        value = np.asarray(array if transform is None else transform(array))
    # A transform may be unable to handle the shape of another architecture.
    except (ValueError, IndexError):
        return None, f"has shape {np.shape(array)}, which cannot become {expected}"
    if value.shape != expected:
        return None, f"has shape {value.shape}, expected {expected}"
    if value.dtype.kind in "SUO":
        return None, f"holds {value.dtype}, expected numbers"
    return value, None


def _first_of(faults, unmatched):
    """Return the first fault and the names left over, and the counts of the others."""
    parts = []
    if faults:
        parts.append(faults[0] + (f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""))
    if unmatched:
        more = len(unmatched) - LISTED_NAMES
        names = ", ".join(unmatched[:LISTED_NAMES])
        parts.append(f"left over in the file: {names}" + (f" and {more} more" if more > 0 else ""))
    return "; ".join(parts)
