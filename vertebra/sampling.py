"""Training patches: which vertebra, where the window lies, what is remembered, what is changed.

Axis order (Z, Y, X). `TrainingSampler` draws any patch by its number alone, so that training
resumes anywhere [V23]; `tests/vertebra_sampler.py` repeats the released code draw by draw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.ndimage import find_objects

from common.data.prepared_store import PreparedCase
from common.data.rng import rng_for
from common.errors import DataError
from vertebra.augmentation import (
    blur,
    deform,
    displacement_fields,
    stretch_linear,
    stretch_nearest,
)
from vertebra.config import Config
from vertebra.weighting import weight_map
from vertebra.windows import cut

TRAINING, VALIDATION, CALIBRATION = range(3)
"""Keys of the random streams."""


class Patch(NamedTuple):
    """One training example, (Z, Y, X) each."""

    image: np.ndarray
    memory: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    complete: bool


class Window(NamedTuple):
    """Where a patch is cut out; it may reach outside of the volume."""

    low: tuple[int, int, int]
    high: tuple[int, int, int]


def place_window(centre: Sequence[int], shape: Sequence[int], config: Config) -> Window:
    """Return the window around a voxel, moved inwards where it would leave the volume.

    "per_axis": a volume smaller than the patch lies in the middle of it. "x_size": every axis ends
    where x does [V7]: patches never reach above that in z, and are cut off or start below 0
    elsewhere. Source: data/dataset.py, force_inside_img.
    """
    edge = config.patch_size
    low = []
    for c, size in zip(centre, shape, strict=True):
        start = int(c) - edge // 2
        if config.window_limits == "x_size":  # [V7]
            start = 0 if start < 0 else min(start, shape[2] - edge)
        elif size <= edge:
            start = -((edge - size) // 2)
        else:
            start = min(max(start, 0), size - edge)
        low.append(start)
    return Window(tuple(low), tuple(start + edge for start in low))


def cut_example(
    arrays: Mapping[str, np.ndarray], label: int | None, window: Window, config: Config
) -> Patch:
    """Cut a patch with its memory and target, float32 and uint8; `complete` is False until known.

    `label` is the vertebra to be found; None: all are in the memory and nothing is [V29]. `weights`
    [V26] says where the weights come from.
    """
    image, labels = cut(arrays["image"], *window, np.float32), cut(arrays["label"], *window)
    if label is None:
        memory = (labels > 0).astype(np.uint8)
        return Patch(image, memory, np.zeros_like(memory), np.ones_like(image), False)
    memory, target = (labels > label).astype(np.uint8), (labels == label).astype(np.uint8)
    if config.weights == "target":
        weight = weight_map(target, config)
    else:
        weight = cut(arrays["weight"], *window)
    return Patch(image, memory, target, np.maximum(weight, config.weight_alpha), False)


class Changes(NamedTuple):
    """What is done to a patch: each with probability one half."""

    elastic: bool
    blur: bool
    noise: bool
    crop: bool


def change_patch(
    patch: Patch, changes: Changes, rng: np.random.Generator, config: Config
) -> tuple[Patch, slice]:
    """Deform, blur, add noise, crop and stretch a patch, in the original's order.

    Returns the patch, and the slices of the uncropped one that it shows.
    """
    edge = patch.image.shape[0]
    image, memory, target, weight = patch[:4]
    if changes.elastic:
        fields = displacement_fields(
            rng, image.shape, alpha=config.elastic_alpha, sigma=config.elastic_sigma
        )
        dtype = memory.dtype
        image, memory, target, weight = deform((image, memory, target, weight), fields)
        # Halves are foreground, as in the original.
        memory, target = (memory >= 0.5).astype(dtype), (target >= 0.5).astype(dtype)
    if changes.blur:
        # Whole numbers are cut after each axis only where the code's way is asked for [V27].
        image = blur(np.rint(image).astype(np.int16) if config.integer_blur else image, config)
        image = image.astype(np.float32)
    if changes.noise:
        image = image + rng.standard_normal(image.shape, np.float32) * config.noise_sigma
    shown = slice(0, edge)
    if changes.crop:
        start = int(rng.integers(0, edge - config.crop_slices))
        shown = slice(start, start + config.crop_slices)
        image, weight = (stretch_linear(a[shown], edge) for a in (image, weight))
        memory, target = (stretch_nearest(a[shown], edge) for a in (memory, target))
    image, weight = np.asarray(image, np.float32), np.asarray(weight, np.float32)
    return Patch(image, memory, target, weight, patch.complete), shown


def is_complete(visible: int, total: int, config: Config) -> bool:
    """Say whether enough of a vertebra is visible; Source: data/dataset.py."""
    return visible / (total + 1e-4) >= config.complete_fraction


class TrainingSampler:
    """Draws any training patch by its number; the same number gives the same patch.

    One patch is one case, drawn at random with replacement, and one of its vertebrae; the centre is
    uniform over the vertebra's bounding box. All draws are keyed by (seed, number) [V23].
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        config: Config,
        *,
        seed: int,
        augment: bool = True,
        stream: int = TRAINING,
    ):
        """Look at the vertebrae of prepared cases with the arrays image, label, weight.

        `seed` and `stream` are keys of every draw, `augment` asks for the four changes. Raises
        `DataError` where there are no cases, or one has no vertebra.
        """
        if not cases:
            raise DataError("there are no cases to draw patches from; expected at least one")
        self.cases, self.config, self.seed = list(cases), config, seed
        self.augment, self.stream = augment, stream
        self.vertebrae = [find_vertebrae(case) for case in self.cases]

    def draw(self, index: int) -> Patch:
        """Return patch number `index` of the run, counted from 0."""
        config, rng = self.config, rng_for(self.seed, self.stream, int(index))
        number = int(rng.integers(len(self.cases)))
        arrays = self.cases[number].arrays
        label, centre, total = self._choose(number, index, rng)
        window = place_window(centre, arrays["label"].shape, config)
        self._refuse_cut_window(window, number)
        patch = cut_example(arrays, label, window, config)
        before, shown = patch.target, slice(None)
        if self.augment:
            patch, shown = change_patch(patch, Changes(*(rng.random(4) > 0.5)), rng, config)
        # [V8] After the stretch a vertebra has up to 1.6 times its voxels.
        counted = before[shown] if config.count_before_stretch else patch.target
        complete = label is not None and is_complete(int(counted.sum()), total, config)
        return patch._replace(complete=complete)

    def _choose(self, number: int, index: int, rng) -> tuple[int | None, np.ndarray, int]:
        """Return the vertebra to be found or None, the window's centre, the vertebra's voxels."""
        if (index + 1) % self.config.empty_every == 0:  # [V29]
            shape = self.cases[number].arrays["label"].shape
            return None, rng.integers(0, shape), 0
        vertebrae = self.vertebrae[number]
        label = sorted(vertebrae)[int(rng.integers(len(vertebrae)))]
        low, high, total = vertebrae[label]
        return label, rng.integers(low, np.add(high, 1)), total

    def _refuse_cut_window(self, window: Window, number: int) -> None:
        """Say what the released code runs into where its windows leave a volume [V7]."""
        shape = self.cases[number].arrays["label"].shape
        if self.config.window_limits == "x_size" and any(
            low < 0 or high > size for low, high, size in zip(*window, shape, strict=True)
        ):
            raise DataError(
                f"case {self.cases[number].id} of {shape} voxels: with --window_limits x_size a"
                f" patch from {window.low} to {window.high} leaves it, which the network cannot"
                " take; expected x no larger than y and z, or --window_limits per_axis"
            )

    def __call__(self, index: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return patch number `index` as the network takes it: inputs and targets.

        Image and memory (Z, Y, X, 2) float32; {"mask": (Z, Y, X, 2) float32, target and weight,
        "completeness": (1,) float32}.
        """
        patch = self.draw(index)
        inputs = np.stack([patch.image, patch.memory.astype(np.float32)], axis=-1)
        mask = np.stack([patch.target.astype(np.float32), patch.weight], axis=-1)
        return inputs, {"mask": mask, "completeness": np.array([patch.complete], np.float32)}


def find_vertebrae(case: PreparedCase) -> dict[int, tuple]:
    """Return, per label of a case, its box's lowest and highest voxel (z, y, x) and its voxels."""
    labels = np.asarray(case.arrays["label"])
    counts = np.bincount(labels.ravel())
    found = {}
    for index, box in enumerate(find_objects(labels), start=1):
        if box is not None:
            low, high = [s.start for s in box], [s.stop - 1 for s in box]
            found[index] = (low, high, int(counts[index]))
    if not found:
        raise DataError(f"case {case.id}: no vertebra is labelled; expected labels above 0")
    return found


def without_empty(config: Config) -> Config:
    """Return a configuration that draws no empty patches."""
    return replace(config, empty_every=2**31)
