"""What `prepare --check` looks at: the groups of the file, every patient, the subsets, the disk.

Axis order (Z, Y, X): axial slice, row, column, as in the file. The file says nothing of its grid;
5 mm in every direction is taken for granted.
"""

from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from common.data.inspection import Entry, Inspection, count_in_words, listed
from common.data.names import check_id
from sarcoma.config import Config
from sarcoma.data import (
    GROUPS,
    LABELS,
    SUBSETS,
    Patient,
    check_modalities,
    check_present,
    check_shapes,
    check_values,
    find_group,
    find_shape,
    lesion_of,
    open_hdf5,
    split_patients,
    unlike_table,
    window_of,
)

LABEL_VALUES = (0, 1, 2)
"""Outside, edge, inside of a lesion [S29]."""


def inspect_file(path: Path, config: Config, out: Path) -> Inspection:
    """Find everything that is wrong with the HDF5 file and the patients in it.

    Returns a line per patient, one each for the file, its groups, the subsets and the disk with
    `out`, where `prepare` would write.
    """
    path = Path(path).absolute()
    inspection = Inspection(path, unit="patient")
    inspection.general("modalities").attempt(check_modalities, config)
    # A block of data may be damaged far behind the header, so this line covers the whole reading.
    inspection.general("file").attempt(inspect_content, inspection, path, config, out)
    return inspection


def inspect_content(inspection: Inspection, path: Path, config: Config, out: Path) -> None:
    """Check groups, patients, subsets and room."""
    patients: dict[str, Patient] = {}
    with open_hdf5(path) as file:
        names = [*(GROUPS[name] for name in config.modalities if name in GROUPS), LABELS]
        groups = {}
        for name in names:
            group = inspection.general(name).attempt(find_group, file, name, path)
            if group is not None:
                inspection.whole[-1].facts["held"] = count_in_words(len(group), "patient")
                groups[name] = group
        for id_ in inspection.track(sorted(set().union(*groups.values()))):
            entry = inspection.entry(id_)
            shape = inspect_patient(entry, id_, groups, path, config)
            if shape is not None:
                patients[id_] = Patient(id_, path, shape)
    inspect_subsets(inspection, patients, config)
    voxels = sum(int(np.prod(patient.shape, dtype=np.int64)) for patient in patients.values())
    inspection.check_space(out, voxels * (4 * len(config.modalities) + 1))


def inspect_patient(
    entry: Entry, id_: str, groups: Mapping[str, h5py.Group], path: Path, config: Config
) -> tuple[int, int, int] | None:
    """Check one patient, alone in memory, in every group; return its shape, None without any."""
    entry.attempt(check_id, id_, str(path))
    shapes = {
        name: shape
        for name, group in groups.items()
        if (shape := entry.attempt(find_shape, id_, name, group, path)) is not None
    }
    if not shapes:
        return None
    entry.attempt(check_shapes, id_, shapes, path, config)
    shape = next(iter(shapes.values()))
    entry.facts["slices x rows x columns"] = " x ".join(map(str, shape))
    for name in shapes:
        array = entry.attempt(read_array, groups[name], id_, path)
        if array is None:
            continue
        entry.facts[name] = str(array.dtype)
        if name != LABELS:
            entry.attempt(check_values, array, name, Patient(id_, path, shape))
        if name == LABELS:
            inspect_label(entry, array, Patient(id_, path, tuple(array.shape)))
        elif array.size and array.min() == array.max():
            entry.note(f"every voxel of {name} is {array.flat[0]}")
    return shape


def read_array(group: h5py.Group, id_: str, path: Path) -> np.ndarray:
    """Read one volume; an `OSError` names the dataset whose data are damaged."""
    try:
        return group[id_][()]
    except OSError as failure:
        reason = str(failure).splitlines()[0]
        raise OSError(None, f"the data of {group.name}/{id_} are damaged: {reason}", path) from None


def inspect_label(entry: Entry, label: np.ndarray, patient: Patient) -> None:
    """Check a patient's lesion and the slices it lies in."""
    others = np.setdiff1d(label, LABEL_VALUES)
    if others.size:
        entry.note(f"label values {listed(others)}: expected 0, 1 and 2; above 0 is lesion")
    lesion = entry.attempt(lesion_of, label, patient)
    if lesion is None:
        return
    entry.facts["lesion voxels"] = str(int(lesion.sum()))
    window = entry.attempt(window_of, patient, lesion)
    if window is None:
        return
    start, stop = window
    entry.facts["window"] = f"{start} to {stop - 1}"
    if note := unlike_table(patient, window):
        entry.note(f"{note}; this one is computed from the labels")


def inspect_subsets(
    inspection: Inspection, patients: Mapping[str, Patient], config: Config
) -> None:
    """Check that every patient of the configuration is there, and in one subset."""
    entry = inspection.general("subsets")
    for subset in SUBSETS:
        for id_ in getattr(config, f"{subset}_patients"):
            entry.attempt(check_present, id_, subset, patients)
    if not entry.faults:
        entry.attempt(split_patients, patients, config)
