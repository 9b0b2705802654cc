"""Training patches: class-balanced centres, flips, an intensity offset, and their order.

Axis order (Z, Y, X). `TrainingSampler` draws any patch by its number and touches no more of a
volume than the patch and one slice of labels. Its distribution is that of the original's reader,
which the tests repeat to the bit (`tests/fetal_brain_reader.py`).
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.prepared_store import PreparedCase
from common.data.rng import rng_for
from common.errors import DataError, OptionError
from fetal_brain.config import Config

TRAINING, VALIDATION = range(2)
ORDER, CENTRES, AUGMENTATION, SHUFFLE = range(4)
"""Keys of the random streams, so that no two decisions share their draws."""
BLOCK = 4096
"""Examples whose place in the shuffle buffer is drawn together."""


def patches_per_class(
    n_examples: int, n_classes: int, class_weights: Sequence[float] | None = None
) -> list[int]:
    """Return how many patches each class is the centre of; halves are rounded to even.

    Source: DLTK augmentation.py, extract_class_balanced_example_array.
    """
    weights = np.ones(n_classes) if class_weights is None else np.asarray(class_weights, float)
    return [int(count) for count in np.round(weights / weights.sum() * n_examples)]


def corner_of(centre: Any, shape: Sequence[int], edges: Sequence[int]) -> np.ndarray:
    """Return the low corners of patches around voxels (..., ndim), moved inwards to fit the volume.

    An even patch reaches one voxel further down than up: its centre is at `edge // 2`.
    """
    below = np.asarray(edges) // 2
    return np.clip(np.asarray(centre) - below, 0, np.asarray(shape) - np.asarray(edges))


def cut(array: np.ndarray, corner: Sequence[int], edges: Sequence[int]) -> np.ndarray:
    """Return the patch of an array with a given low corner; further axes are kept whole."""
    return array[tuple(slice(low, low + edge) for low, edge in zip(corner, edges, strict=True))]


def add_offset(image: np.ndarray, offset: Any) -> np.ndarray:
    """Return a float32 image plus an offset, summed in float64 as the original does."""
    return np.add(image, offset, dtype=np.float64).astype(np.float32)


def count_classes(label: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the voxels of every class in every slice of a label (Z, Y, X), (classes, Z) int64.

    With it a random voxel of a class is found by looking at one slice alone [F25].
    """
    counts = [np.bincount(plane.ravel(), minlength=n_classes) for plane in label]
    return np.stack(counts, axis=1).astype(np.int64)


def find_voxel(label: np.ndarray, slice_counts: np.ndarray, class_: int, rank: int) -> list[int]:
    """Return the index of voxel `rank` of a class in C order; reads one slice of the label."""
    ends = np.cumsum(slice_counts[class_])
    z = int(np.searchsorted(ends, rank, side="right"))
    within = rank - int(ends[z] - slice_counts[class_, z])
    position = np.flatnonzero(np.asarray(label[z]).ravel() == class_)[within]
    return [z, *divmod(int(position), label.shape[2])]


@dataclass(frozen=True)
class Source:
    """Where a patch comes from."""

    chunk: int
    """Stretch between two evaluations if the order restarts there [F14], else 0."""
    pass_: int
    """How often every volume of the chunk was used before."""
    case: int
    """Position in the list of cases."""
    class_: int
    """Class of the voxel the patch is drawn around."""
    number: int
    """Which of the patches of this class, volume and pass."""


class ShuffleBuffer:
    """The order in which a shuffle buffer hands on an endless stream, for any place in it.

    As `tf.data.Dataset.shuffle`: the buffer holds the next `window` elements, one of them is taken
    at random and its place refilled. The order depends on the seed alone, not on who asks when.
    """

    def __init__(self, window: int, rng: np.random.Generator):
        self.window = window
        self.rng = rng
        self.buffer = list(range(window))
        self.blocks: list[np.ndarray] = []
        self.lock = threading.Lock()

    def __getitem__(self, place: int) -> int:
        """Return the number, in the stream, of the element that leaves the buffer at `place`."""
        block, within = divmod(place, BLOCK)
        if block >= len(self.blocks):
            with self.lock:
                while block >= len(self.blocks):
                    self._extend()
        return int(self.blocks[block][within])

    def _extend(self) -> None:
        first = len(self.blocks) * BLOCK + self.window
        out = np.empty(BLOCK, np.int64)
        for index, slot in enumerate(self.rng.integers(0, self.window, BLOCK).tolist()):
            out[index] = self.buffer[slot]
            self.buffer[slot] = first + index
        self.blocks.append(out)


class TrainingSampler:
    """Draws any training patch by its number; the same number gives the same patch.

    The order is the original's: `patches_per_volume` from each volume in turn, the first class
    before the next, through a shuffle buffer. All draws are keyed by (seed, place), so that
    training resumes anywhere.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        config: Config,
        *,
        seed: int,
        augment: bool = True,
        stream: tuple[int, ...] = (TRAINING,),
    ):
        """Look at the class counts of the cases; `stream` is a further key of the draws.

        Raises:
            DataError: there are no cases, or one is smaller than the patch.
            OptionError: a sampling field of the configuration is too small.
        """
        wanted = check_sampling(cases, config)
        self.cases = list(cases)
        self.config = config
        self.seed = seed
        self.augment = augment
        self.stream = stream
        self.slice_counts = [np.array(case.arrays["slice_counts"]) for case in self.cases]
        # [F9] A class with too few voxels gives fewer patches; the original stopped training.
        voxels = np.array([counts.sum(axis=1) for counts in self.slice_counts])
        self.patches = np.minimum(voxels, wanted)
        self.examples_per_chunk = None
        if config.restart_order_every_evaluation:  # [F14]
            self.examples_per_chunk = config.steps_per_evaluation * config.batch_size
        self.buffers: dict[int, ShuffleBuffer] = {}

    def __call__(self, example_index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return patch number `example_index` of the run.

        Returns:
            image (*patch_shape, 1) float32 and label patch_shape int32; with `slices_as_channels`
            image (1, Y, X, slices) and label (1, Y, X) of the middle slice [F26].
        """
        source = self.locate(int(example_index))
        case = self.cases[source.case]
        label, edges = case.arrays["label"], self.config.patch_shape
        offset, flips = self._augmentation(source)

        centre = np.array(self._centre(source, label))
        mirrored = np.where(flips, np.array(label.shape) - 1 - centre, centre)
        corner = corner_of(mirrored, label.shape, edges)
        # Back from the flipped volume: an even patch is not symmetric about its centre.
        corner = np.where(flips, np.array(label.shape) - edges - corner, corner)
        axes = np.flatnonzero(flips)
        image = np.flip(cut(case.arrays["image"], corner, edges), axes)
        label = np.flip(cut(label, corner, edges), axes).astype(np.int32)
        image = add_offset(image, offset)
        if self.config.slices_as_channels:
            middle = edges[0] // 2
            return np.moveaxis(image[..., 0], 0, -1)[np.newaxis], label[middle : middle + 1]
        return image, label

    def locate(self, example_index: int) -> Source:
        """Return where patch number `example_index` of the run comes from; no image is read."""
        chunk, place = 0, example_index
        if self.examples_per_chunk:
            chunk, place = divmod(example_index, self.examples_per_chunk)
        pass_, place = divmod(self._buffer(chunk)[place], int(self.patches.sum()))
        order = np.arange(len(self.cases))
        if self.config.shuffle_files:  # [F14]
            order = self._rng(ORDER, chunk, pass_).permutation(order)
        ends = np.cumsum(self.patches[order])  # classes of a volume follow each other
        slot = int(np.searchsorted(ends, place, side="right"))
        case, class_ = divmod(slot, self.patches.shape[1])
        case = int(order[case])
        number = place - int(ends[slot] - self.patches[case, class_])
        return Source(chunk=chunk, pass_=pass_, case=case, class_=class_, number=number)

    def _centre(self, source: Source, label: np.ndarray) -> list[int]:
        """Return the voxel a patch is drawn around: within a pass no voxel is used twice."""
        counts = self.slice_counts[source.case]
        rng = self._rng(CENTRES, source.chunk, source.pass_, source.case, source.class_)
        wanted = int(self.patches[source.case, source.class_])
        ranks = rng.choice(int(counts[source.class_].sum()), size=wanted, replace=False)
        return find_voxel(label, counts, source.class_, int(ranks[source.number]))

    def _augmentation(self, source: Source) -> tuple[float, np.ndarray]:
        """Return intensity offset and flipped axes of a patch."""
        if not self.augment:
            return 0.0, np.zeros(3, bool)
        key = (source.chunk, source.pass_, source.case)
        if self.config.augment_per_example:  # [F15]
            key = (*key, source.class_, source.number)
        rng = self._rng(AUGMENTATION, *key)
        return rng.normal(0, self.config.offset_sigma), rng.random(3) > 0.5

    def _buffer(self, chunk: int) -> ShuffleBuffer:
        if chunk not in self.buffers:
            buffer = ShuffleBuffer(self.config.shuffle_window, self._rng(SHUFFLE, chunk))
            self.buffers.setdefault(chunk, buffer)  # two threads may both come here
        return self.buffers[chunk]

    def _rng(self, *key: int) -> np.random.Generator:
        return rng_for(self.seed, *self.stream, *key)


def check_sampling(cases: Sequence[PreparedCase], config: Config) -> list[int]:
    """Refuse what no patch can be drawn from; return the patches wanted of each class."""
    n_classes = len(config.label_ids)
    wanted = patches_per_class(config.patches_per_volume, n_classes)
    if min(wanted) < 1:
        raise OptionError(
            f"patches_per_volume: found {config.patches_per_volume}; expected at least one for"
            f" each of {n_classes} classes"
        )
    if config.shuffle_window < 1:
        raise OptionError(f"shuffle_window: found {config.shuffle_window}; expected 1 or more")
    if config.offset_sigma < 0:
        raise OptionError(f"offset_sigma: found {config.offset_sigma}; expected 0 or more")
    if not cases:
        raise DataError("there are no cases to draw patches from; expected at least one")
    for case in cases:
        shape = case.arrays["label"].shape
        if np.any(np.less(shape, config.patch_shape)):
            raise DataError(
                f"case {case.id}: found {shape} slices, rows, columns; expected at least the patch,"
                f" {config.patch_shape}"
            )
    return wanted


def draw_validation_batch(
    cases: Sequence[PreparedCase], config: Config, seed: int, evaluation: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the one batch the code validates on: patches of the first volumes, no augmentation.

    Each evaluation has patches of its own. Source: train.py (evaluation of one batch from the start
    of the reader); ledger F20.
    """
    stream = (VALIDATION, evaluation)
    sampler = TrainingSampler(cases, config, seed=seed, augment=False, stream=stream)
    images, labels = zip(*map(sampler, range(config.batch_size)), strict=True)
    return np.stack(images), np.stack(labels)
