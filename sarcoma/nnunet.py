"""A data set in nnU-Net's layout, with CT and PET of every patient, as a file like the paper's."""

from pathlib import Path

import numpy as np

from common.data.geometry import check_same_grid
from common.data.labels import inside
from common.data.nnunet import NnunetCase, NnunetDataset, read_dataset
from common.data.volumes import read_volume
from common.errors import DataError
from common.runs.failures import Failures
from sarcoma.data import GROUPS, LABELS, SPACING_MM, check_hdf5_name, written_file

MODALITIES = {"ct": "ct", "pet": "pet", "pt": "pet", "suv": "pet"}
"""The paper's name of a modality by that of a channel, in small letters."""


def write_dataset(folder: Path, out: Path) -> NnunetDataset:
    """Write the labelled cases of a data set into one HDF5 file.

    Raises:
        OptionError: `out` does not end in .h5 or .hdf5.
        DataError: the channels are not a CT and a PET, or a case cannot be used (the others are
            written): its files lie on several grids, or on another than the paper's 5 mm.
    """
    check_hdf5_name(out)
    dataset = read_dataset(folder)
    modalities = [MODALITIES.get(name.lower()) for name in dataset.channels]
    if sorted(filter(None, modalities)) != sorted(GROUPS):
        raise DataError(
            f"{folder}: found the channels {', '.join(dataset.channels)}; expected CT and PET"
        )
    cases = dataset.labelled
    failures = Failures(len(cases), "case")
    with written_file(out, failures) as file:
        for case in cases:
            with failures.of(case.id):
                for group, array in arrays_of(case, modalities).items():
                    file.create_dataset(f"{group}/{case.id}", data=array, compression="gzip")
    failures.conclude()
    return dataset


def arrays_of(case: NnunetCase, modalities: list[str]) -> dict[str, np.ndarray]:
    """Return a case's arrays (Z, Y, X) by group: float32 images, and uint8 labels of 0 and 2."""
    label = read_volume(case.label)
    if not np.allclose(label.geometry.spacing_mm, SPACING_MM, rtol=1e-3):
        found = " x ".join(f"{mm:.4g}" for mm in label.geometry.spacing_mm)
        raise DataError(
            f"{case.label}: found voxels of {found} mm; expected {SPACING_MM:g} mm in every "
            "direction, the paper's grid: resample the data set first"
        )
    arrays = {LABELS: 2 * inside(label.array, str(case.label)).astype(np.uint8)}
    for path, modality in zip(case.images, modalities, strict=True):
        volume = read_volume(path, np.float32)
        check_same_grid(volume, label, names=(str(path), str(case.label)))
        arrays[GROUPS[modality]] = volume.array
    return arrays
