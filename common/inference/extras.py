"""What people expect at prediction and no paper has: flips, ensembles, entropy, clean-up.

All of it is off by default. It works on what a paper's own inference gives for a whole scan, or for
a window where a paper goes from window to window; the paper's rule makes labels of mean
probabilities as it does of a single network's.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import OptionError
from common.files import remove, write_json

RECORD = "extras.json"
"""In a folder of predictions: with which of these they were made; absent where with none."""


@dataclass(frozen=True)
class Extras:
    """What is done at prediction beyond the papers."""

    flips: tuple[str, ...] = ()
    """Take the mean over flips of the scan along these axes, x,y, and their combinations."""
    ensemble: tuple[str, ...] = ()
    """Further runs whose probabilities are averaged with the first one's: --run A --run B."""
    entropy: bool = False
    """Write <scan>_entropy beside the labels: bits of doubt between the classes in each voxel."""
    largest_component: bool = False
    """Keep the largest connected part of each label."""
    min_component_ml: float = 0.0
    """Remove connected parts that are smaller."""

    @property
    def averages(self) -> bool:
        """Whether probabilities are averaged."""
        return bool(self.flips or self.ensemble)

    @property
    def cleans(self) -> bool:
        """Whether labels are cleaned up."""
        return self.largest_component or self.min_component_ml > 0

    @property
    def needs_probabilities(self) -> bool:
        """Whether labels alone do not suffice."""
        return self.averages or self.entropy

    def record(self, out: Path) -> None:
        """Write into a folder of predictions what is on, or remove what another time wrote."""
        if self == NONE:
            remove(out / RECORD)
        else:
            write_json(out / RECORD, asdict(self))


NONE = Extras()


def as_exported(extras: Extras, passport: Mapping[str, Any]) -> Extras:
    """Return options with what an exported model was exported with and its graph leaves undone;
    a clean-up that is asked for counts instead of the model's."""
    own = passport.get("extras", {})
    if not extras.cleans:
        names = ("largest_component", "min_component_ml")
        extras = replace(extras, **{name: own[name] for name in names if name in own})
    return replace(extras, entropy=extras.entropy or own.get("entropy", False))


def axes_of(extras: Extras, order: str) -> tuple[int, ...]:
    """Return the axes of arrays in an order such as "zyx" along which is flipped; a blank in the
    order is an axis that means nothing to the network.

    Raises:
        OptionError: there is no such axis, or it means nothing to the network.
    """
    unknown = sorted({*extras.flips} - {*order})
    if unknown:
        known = ", ".join(sorted(set(order) - {" "}))
        raise OptionError(f"--flips: found {unknown[0]}; expected some of {known}")
    return tuple(order.index(name) for name in sorted({*extras.flips}))


def flips_along(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the axes of every flip: none, each axis alone, and all of them together."""
    return list(chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1)))


def averaged(
    functions: Sequence[Callable[..., Mapping[str, Any]]], axes: Sequence[int]
) -> Callable[..., dict[str, Any]]:
    """Return a function whose answer is the mean of several ones', each asked for every flip.

    Args:
        functions: arrays with the same first axes, or None -> arrays by name. An array with these
            axes is flipped back; one without, such as a number for the whole, is not.
        axes: along which the arguments are flipped, alone and together.

    Returns:
        A function like them; the means are float32.
    """
    flips = flips_along(axes)

    def run(*arrays: np.ndarray | None) -> dict[str, Any]:
        sums: dict[str, Any] = {}
        for function, flip in product(functions, flips):
            turned = [None if a is None else np.ascontiguousarray(np.flip(a, flip)) for a in arrays]
            for name, found in function(*turned).items():
                whole = np.ndim(found) >= arrays[0].ndim - 1
                back = np.flip(found, flip) if whole else found
                sums[name] = sums.get(name, 0.0) + np.asarray(back, np.float64)
        count = len(flips) * len(functions)
        return {name: (total / count).astype(np.float32) for name, total in sums.items()}

    return run


def only(name: str, function: Callable) -> Callable[..., dict[str, Any]]:
    """Return a function that gives one of another one's arrays."""
    return lambda *arrays: {name: function(*arrays)[name]}


def entropy_of(probabilities: np.ndarray, *, binary: bool) -> np.ndarray:
    """Return the bits of doubt in each voxel, float32: 0 where one class is certain.

    Args:
        probabilities: of each class along the last axis; or, if `binary`, of the foreground.
    """
    p = np.clip(probabilities.astype(np.float64), 0.0, 1.0)
    shares = [p, 1.0 - p] if binary else [p[..., c] for c in range(p.shape[-1])]
    return -sum(share * np.log2(np.maximum(share, 1e-300)) for share in shares).astype(np.float32)


def clean_up(labels: np.ndarray, extras: Extras, spacing_mm: Sequence[float] | None) -> np.ndarray:
    """Return labels without their small parts; parts touch by faces, edges or corners.

    Args:
        labels: three axes, whole numbers, 0 is background.
        spacing_mm: of the voxels; None: not known.

    Raises:
        OptionError: a size in ml is asked for where the spacing is not known.
    """
    if not extras.cleans:
        return labels
    least = 0.0
    if extras.min_component_ml > 0:
        if spacing_mm is None:
            raise OptionError("--min_component_ml: the spacing of the voxels is not known; "
                              "expected --largest_component")  # fmt: skip
        least = extras.min_component_ml * 1000 / float(np.prod(spacing_mm))
    ndimage = importlib.import_module("scipy.ndimage")  # which no help needs
    cleaned = labels.copy()
    for label in np.unique(labels[labels > 0]):
        parts, count = ndimage.label(labels == label, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.reshape(-1), minlength=count + 1)[1:]
        kept = sizes >= least
        if extras.largest_component:
            kept &= np.arange(count) == sizes.argmax()
        cleaned[(parts > 0) & ~np.concatenate([[True], kept])[parts]] = 0
    return cleaned


def check_alike(config: Any, others: Sequence[tuple[Path, Any]], same: Sequence[str]) -> None:
    """Raise `OptionError` for a further run of an ensemble that answers another question.

    Args:
        config: that of the first run.
        others: further runs, each with its configuration.
        same: fields that all must share.
    """
    for run, other in others:
        for name in same:
            found, expected = getattr(other, name), getattr(config, name)
            if found != expected:
                raise OptionError(
                    f"--run {run}: found {name} {found}; expected {expected}, as in the first run"
                )
