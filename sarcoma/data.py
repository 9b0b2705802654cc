"""Patients of the HDF5 file: finding, checking, loading, standardising, their windows.

Axis order (Z, Y, X): axial slice, row, column, as in the file; a trailing axis holds the
modalities. The grid is 5 mm in every direction.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from common.data.geometry import Geometry
from common.data.labels import inside
from common.data.names import check_id
from common.data.phantoms import read_marker
from common.errors import DataError, OptionError, WriteError, one_line
from common.files import scratch_folder
from common.runs.failures import Failures
from sarcoma.config import PATCH, POSITIVE_SLICES, Config

SPACING_MM = 5.0
GRID = Geometry((SPACING_MM,) * 3, (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
"""Of the data set; the file states no orientation."""
GROUPS = {"ct": "ct_data", "pet": "pet_data"}
"""Group of the file that holds a modality: one dataset per patient."""
LABELS = "label_data"
SUBSETS = ("training", "validation", "test")
DEFLATE_MOST = 1100
"""Bytes that one byte of compressed data can hold, at most about 1030."""


@dataclass(frozen=True)
class Patient:
    """One patient of the file."""

    id: str
    source: Path
    """The HDF5 file, absolute, so that a run's split.json holds wherever it is read from."""
    shape: tuple[int, int, int]
    """Slices, rows, columns."""

    @classmethod
    def from_dict(cls, entry: Mapping) -> "Patient":
        """Return the patient that an entry of a run's split.json describes."""
        return cls(entry["id"], Path(entry["source"]), tuple(entry["shape"]))


@dataclass(frozen=True)
class LoadedPatient:
    """One patient as it lies on the disk, checked."""

    images: dict[str, np.ndarray]
    """(Z, Y, X) by modality, the file's own dtype and units."""
    label: np.ndarray | None
    """(Z, Y, X) bool, the lesion."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises:
        DataError: it is missing or of another kind, or what is read of it is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected an HDF5 file")
    try:
        file = h5py.File(path, "r")
    except OSError:
        raise DataError(f"{path} cannot be read; expected an HDF5 file") from None
    with file:
        try:
            yield file
        except (OSError, RuntimeError, KeyError, ValueError, MemoryError) as failure:
            # The HDF5 library says so of damage, whichever part of a file it meets it in.
            raise DataError(f"{path} is damaged: {one_line(failure)}") from None


def check_hdf5_name(path: Path) -> None:
    """Refuse another ending of the patients' file."""
    if path.suffix not in (".h5", ".hdf5"):
        raise OptionError(f"--out {path}: expected a name ending in .h5, for the patients' file")


@contextmanager
def written_file(path: Path, failures: Failures) -> Iterator[h5py.File]:
    """Give an HDF5 file to fill, which takes its place whole, unless all its patients failed.

    Raises:
        WriteError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with scratch_folder(path) as scratch:
            with h5py.File(scratch / path.name, "w") as file:
                yield file
            if len(failures.names) < failures.total:
                (scratch / path.name).replace(path)
    except OSError as refusal:
        raise WriteError(f"{path} cannot be written ({one_line(refusal)})") from None


def find_dataset(group: h5py.Group, name: str, path: Path) -> h5py.Dataset | None:
    """Return a dataset that lies in the file itself; None: there is none of this name.

    Raises:
        DataError: it leads to another file, or promises more than the file can hold.
    """
    entry = find_entry(group, name, path)
    if not isinstance(entry, h5py.Dataset):
        return None
    if entry.external or entry.is_virtual:
        raise DataError(f"{path}: {entry.name} reads other files; expected the data")
    if entry.nbytes > DEFLATE_MOST * entry.id.get_storage_size():
        raise DataError(f"{path}: {entry.name} has shape {entry.shape}, but hardly any data")
    return entry


def find_entry(group: h5py.Group, name: str, path: Path) -> h5py.Group | h5py.Dataset | None:
    """Return what a name leads to, unless it leads to another file, if only by a detour."""
    link, entry = group.get(name, getlink=True), group.get(name)
    elsewhere = entry is not None and entry.file.filename != group.file.filename
    if isinstance(link, h5py.ExternalLink) or elsewhere:
        full = f"{group.name.rstrip('/')}/{name}"
        raise DataError(f"{path}: {full} is a link to another file; expected the data")
    return entry


def find_patients(
    path: Path, config: Config, *, labels_required: bool = True
) -> dict[str, Patient]:
    """List the patients of the file; every one must be whole.

    Args:
        path: HDF5 file with the groups ct_data, pet_data and label_data.
        config: uses modalities and pad_small_slices.
        labels_required: without it label_data may be absent.
    Returns:
        The patients by id, in the order of the ids.
    Raises:
        DataError: no HDF5 file, a group is missing or empty, a patient is missing in one group, is
            no volume of numbers, has other shapes in other groups, or slices smaller than a patch.
        OptionError: a modality is unknown.
    """
    path = Path(path).absolute()
    check_modalities(config)
    with open_hdf5(path) as file:
        names = [GROUPS[modality] for modality in config.modalities]
        groups = {name: find_group(file, name, path) for name in names}
        if labels_required or LABELS in file:
            groups[LABELS] = find_group(file, LABELS, path)
        # A name that is not UTF-8 comes as bytes, and `check_id` refuses what they are as text.
        ids = sorted({os.fsdecode(id_) for group in groups.values() for id_ in group})
        return {id_: Patient(id_, path, check_patient(id_, groups, path, config)) for id_ in ids}


def check_modalities(config: Config) -> None:
    """Refuse modalities that the file has no group for."""
    unknown = [name for name in config.modalities if name not in GROUPS]
    if unknown or not config.modalities or len(set(config.modalities)) < len(config.modalities):
        raise OptionError(
            f"modalities: found {list(config.modalities)}; expected ct, pet or both, each once"
        )


def find_group(file: h5py.File, name: str, path: Path) -> h5py.Group:
    """Return a group that holds at least one patient."""
    group = find_entry(file, name, path)
    if not isinstance(group, h5py.Group):
        found = ", ".join(sorted(map(os.fsdecode, file))) or "nothing"
        raise DataError(f"{path} has no group {name}; found {found}")
    if not len(group):
        raise DataError(f"{path}: the group {name} is empty; expected a dataset per patient")
    return group


def check_patient(
    id_: str, groups: Mapping[str, h5py.Group], path: Path, config: Config
) -> tuple[int, int, int]:
    """Return a patient's shape after checking its id and that all groups agree about it."""
    check_id(id_, str(path))
    shapes = {name: find_shape(id_, name, group, path) for name, group in groups.items()}
    check_shapes(id_, shapes, path, config)
    return next(iter(shapes.values()))


def find_shape(id_: str, name: str, group: h5py.Group, path: Path) -> tuple[int, int, int]:
    """Return the shape of a patient's volume in one group, which must be a volume of numbers."""
    if id_ not in group:
        raise DataError(f"{path}: patient {id_} is missing in the group {name}")
    entry = find_dataset(group, id_, path)
    if entry is None or entry.ndim != 3 or entry.dtype.kind not in "iufb":
        raise DataError(f"{path}: {name}/{id_} is no volume; expected (slices, rows, columns)")
    return tuple(entry.shape)


def check_shapes(id_: str, shapes: Mapping[str, tuple], path: Path, config: Config) -> None:
    """Refuse a patient whose groups disagree, or whose slices are smaller than a patch [S26]."""
    (first, shape), *others = shapes.items()
    for name, other in others:
        if other != shape:
            raise DataError(
                f"{path}: patient {id_} has {other} voxels in {name} but {shape} in {first}; "
                "expected the same"
            )
    if min(shape) < 1:
        raise DataError(f"{path}: patient {id_} has {shape} voxels; expected some")
    if not config.pad_small_slices and min(shape[1:]) < PATCH:
        raise DataError(
            f"{path}: the slices of patient {id_} are {shape[1]} x {shape[2]} pixels, smaller than "
            f"the patch of {PATCH} x {PATCH}; expected larger ones, or --pad_small_slices true"
        )


def choose_patients(
    record, config: Config, *, data: Path | None, patients: tuple[str, ...] | None
) -> list[Patient]:
    """Return the patients that the options name.

    Raises `DataError` for a file without one of them, `OptionError` where none is left to segment.
    """
    if data is None:
        known = {entry["id"]: Patient.from_dict(entry) for entry in record.read_split()["test"]}
    else:
        known = find_patients(data, config, labels_required=config.test_slices == "window")
    if not known:
        raise OptionError(f"{record.path} has no test patients; expected --data with an HDF5 file")
    missing = [id_ for id_ in patients or () if id_ not in known]
    if missing:
        raise DataError(f"--patients: {missing[0]} is unknown; found {', '.join(known)}")
    return [known[id_] for id_ in patients or known]


def has_lesion(patient: Patient) -> bool:
    """Say whether a patient's labels are known and hold a lesion."""
    label = load_patient(patient, ()).label
    return label is not None and bool(label.any())


def split_patients(patients: Mapping[str, Patient], config: Config) -> dict[str, list[Patient]]:
    """Return the patients of every subset, in the order of the configuration.

    Raises `DataError` for one that is not in the file, `OptionError` for one in two subsets or
    where there is none to train on.
    """
    wanted = {subset: getattr(config, f"{subset}_patients") for subset in SUBSETS}
    seen: dict[str, str] = {}
    for subset, ids in wanted.items():
        for id_ in ids:
            if id_ in seen:
                raise OptionError(
                    f"patient {id_} is in {seen[id_]}_patients and {subset}_patients; expected one"
                )
            seen[id_] = subset
            check_present(id_, subset, patients)
    if not wanted["training"]:
        raise OptionError("training_patients is empty; expected at least one patient")
    return {subset: [patients[id_] for id_ in ids] for subset, ids in wanted.items()}


def check_present(id_: str, subset: str, patients: Mapping[str, Patient]) -> None:
    """Refuse a configuration that names a patient the file does not hold."""
    if id_ not in patients:
        raise DataError(
            f"patient {id_} of {subset}_patients is not in the file; found {', '.join(patients)}"
        )


def load_patient(
    patient: Patient, modalities: Sequence[str], *, with_label: bool = True
) -> LoadedPatient:
    """Read one patient's volumes; raises `DataError` for a damaged file, NaN or infinities."""
    with open_hdf5(patient.source) as file:
        images = {name: read_volume(file, GROUPS[name], patient) for name in modalities}
        label = None
        if with_label and LABELS in file:
            label = lesion_of(read_volume(file, LABELS, patient), patient)
    for name, image in images.items():
        check_values(image, GROUPS[name], patient)
    return LoadedPatient(images, label)


def read_volume(file: h5py.File, name: str, patient: Patient) -> np.ndarray:
    """Read a patient's volume of one group; the file may be another than when it was listed."""
    group = find_group(file, name, patient.source)
    find_shape(patient.id, name, group, patient.source)
    return group[patient.id][()]


def check_values(image: np.ndarray, group: str, patient: Patient) -> None:
    """Refuse a volume with NaN or infinite voxels."""
    if not np.isfinite(image).all():
        raise DataError(f"{patient.source}: {group}/{patient.id} holds NaN or infinity")


def lesion_of(label: np.ndarray, patient: Patient) -> np.ndarray:
    """Return a patient's lesion as bool.

    [S29] The file holds 2 inside and perhaps 1 at edges: any positive value is lesion, but for
    traces of resampling; see `common.data.labels.inside`.
    """
    return inside(label, f"{patient.source}: {LABELS}/{patient.id}") & (label > 0)


def find_window(patient: Patient, label: np.ndarray) -> tuple[int, int]:
    """Return the slices [start, stop) that hold a patient's lesion, and say where they are not
    those of the original's table.

    Raises `DataError` where there is no lesion.
    """
    start, stop = window_of(patient, label)
    if note := unlike_table(patient, (start, stop)):
        print(f"note: patient {patient.id} {note}; slices {start} to {stop - 1} were computed from "
              "its labels", file=sys.stderr)  # fmt: skip
    return start, stop


def window_of(patient: Patient, label: np.ndarray) -> tuple[int, int]:
    """Return the slices [start, stop) from the first with a lesion voxel to the last.

    In the paper's file they are those of the original's table, `POSITIVE_SLICES` (preprocess.py).
    Other files hold the same patients with other slices, so that the table itself is not used.
    """
    found = np.flatnonzero(label.any(axis=(1, 2)))
    if not found.size:
        raise DataError(
            f"{patient.source}: patient {patient.id} has no lesion voxels to compute a window from"
        )
    return int(found[0]), int(found[-1]) + 1


def unlike_table(patient: Patient, window: tuple[int, int]) -> str:
    """Say how a patient's window differs from the original's table; empty where it does not."""
    known = POSITIVE_SLICES.get(patient.id)
    if known is None:
        return "is not in the table of windows"
    if known != window:
        return f"has its lesion in other slices than the paper's ({known[0]} to {known[1] - 1})"
    return ""


def standardise_slices(volume: np.ndarray) -> np.ndarray:
    """Give every slice of (Z, Y, X) zero mean and unit variance, as float32.

    The deviation is at least 1 / sqrt(pixels), so a constant slice becomes zeros. Source:
    preprocess.py, `per_image_standardization`.
    """
    least = 1 / np.sqrt(volume[0].size)
    return np.stack([standardise(plane, least) for plane in volume])


def standardise(array: np.ndarray, least_deviation: float = 0.0) -> np.ndarray:
    """Give an array of any shape zero mean and unit variance, as float32; zeros if constant."""
    values = array.astype(np.float64)
    values -= values.mean()
    if array.min() == array.max():
        return np.zeros(array.shape, np.float32)
    return (values / max(values.std(), least_deviation)).astype(np.float32)


def prepare_patient(loaded: LoadedPatient, config: Config) -> np.ndarray:
    """Return a patient's standardised modalities as channels, (Z, Y, X, C) float32 [S30]."""
    prepare = standardise_slices if config.standardise == "slice" else standardise
    return np.stack([prepare(loaded.images[name]) for name in config.modalities], axis=-1)


def preparation_of(path: Path) -> tuple[str, float]:
    """Return how the file's patients differ from the paper's, and the margin in mm at which they
    are cropped around the lesion: as far as the file says, "" and 0 where it does not."""
    with open_hdf5(path) as file:
        said, margin = file.attrs.get("preparation", ""), file.attrs.get("crop_margin_mm", 0.0)
    said = said if isinstance(said, str) and said.isprintable() else ""
    return said, float(margin) if np.isscalar(margin) and np.isfinite(margin) else 0.0


def is_phantom(path: Path) -> bool:
    """Say whether a phantom's marker lies beside the file."""
    return read_marker(Path(path).parent) is not None
