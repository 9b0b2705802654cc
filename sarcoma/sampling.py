"""Training patches, drawn lazily: which there are, which are used, in what order, how flipped.

Patch p = (slice * rows + r) * columns + c of a stack of slices is cut around voxel (r, c), as the
original numbers them. Only its number exists until it is drawn, so that memory does not grow with
the number of patches [S19].
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from common.data.prepared_store import PreparedCase
from common.data.rng import rng_for
from common.errors import DataError, OptionError
from sarcoma.config import LABEL, MARGIN, PATCH, Config

CENTRE = slice((PATCH - LABEL) // 2, (PATCH + LABEL) // 2)
"""Central half of a patch along an axis."""
POOL = 0
"""Key of the random stream beside the order of the batches."""
ORIGINAL_POOL = 41338
"""Balanced patches of the original."""
AVID = 2.0
"""Deviations above the mean at which a voxel counts as avid [S28]."""


@dataclass(frozen=True)
class Sizes:
    """Input and output of a network, and where they lie around a voxel."""

    input: int
    output: int

    @property
    def input_start(self) -> int:
        """First row of the input relative to the voxel; columns alike."""
        return 1 - self.input // 2

    @property
    def output_start(self) -> int:
        """First row of the labels relative to the voxel."""
        return 1 - self.output // 2


def sizes_of(config: Config) -> Sizes:
    """Return the sizes of the configuration's network; the cascade's output is one voxel."""
    if config.architecture == "dilated":
        return Sizes(config.dilated_input, 8 * ((config.dilated_input - MARGIN) // 8))
    return Sizes(PATCH, LABEL)


def cut(plane: np.ndarray, row: int, column: int, size: int, *, reflect: bool = False):
    """Cut a square (size, size, ...) out of a slice, continued where it reaches outside.

    With zeros, as preprocess.py's SAME padding, or by repeated reflection: after standardisation a
    zero is the slice's mean, not air [S22].
    """
    if reflect:
        rows = reflected(np.arange(row, row + size), plane.shape[0])
        columns = reflected(np.arange(column, column + size), plane.shape[1])
        return plane[rows[:, None], columns]
    out = np.zeros((size, size, *plane.shape[2:]), plane.dtype)
    low = max(row, 0), max(column, 0)
    high = min(row + size, plane.shape[0]), min(column + size, plane.shape[1])
    if low[0] < high[0] and low[1] < high[1]:
        target = out[low[0] - row : high[0] - row, low[1] - column : high[1] - column]
        target[...] = plane[low[0] : high[0], low[1] : high[1]]
    return out


def reflected(index: np.ndarray, size: int) -> np.ndarray:
    """Fold indices back into 0 .. size - 1, as numpy's `reflect` does, however far outside."""
    if size == 1:
        return np.zeros_like(index)
    folded = np.mod(index, 2 * (size - 1))
    return np.where(folded < size, folded, 2 * (size - 1) - folded)


def centre_labels(label: np.ndarray, centre_index: int) -> np.ndarray:
    """Return the class of every patch of a stack, (slices, rows, columns) bool like `label`.

    [S3] Pixel 28 of a patch is the voxel below and to the right, so the last row and column have
    class 0. Source: preprocess.py, `get_patch_labels`.
    """
    shift = centre_index - (PATCH // 2 - 1)
    out = np.zeros_like(label)
    rows, columns = label.shape[1:]
    out[:, : rows - shift, : columns - shift] = label[:, shift:, shift:]
    return out


class Stack:
    """The slices of several patients that patches are cut from, memory-mapped."""

    def __init__(self, cases: Sequence[PreparedCase], config: Config, *, slices: str):
        """Open prepared cases with image, label and window; `slices` is "window" or "all" [S24]."""
        if not cases:
            raise DataError("there are no patients to draw patches from; expected at least one")
        self.config = config
        self.sizes = sizes_of(config)
        self.images, self.labels, planes = [], [], []
        for number, case in enumerate(cases):
            arrays = case.arrays
            start, stop = arrays["window"] if slices == "window" else (0, len(arrays["label"]))
            self.images.append(arrays["image"])
            self.labels.append(arrays["label"])
            planes += [(number, z) for z in range(int(start), int(stop))]
        shapes = {tuple(label.shape[1:]) for label in self.labels}
        if len(shapes) > 1:
            raise DataError(
                f"the patients' slices have different sizes, {sorted(shapes)}; expected one"
            )
        self.planes = np.array(planes)
        """(slices, 2): patient and slice of every plane."""
        self.plane_shape = shapes.pop()

    def __len__(self) -> int:
        """Patches there are: one per pixel of every slice."""
        return len(self.planes) * self.plane_shape[0] * self.plane_shape[1]

    def classes(self) -> np.ndarray:
        """Return the class of every patch, (patches,) bool."""
        stacked = np.stack([self.labels[patient][z] for patient, z in self.planes])
        return centre_labels(stacked > 0, self.config.centre_index).reshape(-1)

    def avid(self) -> np.ndarray:
        """Return which patches are cut around an avid voxel, (patches,) bool [S28]."""
        stacked = [self.images[patient][z][..., -1] > AVID for patient, z in self.planes]
        return np.stack(stacked).reshape(-1)

    def locate(self, patch: int) -> tuple[int, int, int, int]:
        """Return patient, slice, row and column that a patch is cut around."""
        plane, pixel = divmod(int(patch), self.plane_shape[0] * self.plane_shape[1])
        return (*(int(i) for i in self.planes[plane]), *divmod(pixel, self.plane_shape[1]))

    def draw(self, patch: int, *, flips=(False, False)) -> tuple[Any, np.ndarray]:
        """Cut one patch and its target, with `flips` of rows and of columns.

        x and y are as the network takes them: (n, n, C) float32 and (m, m, 1) float32 for the
        U-Net; a pair of patch and centre, and a class int32, for the cascade; (n, n, C) and (m, m)
        int32 for the dilated network.
        """
        patient, z, row, column = self.locate(patch)
        sizes, kind = self.sizes, self.config.architecture
        axes = np.flatnonzero(flips)
        image = cut(
            self.images[patient][z], row + sizes.input_start, column + sizes.input_start,
            sizes.input, reflect=kind == "dilated",
        )  # fmt: skip
        image = np.flip(image, axes)
        if kind == "cascade":
            shift = self.config.centre_index - (PATCH // 2 - 1)
            r, c = row + shift, column + shift
            inside = r < self.plane_shape[0] and c < self.plane_shape[1]
            y = np.int32(inside and self.labels[patient][z, r, c] > 0)
            # A 28-pixel patch with SAME padding is the centre of the 56-pixel one.
            return (image, image[CENTRE, CENTRE]), y
        label = cut(
            self.labels[patient][z], row + sizes.output_start, column + sizes.output_start,
            sizes.output,
        )  # fmt: skip
        if self.config.flip_labels:  # [S1] Keras' generator leaves the labels as they were.
            label = np.flip(label, axes)
        if kind == "dilated":
            return image, label.astype(np.int32)
        return image, label[..., None].astype(np.float32)


def make_pool(stack: Stack, config: Config, *, seed: int = 1) -> np.ndarray:
    """Choose the patches that are used, shuffled; `seed` is the original's constant.

    The original's own step is lost; the counts it printed are those of this rule [S25]: all around
    lesion voxels and as many others, or every patch. Raises `DataError` where no patch is around a
    lesion voxel, `OptionError` where avid_share is no share.
    """
    if not 0 <= config.avid_share <= 1:
        raise OptionError(f"avid_share: found {config.avid_share}; expected 0 to 1")
    rng = rng_for(seed, POOL)
    if not config.balance:
        return rng.permutation(len(stack))
    classes = stack.classes()
    positive = np.flatnonzero(classes)
    if not positive.size:
        raise DataError("no patch is around a lesion voxel; expected labels with a lesion")
    chosen, left = [], positive.size
    if config.avid_share:  # [S28]
        avid = np.flatnonzero(stack.avid() & ~classes)
        chosen.append(draw_some(avid, round(config.avid_share * positive.size), rng))
        left -= chosen[0].size
    chosen.append(draw_some(np.flatnonzero(~classes), left, rng))
    return rng.permutation(np.concatenate([positive, *chosen]))


def draw_some(candidates: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Return so many of the candidates, none twice; all where there are fewer."""
    count = min(wanted, candidates.size)
    return candidates[rng.choice(candidates.size, count, replace=False, shuffle=False)]


def split_pool(pool: np.ndarray, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Part a shuffled pool as train.py does, by place [S2]: patches to train on, and the rest.

    Neighbours one pixel apart then lie on both sides: what is measured on the second part says
    little about a new patient. A pool smaller than the original's is parted by the same share.
    """
    index = config.split_index
    if len(pool) <= index:
        index = len(pool) * index // max(ORIGINAL_POOL, index + 1)
    return pool[:index], pool[index:]


@lru_cache(maxsize=4)
def epoch_order(seed: int, first_batch: int, count: int) -> np.ndarray:
    """The order of an epoch as Keras' generator draws it at its first batch."""
    return np.random.RandomState((seed + first_batch) % 2**32).permutation(count)


@lru_cache(maxsize=64)
def draw_flips(seed: int, batch: int, at_start: int, size: int) -> np.ndarray:
    """Which patches of a batch are flipped, (size, 2) bool: rows, columns.

    `at_start` counts the patches of an epoch whose first batch it is, since its order is drawn
    before. Source: Keras 2.1.6 preprocessing/image.py; columns are drawn before rows.
    """
    random = np.random.RandomState((seed + batch) % 2**32)
    if at_start:
        random.permutation(at_start)
    columns_then_rows = random.random_sample((size, 2)) < 0.5
    return columns_then_rows[:, ::-1]


class PatchSampler:
    """Draws any example of the run by its number; the same number gives the same patch.

    Order and flips are those of the generator of Keras 2 with a seed, batch by batch. Its `fit`,
    which the original calls before, makes two more copies of the data to no effect [S18].
    """

    def __init__(self, stack: Stack, pool: np.ndarray, config: Config, *, seed: int):
        """Take the patch numbers to draw from, at least one batch of them."""
        if len(pool) < config.batch_size:
            raise DataError(
                f"found {len(pool)} patches to train on; expected at least a batch of "
                f"{config.batch_size}"
            )
        self.stack, self.pool, self.config, self.seed = stack, pool, config, seed
        self.batches = len(pool) // config.batch_size
        """Of an epoch; a remainder waits for another order."""

    def __call__(self, example: int) -> tuple[Any, np.ndarray]:
        """Return x and y of example number `example`, as `Stack.draw`."""
        patch, flips = self.locate(int(example))
        return self.stack.draw(patch, flips=flips)

    def locate(self, example: int) -> tuple[int, np.ndarray]:
        """Return the patch number of an example and whether rows and columns are flipped."""
        size = self.config.batch_size
        batch, place = divmod(example, size)
        within = batch % self.batches
        order = epoch_order(self.seed, batch - within, len(self.pool))
        patch = int(self.pool[order[within * size + place]])
        if not self.config.augment:
            return patch, np.zeros(2, bool)
        at_start = 0 if within else len(self.pool)
        return patch, draw_flips(self.seed, batch, at_start, size)[place]


def stack_examples(examples: Sequence[tuple]) -> tuple:
    """Join examples of `Stack.draw` to a batch of inputs and targets."""
    inputs, targets = zip(*examples, strict=True)
    if isinstance(inputs[0], tuple):
        return [np.stack(parts) for parts in zip(*inputs, strict=True)], np.stack(targets)
    return np.stack(inputs), np.stack(targets)
