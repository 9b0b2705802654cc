"""Searches to be looked at: bounded, whatever they run into; and a network that knows the truth."""

import numpy as np

from common.errors import DataError
from vertebra.config import Config
from vertebra.model import MULTIPLE
from vertebra.sampling import is_complete
from vertebra.traverse import MOST_VISITS, Traversal, advance, begin

BOUND = min(MOST_VISITS, 200)
"""Windows after which a search is stopped."""


def run_search(image: np.ndarray, ask, config: Config) -> tuple[Traversal, str]:
    """Search a scan, and say how it ended, also where it breaks down; arguments as `traverse`."""
    search, ended = begin(image, config), ""
    try:
        for _ in advance(search, ask, max_visits=BOUND):
            pass
    except (DataError, IndexError, ValueError, OverflowError) as failure:
        ended = f"broke down: {' '.join(str(failure).split())[:60]}"
    return search, ended or search.ended


class Oracle:
    """A network that knows the labels: the windows it is asked about are windows of the label map.

    It answers with the topmost vertebra of which less than half is remembered; larger labels
    (Z, Y, X) lie further up. `islands` adds a cube of voxels in a corner to every answer.
    """

    def __init__(self, labels: np.ndarray, config: Config, *, islands: bool = False):
        self.sizes = np.bincount(labels.ravel().astype(np.int64))
        self.config, self.islands = config, islands

    def __call__(self, image: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, float]:
        """Return probabilities (z, y, x) and completeness; raise `DataError` as a network would."""
        edge = self.config.patch_size
        if any(size % MULTIPLE or not edge <= size < 2 * edge for size in image.shape):
            raise DataError(f"a window of {image.shape} voxels, which the network cannot take")
        numbers, found = image.astype(np.int64), np.zeros(image.shape, bool)
        complete = False
        for label in np.unique(numbers[numbers > 0])[::-1]:
            mask = numbers == label
            if mask.sum() > self.config.min_vol and (memory[mask] > 0).mean() < 0.5:
                found, total = mask.copy(), int(self.sizes[label])
                complete = is_complete(int(mask.sum()), total, self.config)
                break
        if self.islands and found.any():
            found[:3, :3, :3] = True
        return np.where(found, 0.9, 0.1).astype(np.float32), float(complete)
