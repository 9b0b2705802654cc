"""Prepared cases: whitened, checked, stored as arrays that training reads patch by patch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
from common.data.volumes import files_of
from common.errors import DataError, WriteError
from common.files import plain, remove_leftovers, sha256_of, write_json
from common.runs.failures import Failures
from fetal_brain.config import Config
from fetal_brain.data import Case, load_case, pad_to_patch, prepare_case
from fetal_brain.sampling import count_classes

ARRAYS = ("image", "label", "slice_counts")
GEOMETRY_FIELDS = ("spacing_mm", "origin_mm", "direction")
PREPARATION_FIELDS = ("label_ids", "patch_shape", "pad_small_volumes")
"""Fields of the configuration that decide what is stored."""


def prepare_cases(cases: Sequence[Case], folder: Path, config: Config) -> list[PreparedCase]:
    """Store whitened images and class labels so that training reads single patches from the disk.

    Each case becomes <folder>/<id>/ with image.npy (Z, Y, X, 1) float32, label.npy (Z, Y, X) uint8
    and slice_counts.npy (classes, Z) int64; prepared.json says from which files and how. One case
    is in memory at a time, and an interruption leaves whole cases only.

    A case whose files have the same content as when it was stored is reused, unless one of
    `PREPARATION_FIELDS` has changed. Other cases in the folder are kept.

    Raises:
        DataError: a case cannot be used (see `load_case`), which the others are stored in spite of;
            the folder cannot be written or holds something else.
    """
    folder = Path(folder)
    folders = [(case.id, [folder / case.id]) for case in cases]
    check_outputs([("the index", [folder / INDEX]), *folders], option=str(folder))
    failures, sources = Failures(len(cases), "case"), {}
    for case in cases:
        with failures.of(case.id):
            sources[case.id] = describe_sources(case)
    readable = [case for case in cases if case.id in sources]
    preparation = plain({name: getattr(config, name) for name in PREPARATION_FIELDS})
    expected = {"paper": "fetal_brain", "preparation": preparation}
    index = read_index(folder, expected, cases="cases")
    if not all(is_stored(folder, case.id, index, sources) for case in readable):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                remove_leftovers(folder)
                # Another process may have been at work.
                index = read_index(folder, expected, cases="cases")
                for case in tqdm(readable, desc="prepare", unit="case", disable=None):
                    if not is_stored(folder, case.id, index, sources):
                        with failures.of(case.id):
                            store_case(case, folder, config, index=index, source=sources[case.id])
        except OSError as refusal:
            reason = refusal.strerror or refusal
            raise WriteError(f"{folder}: cannot be written ({reason})") from None
    failures.conclude(also="the others are prepared")
    return [PreparedCase(case.id, folder / case.id) for case in cases]


def store_case(
    case: Case, folder: Path, config: Config, *, index: dict[str, Any], source: Mapping[str, str]
) -> None:
    """Prepare one case, write its arrays, then its entry in the index."""
    index["cases"].pop(case.id, None)
    write_json(folder / INDEX, index)  # what is stored may not be taken for what is being written
    loaded = load_case(case, config)
    geometry = loaded.image.geometry
    image, label = pad_to_patch(*prepare_case(loaded, config), config)
    counts = count_classes(label, len(config.label_ids))
    write_prepared_case(folder, case.id, dict(zip(ARRAYS, (image, label, counts), strict=True)))
    index["cases"][case.id] = {
        **source,
        "shape": list(label.shape),
        "source_shape": list(loaded.image.array.shape),
        "geometry": {name: getattr(geometry, name) for name in GEOMETRY_FIELDS},
        "voxels_per_class": counts.sum(axis=1),
    }
    write_json(folder / INDEX, index)


def describe_sources(case: Case) -> dict[str, str]:
    """Return the paths of a case's files and the SHA-256 of what they hold."""
    if case.label_path is None:
        raise DataError(f"case {case.id} has no segmentation; expected one to train with")
    source = {}
    for name, path in (("image", case.image_path), ("segmentation", case.label_path)):
        try:
            source |= {name: str(path), f"{name}_sha256": sha256_of(*files_of(path))}
        except OSError as refusal:
            raise DataError(f"{path}: cannot be read ({refusal.strerror})") from None
    return source


def is_stored(
    folder: Path, case_id: str, index: Mapping[str, Any], sources: Mapping[str, Mapping[str, str]]
) -> bool:
    """Say whether a case was stored whole, from the same content, in the same way."""
    entry, source = index["cases"].get(case_id), sources[case_id]
    hashes = ("image_sha256", "segmentation_sha256")
    same = entry is not None and all(entry[name] == source[name] for name in hashes)
    return same and has_arrays(folder, case_id, ARRAYS)
