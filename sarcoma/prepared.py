"""Prepared patients: standardised, checked, stored as arrays that training reads slice by slice."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from common.data.names import check_outputs
from common.data.prepared_store import (
    INDEX,
    PreparedCase,
    has_arrays,
    read_index,
    write_prepared_case,
)
from common.errors import DataError, WriteError
from common.files import plain, remove_leftovers, sha256_of, write_json
from common.runs.failures import Failures
from sarcoma.config import Config
from sarcoma.data import Patient, find_window, load_patient, prepare_patient

ARRAYS = ("image", "label", "window")
PREPARATION_FIELDS = ("modalities", "standardise", "pad_small_slices")
"""Fields of the configuration that decide what is stored."""


def prepare_cases(patients: Sequence[Patient], folder: Path, config: Config) -> list[PreparedCase]:
    """Store standardised images and labels so that training reads single slices from the disk.

    Each patient becomes <folder>/<id>/ with image.npy (Z, Y, X, C) float32, label.npy (Z, Y, X)
    uint8 of 0 and 1, and window.npy (2,) int64 [start, stop); prepared.json says from which file
    and how. One patient is in memory at a time, and an interruption leaves whole ones only.

    Args:
        patients: of one file; those stored before from the same content are kept.
        folder: new, empty or of prepared patients.
        config: uses `PREPARATION_FIELDS`; a change of one prepares anew.

    Returns:
        The stored patients in the order of `patients`.

    Raises:
        DataError: a patient cannot be used, which the others are stored in spite of; the folder
            cannot be written or holds something else.
    """
    folder = Path(folder)
    if not patients:
        return []
    folders = [(patient.id, [folder / patient.id]) for patient in patients]
    check_outputs([("the index", [folder / INDEX]), *folders], option=str(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            remove_leftovers(folder)
            index = read_index(folder, index_entry(patients[0].source, config), cases="patients")
            missing = [patient for patient in patients if patient.id not in index["patients"]
                       or not has_arrays(folder, patient.id, ARRAYS)]  # fmt: skip
            failures = Failures(len(patients), "patient")
            for patient in tqdm(missing, desc="prepare", unit="patient"):
                with failures.of(patient.id):
                    store_patient(patient, folder, config, index)
    except OSError as refusal:
        raise WriteError(f"{folder}: cannot be written ({refusal.strerror or refusal})") from None
    failures.conclude(also="the others are prepared")
    return [PreparedCase(patient.id, folder / patient.id) for patient in patients]


def store_patient(patient: Patient, folder: Path, config: Config, index: dict) -> None:
    """Prepare one patient, write the arrays, then the entry in the index."""
    loaded = load_patient(patient, config.modalities)
    window = find_window(patient, loaded.label)
    arrays = {
        "image": prepare_patient(loaded, config),
        "label": loaded.label.astype(np.uint8),
        "window": np.array(window, np.int64),
    }
    write_prepared_case(folder, patient.id, arrays)
    index["patients"][patient.id] = {
        "shape": list(patient.shape),
        "window": list(window),
        "lesion_voxels": int(loaded.label.sum()),
    }
    write_json(folder / INDEX, index)


def index_entry(source: Path, config: Config) -> dict[str, Any]:
    """Return what decides the content of a folder of prepared patients."""
    try:
        digest = sha256_of(source)
    except OSError as refusal:
        raise DataError(f"{source}: cannot be read ({refusal.strerror})") from None
    return {
        "paper": "sarcoma",
        "source_sha256": digest,
        "preparation": plain({name: getattr(config, name) for name in PREPARATION_FIELDS}),
    }
