"""Limbs with a tumour as a stand-in for wrists: T1-weighted MRI of a public collection.

Neither wrists nor arthritis, and one scan a patient, but real MR of limbs with a lesion drawn by
hand. Each crop of the collection (see `common.data.ibsi_collection`) is laid into one grid that all
volumes share, as the original's arrays need it.
"""

from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from common.data.ibsi_collection import find_sources
from common.runs.failures import Failures
from raseg.data import PAIRS, refuse_existing, write_volumes

SIZE = (20, 96, 96)
"""Slices, rows, columns that the original's networks halve without a rest."""


def write_limbs(folder: Path, out: Path) -> int:
    """Write the array of `--task bme` from a collection's T1 scans; return how many they are.

    Args:
        folder: ibsi_validation of theibsi/data_sets.
        out: folder of the array, (N, 2, 96, 96, 20) uint16, and of patients.json.

    Raises:
        DataError: a patient cannot be used (the others are written), or there is an array already.
    """
    refuse_existing(Path(out) / PAIRS["bme"])
    sources = find_sources(folder)
    failures = Failures(len(sources), "patient")
    pairs, names = [], []
    for source in tqdm(sources, desc="read", unit="patient", disable=None):
        with failures.of(source.id):
            scan, lesion, _ = source.read("MR_T1", lesion=True)
            image = np.clip(np.rint(lay_into_grid(scan.array)), 0, 65535)
            pairs.append(np.stack([image, lay_into_grid(lesion.array, order=0)]))
            names.append(source.id)
    if pairs:
        arrays = {PAIRS["bme"]: np.stack(pairs).astype(np.uint16)}
        write_volumes(out, arrays, names, source="theibsi/data_sets")
    failures.conclude()
    return len(pairs)


def lay_into_grid(array: np.ndarray, *, order: int = 1) -> np.ndarray:
    """Return a volume (Z, Y, X) on a grid of `SIZE`, as (row, column, slice) float32.

    The larger edge of the plane fills the grid, the smaller one lies in its middle with zeros
    around it; the slices are spread over those of the grid. `order` 1 interpolates linearly, 0
    takes the nearest voxel.
    """
    slices, *plane = array.shape
    step = max(plane) / SIZE[1]
    laid = ndimage.affine_transform(
        array.astype(np.float32),
        (slices / SIZE[0], step, step),
        offset=(0.0, *((size - max(plane)) / 2 for size in plane)),
        output_shape=SIZE,
        order=order,
    )
    return laid.transpose(1, 2, 0)
