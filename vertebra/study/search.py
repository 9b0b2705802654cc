"""How many windows a search of a phantom asks for, with a network that is never wrong."""

import time
from dataclasses import replace

import numpy as np

from common.data.rng import rng_for
from vertebra.config import PORT
from vertebra.phantom_spine import make_scan
from vertebra.traverse import advance, begin, cut_padded


def bench_search(shape: tuple[int, int, int]) -> None:
    """Print the windows of a search of a phantom (slices, rows, columns), with and without air."""
    image, labels = make_scan(shape, (1.0, 1.0, 1.0), rng_for(0, 0))
    half = PORT.patch_size // 2
    for skip in (False, True):
        config = replace(PORT, skip_air=skip)
        search = begin(image.array, config)
        start, asked = time.perf_counter(), [0]

        def ask(_, memory, search=search, asked=asked):
            asked[0] += 1
            window = cut_padded(labels.array, search.centre, half)
            return next_vertebra(window, memory, PORT.min_vol), 1.0

        for _ in advance(search, ask):
            pass
        name = "x".join(map(str, shape))
        print(
            f"search of {name}{' without air' if skip else ''}: {asked[0]} windows through the"
            f" network of {len(search.visits)}, {np.unique(search.mask).size - 1} of"
            f" {np.unique(labels.array).size - 1} vertebrae;"
            f" {time.perf_counter() - start:.1f} s beside the network"
        )


def next_vertebra(labels: np.ndarray, memory: np.ndarray, least: int) -> np.ndarray:
    """Return the highest vertebra that has more than `least` voxels not yet remembered."""
    counts = np.bincount(labels[memory == 0].astype(int), minlength=1)
    for label in np.flatnonzero(counts)[::-1]:
        if label and counts[label] > least:
            return (labels == label).astype(np.float32)
    return np.zeros(labels.shape, np.float32)
