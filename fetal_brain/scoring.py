"""One case of an evaluation: label map and reference on one grid, measured."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.data.geometry import check_same_grid
from common.data.labels import integer_labels
from common.data.volumes import read_volume
from common.errors import OptionError
from common.evaluation.cases import ScoredCase
from common.evaluation.metrics import score_case
from common.evaluation.run_report import prediction_path
from fetal_brain.config import Config
from fetal_brain.data import Case, read_reference
from fetal_brain.labels import read_ids


def label_names(config: Config, structure: str | None = None) -> dict[str, int]:
    """Return the foreground classes by name: `structure`, which there must be one of, or brain for
    the original's ids, else by number."""
    count = len(config.label_ids) - 1
    if structure is not None:
        if count != 1:
            raise OptionError(f"--structure {structure}: found {count} classes; expected one")
        return {structure: 1}
    if config.label_ids[1:] == (2,):
        return {"brain": 1}
    return {"foreground": 1} if count == 1 else {f"class {i + 1}": i + 1 for i in range(count)}


def score(case: Case, folder: Path, config: Config, names: Mapping[str, int]) -> ScoredCase:
    """Read and measure one case: a row per foreground class, of which `names` has the numbers.

    The label map may hold ids or class numbers, as `output_label_ids` of the run says [F8].

    Raises:
        DataError: the label map is missing, unreadable, on another grid than the reference or holds
            labels of neither kind; the scan likewise, where it is asked for.
    """
    path = prediction_path(folder, case.id)
    prediction, reference = read_volume(path), read_reference(case, config)
    check_same_grid(prediction, reference, names=(str(path), str(case.label_path)))
    prediction = replace(prediction, array=integer_labels(prediction.array, str(path)))
    prediction = read_ids(prediction, config, source=str(path))
    arrays, spacing_mm = (prediction.array, reference.array), reference.spacing_zyx_mm
    rows = score_case(*arrays, labels=names, spacing_mm=spacing_mm)

    def read_scan() -> np.ndarray:
        scan = read_volume(case.image_path)
        check_same_grid(scan, reference, names=(str(case.image_path), str(case.label_path)))
        return scan.array

    return ScoredCase(case.id, rows, *arrays, reference.geometry, read_scan)
