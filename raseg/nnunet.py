"""A data set in nnU-Net's layout as the paper's arrays, where all its volumes have one size."""

from pathlib import Path

import numpy as np

from common.data.geometry import check_same_grid
from common.data.labels import inside
from common.data.nnunet import NnunetCase, NnunetDataset, read_dataset
from common.data.volumes import read_volume
from common.errors import DataError
from raseg.config import CHANNELS, Config
from raseg.data import GEOMETRY, PAIRS, PRE, refuse_existing, write_volumes


def write_dataset(folder: Path, out: Path, config: Config) -> NnunetDataset:
    """Write the labelled cases, those to test on last, as the arrays of the configured task.

    Args:
        folder: of dataset.json; its channels are the scan after contrast and the one before, or of
            `--task bme` one scan.
        out: folder of the arrays, and of patients.json and geometry.json.

    Raises:
        DataError: there is an array already, the channels are others, or a case cannot be used or
            has another size than the first; nothing is written then.
    """
    dataset = read_dataset(folder, channels=len(CHANNELS[config.task]))
    refuse_existing(Path(out) / PAIRS[config.task])
    cases = dataset.labelled
    stacks, spacing = [], None
    for case in cases:
        stack, found = read_stack(case)
        if stacks and stack.shape != stacks[0].shape:
            raise DataError(
                f"{case.images[0]}: found {stack.shape[1:]} rows, columns, slices; expected "
                f"{stacks[0].shape[1:]} as of {cases[0].id}: resample the data set first"
            )
        stacks.append(stack)
        spacing = spacing or found
    both = np.stack(stacks)  # (N, channels and label, rows, columns, slices)
    arrays = {PAIRS[config.task]: both[:, [0, -1]]}
    if both.shape[1] > 2:
        arrays[PRE] = both[:, 1]
    write_volumes(out, arrays, [case.id for case in cases], source=str(dataset.folder.name))
    (Path(out) / GEOMETRY).write_text(f'{{"spacing_mm": {list(spacing)}}}\n', encoding="utf-8")
    return dataset


def read_stack(case: NnunetCase) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Return a case's scans and label (channels + 1, rows, columns, slices), and the spacing of
    row, column and slice in mm."""
    label = read_volume(case.label)
    scans = [read_volume(path) for path in case.images]
    for path, scan in zip(case.images, scans, strict=True):
        check_same_grid(scan, label, names=(str(path), str(case.label)))
    arrays = [*(scan.array for scan in scans), inside(label.array, str(case.label))]
    column, row, slice_ = label.geometry.spacing_mm
    kind = np.result_type(*(scan.array for scan in scans))
    return np.stack([a.astype(kind).transpose(1, 2, 0) for a in arrays]), (row, column, slice_)
