"""Segments on their way to the optimiser: drawn a subepoch ahead, handed out by number.

As in the engine some cases of a subepoch are prepared, augmented and cut one after the other, and
all segments shuffled. Every draw is keyed by (seed, subepoch, ...), so that training begins at any
step and is repeatable [G18]; the next subepoch is cut while this one is trained on.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import tensorflow as tf

from common.data.batches import make_batches
from common.data.rng import rng_for
from common.errors import DataError
from dhcp_fetal import geometry
from dhcp_fetal.augmentation import augment_case
from dhcp_fetal.config import Config
from dhcp_fetal.data import Case, load_case, prepare_case
from dhcp_fetal.geometry import Triple
from dhcp_fetal.sampling import (
    count_categories,
    cut_samples,
    draw_case_centres,
    make_arrays,
    pad_training_case,
    share_subepoch,
)
from dhcp_fetal.session import CaseFiles

TRAINING, VALIDATION = range(2)
PLAN, IMAGE, CENTRES, SEGMENT, ORDER = range(5)
"""Keys of the random streams, so that no two decisions share their draws."""
CACHE_BYTES = 2 << 30


@dataclass(frozen=True)
class Way:
    """How samples are drawn: for training, or for validation."""

    stream: int
    """TRAINING, which augments, or VALIDATION."""
    segment: Triple
    samples: int
    """Per subepoch."""
    kind: str
    proportions: tuple[float, ...] | None


def training_way(config: Config) -> Way:
    """Return how training segments are drawn."""
    return Way(TRAINING, config.train_segment, config.segments_per_subepoch, config.sampling,
               config.sampling_proportions)  # fmt: skip


def validation_way(config: Config) -> Way:
    """Return how validation segments are drawn."""
    return Way(VALIDATION, config.validation_segment, config.validation_segments_per_subepoch,
               config.validation_sampling, config.validation_proportions)  # fmt: skip


class CaseCache:
    """Prepared cases, read once and kept while they fit into memory."""

    def __init__(self, cases: Sequence[CaseFiles], config: Config, *, check_labels: bool = True):
        self.cases = list(cases)
        self.config = config
        self.check_labels = check_labels
        self._held: OrderedDict[tuple[int, Triple], Case] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, index: int, segment: Triple) -> Case:
        """Return a case padded for segments of a size."""
        with self._lock:
            key = (index, segment)
            if key not in self._held:
                files = self.cases[index]
                case = load_case(files, self.config, check_labels=self.check_labels)
                if case.labels is None:
                    raise DataError(f"case {case.name} has no labels, expected some to train with")
                self._held[key] = pad_training_case(
                    case, prepare_case(case, self.config), self.config, segment
                )
                while len(self._held) > 1 and _bytes_of(self._held.values()) > CACHE_BYTES:
                    self._held.popitem(last=False)
            self._held.move_to_end(key)
            return self._held[key]


class SegmentSource:
    """Draws any segment of a run by its number; the same number gives the same segment."""

    def __init__(
        self, cache: CaseCache, way: Way, *, seed: int, batch_size: int,
        subepochs: int | None = None,
    ):  # fmt: skip
        """Prepare to draw; nothing is read yet, nor cut ahead beyond the run's last subepoch.

        [D2] Segments beyond the last whole batch of a subepoch are dropped.
        """
        self.cache = cache
        self.config = cache.config
        self.way = way
        self.seed = seed
        self.subepochs = subepochs
        self.per_subepoch = way.samples // batch_size * batch_size
        self.waited_s = 0.0
        """Time the optimiser's side stood waiting for a subepoch, the first one not counted."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="sampling")
        self._ahead: dict[int, Future] = {}
        self._lock = threading.Lock()

    def __call__(self, index: int) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Return segment number `index`: inputs and labels."""
        subepoch, place = divmod(index, self.per_subepoch)
        inputs, labels = self.subepoch(subepoch)
        return tuple(array[place] for array in inputs), labels[place]

    def subepoch(self, number: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Return all segments of a subepoch, and begin to cut the next one."""
        with self._lock:
            first = not self._ahead
            for wanted in (number, number + 1):
                beyond = self.subepochs is not None and wanted >= max(self.subepochs, number + 1)
                if wanted not in self._ahead and not beyond:
                    self._ahead[wanted] = self._executor.submit(self.draw, wanted)
            for old in [n for n in self._ahead if n < number - 1]:
                del self._ahead[old]
            future = self._ahead[number]
        began = time.perf_counter()
        result = future.result()
        if not first:
            self.waited_s += time.perf_counter() - began
        return result

    def draw(self, number: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Cut the segments of one subepoch; see `sampling.make_arrays` for what is returned."""
        way, config = self.way, self.config
        plan = self._rng(number, PLAN)
        count = min(config.cases_per_subepoch, len(self.cache.cases))
        chosen = plan.permutation(len(self.cache.cases))[:count]
        maps = len(self.cache.cases[0].weight_maps) if way.stream == TRAINING else 0
        categories = count_categories(way.kind, config, maps)
        shares = share_subepoch(
            way.samples, count, categories, config, proportions=way.proportions, rng=plan
        )
        # The engine cuts all and shuffles them; here each goes to its place in the order at once.
        order = self._rng(number, ORDER).permutation(way.samples)
        arrays = make_arrays(self.per_subepoch, way.segment, config)
        first = 0
        for slot, index in enumerate(chosen):
            count = int(np.sum(shares[slot]))
            places = order[first : first + count]
            self._cut_case(number, slot, int(index), shares[slot], arrays, places)
            first += count
        return arrays

    def _cut_case(self, number: int, slot: int, index: int, share, arrays, places) -> None:
        way, config, make_rng = self.way, self.config, None
        case = self.cache.get(index, way.segment)
        if way.stream == TRAINING:
            case = augment_case(case, config, self._rng(number, IMAGE, slot))
            make_rng = partial(self._rng, number, SEGMENT, slot)
        centres = draw_case_centres(
            case, share, way.kind, config, segment=way.segment, proportions=way.proportions,
            rng=self._rng(number, CENTRES, slot),
        )  # fmt: skip
        cut_samples(
            case, centres, way.segment, config, arrays=arrays, places=places, make_rng=make_rng
        )

    def _rng(self, *key: int) -> np.random.Generator:
        return rng_for(self.seed, self.way.stream, *key)


def steps_per_epoch(config: Config) -> int:
    """Return the optimiser steps of an epoch; a subepoch's incomplete last batch is dropped."""
    return config.subepochs * (config.segments_per_subepoch // config.batch_size)


def make_dataset(source: SegmentSource, config: Config, *, first_step: int = 0):
    """Return the training batches from a step on to the last; they do not depend on that step."""
    sizes = [config.train_segment, *geometry.context_sizes(config, config.train_segment)]
    inputs = tuple(tf.TensorSpec((*s, config.input_channels), tf.float32) for s in sizes)
    labels = tf.TensorSpec(geometry.output_size(config, config.train_segment), tf.int32)
    if len(inputs) == 1:
        draw, inputs = (lambda index: (source(index)[0][0], source(index)[1])), inputs[0]
    else:
        draw = source
    return make_batches(
        draw, element_spec=(inputs, labels), batch_size=config.batch_size, first_step=first_step,
        last_step=config.epochs * steps_per_epoch(config), workers=1,
    )  # fmt: skip


def _bytes_of(cases: Iterable[Case]) -> int:
    arrays = [a for case in cases for a in (case.image, case.labels, case.mask, case.weight_maps)]
    return sum(array.nbytes for array in arrays if array is not None)
