"""The released sampler, draw by draw: the oracle of `sampling` and `augmentation`.

It reads Python's unseeded `random` and numpy's global generator in turn, and a third one for the
deformation [V23]; here all three are arguments. Training does not use it.
"""

import random as python_random
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from vertebra.augmentation import blur, stretch_linear, stretch_nearest
from vertebra.config import CODE
from vertebra.sampling import Changes, is_complete, place_window
from vertebra.study.sides import deform_originally

KEPT = CODE.crop_slices


class OriginalPatch(NamedTuple):
    """What the released data set returns, and what was drawn on the way."""

    image: np.ndarray
    memory: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    complete: bool
    chosen: int
    centre: tuple[int, int, int]
    window: tuple
    changes: Changes
    crop_start: int


def extract_patch(
    arrays: Mapping[str, np.ndarray],
    index: int,
    *,
    choose: python_random.Random,
    numbers: np.random.RandomState,
    elastic: np.random.RandomState | None,
) -> OriginalPatch:
    """Draw sample number `index`, from 1, exactly as the released code does.

    `choose` is Python's generator (vertebra, centre, start of the crop), `numbers` numpy's global
    one (centre of empty samples, changes, noise), `elastic` that of the deformation; None: the test
    subset, nothing is changed. Source: data/dataset.py, extract_random_patch;
    data/data_augmentation.py.
    """
    labels = arrays["label"]
    values = np.unique(labels)
    chosen = int(values[choose.randint(1, len(values) - 1)])
    empty = index % CODE.empty_every == 0
    if empty:
        centre = tuple(int(numbers.randint(0, size)) for size in labels.shape)
    else:
        # x is drawn first, z last.
        inside = [np.flatnonzero((labels == chosen).any(axis=other))
                  for other in ((1, 2), (0, 2), (0, 1))]  # fmt: skip
        x, y, z = (choose.randint(int(line[0]), int(line[-1])) for line in inside[::-1])
        centre = (z, y, x)
    window = place_window(centre, labels.shape, CODE)
    box = tuple(slice(low, high) for low, high in zip(*window, strict=True))
    image, labels_cut, weight = (arrays[name][box] for name in ("image", "label", "weight"))
    dtype = labels.dtype
    memory, target = (labels_cut > chosen).astype(dtype), (labels_cut == chosen).astype(dtype)
    whole = np.count_nonzero(labels == (1 if empty else chosen))
    if empty:
        memory, target = (labels_cut > 0).astype(dtype), np.zeros_like(target)
        weight = np.ones_like(target)
    patch, changes, start = (image, memory, target, weight), Changes(*[False] * 4), -1
    if elastic is not None:
        patch, changes, start = change(patch, choose=choose, numbers=numbers, elastic=elastic)
    complete = not empty and is_complete(int((patch[2] == 1).sum()), whole, CODE)
    return OriginalPatch(*patch, complete, chosen, centre, window, changes, start)


def change(patch, *, choose, numbers, elastic):
    """Deform, blur, add noise and crop, each if the next number says so."""
    image, memory, target, weight = patch
    start = -1
    if deformed := numbers.rand() > 0.5:
        image, target, memory, weight = deform_originally(
            (image, target, memory, weight), random=elastic, alpha=CODE.elastic_alpha
        )
    if blurred := numbers.rand() > 0.5:
        image = blur(image, CODE)
    if noisy := numbers.rand() > 0.5:
        image = add_noise(image, numbers)
    if cropped := numbers.rand() > 0.5:
        start = choose.randint(0, len(image) - KEPT - 1)
        image, memory, target, weight = crop_z_originally((image, memory, target, weight), start)
    return (image, memory, target, weight), Changes(deformed, blurred, noisy, cropped), start


def add_noise(image: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """Add noise of 15.8 (50 times the root of 0.1); the result is float64."""
    return image + 50 * random.normal(0, 0.1**0.5, image.shape)


def crop_z_originally(arrays, start: int):
    """Keep 80 slices and stretch them to the former number: image, memory, target, weight."""
    size = len(arrays[0])
    image, memory, target, weight = (array[start : start + KEPT] for array in arrays)
    memory, target = stretch_nearest(memory, size), stretch_nearest(target, size)
    return stretch_linear(image, size), memory, target, stretch_linear(weight, size)
