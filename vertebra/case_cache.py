"""Prepared cases as memory-mapped arrays, which training reads patch by patch."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.data.geometry import check_same_grid
from common.data.prepared_store import PreparedCase, write_prepared_case
from common.data.volumes import read_volume
from common.errors import DataError
from common.files import remove_leftovers
from vertebra.config import Config
from vertebra.data import Case, load_case


def store_cases(cases: Sequence[Case], folder: Path, config: Config) -> list[PreparedCase]:
    """Store image, label and weight of prepared cases as .npy files in a folder filled anew.

    Returns the stored cases in the same order. Raises `DataError` for a case that cannot be used,
    whose volumes differ in grid or whose spacing is not the configuration's.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    stored = []
    for case in cases:
        image, label = load_case(case, config)
        weight = read_volume(case.weight_path)
        check_same_grid(image, weight, names=(str(case.image_path), str(case.weight_path)))
        check_spacing(case, image.geometry.spacing_mm, config)
        if not np.isfinite(weight.array).all():
            raise DataError(f"{case.weight_path}: found NaN or infinite weights")
        arrays = {
            "image": image.array,
            "label": label.array.astype(np.int32),
            "weight": weight.array.astype(np.float32),
        }
        stored.append(write_prepared_case(folder, case.id, arrays))
    return stored


def check_spacing(case: Case, spacing_mm: Sequence[float], config: Config) -> None:
    """Refuse a case that was prepared for another grid; trees without geometry have spacing 1."""
    if not config.keep_geometry:
        return
    if max(abs(s - config.spacing_mm) for s in spacing_mm) > 1e-3:
        raise DataError(
            f"{case.image_path}: found voxels of {tuple(spacing_mm)} mm; expected"
            f" {config.spacing_mm} mm (--spacing_mm): prepare with the same preset"
        )
