"""Check, whiten and store the cases of a list ready for training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fetal_brain.config import Config, Preset

if TYPE_CHECKING:
    from common.data.prepared_store import PreparedCase
    from fetal_brain.data import Case

INDEX = "prepared.json"
ARRAYS = ("image", "label", "slice_counts")
GEOMETRY_FIELDS = ("spacing_mm", "origin_mm", "direction")
PREPARATION_FIELDS = ("label_ids", "patch_shape", "pad_small_volumes")
"""Fields of the configuration that decide what is stored."""


def prepare(
    train_csv: Path,
    out: Path = Path("prepared"),
    *,
    config: Config,
    preset: Preset = "port",
    check: bool = False,
) -> None:
    """Check every case of a CSV list and store it ready for training.

    Cases that were stored before from the same files in the same way are kept.

    Args:
        train_csv: list with the columns id, image, segmentation, by position.
        out: folder of prepared cases, for the --prepared option of train.
        config: label_ids, patch_shape and pad_small_volumes matter here.
        preset: where the numbers come from; options after it change single ones.
        check: only look: print everything that is wrong with any file, write nothing, and end with
            status 2 if anything keeps the data from being used.
    """
    if check:
        from fetal_brain.inspection import inspect_list

        inspect_list(train_csv, config, out).conclude()
        return
    from fetal_brain.data import find_cases

    cases = prepare_cases(find_cases(train_csv), out, config)
    print(f"Prepared cases: {len(cases)} in {out}")


def prepare_cases(cases: "Sequence[Case]", folder: Path, config: Config) -> "list[PreparedCase]":
    """Store whitened images and class labels so that training reads single patches from the disk.

    Each case becomes <folder>/<id>/ with image.npy (Z, Y, X, 1) float32, label.npy (Z, Y, X) uint8
    and slice_counts.npy (classes, Z) int64; prepared.json says from which files and how. One case
    is in memory at a time, and an interruption leaves whole cases only.

    Args:
        cases: with labels. One whose files have the same content as when it was stored is reused.
        folder: new, empty or of prepared cases; other cases in it are kept.
        config: uses `PREPARATION_FIELDS`; a change of one prepares anew.

    Returns:
        The stored cases in the order of `cases`.

    Raises:
        DataError: a case cannot be used (see `load_case`), the folder cannot be written or holds
            something else.
    """
    from filelock import FileLock
    from tqdm import tqdm

    from common.data.names import check_outputs
    from common.data.prepared_store import PreparedCase
    from common.errors import DataError
    from common.files import remove_leftovers

    folder = Path(folder)
    folders = [(case.id, [folder / case.id]) for case in cases]
    check_outputs([("the index", [folder / INDEX]), *folders], option=str(folder))
    sources = {case.id: describe_sources(case) for case in cases}
    index = read_index(folder, config)
    if not all(is_stored(folder, case.id, index, sources) for case in cases):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                remove_leftovers(folder)
                index = read_index(folder, config)  # another process may have been at work
                for case in tqdm(cases, desc="prepare", unit="case", disable=None):
                    if not is_stored(folder, case.id, index, sources):
                        store_case(case, folder, config, index=index, source=sources[case.id])
        except OSError as refusal:
            reason = refusal.strerror or str(refusal)
            raise DataError(f"{folder}: cannot be written ({reason})") from None
    return [PreparedCase(case.id, folder / case.id) for case in cases]


def store_case(
    case: "Case", folder: Path, config: Config, *, index: dict[str, Any], source: Mapping[str, str]
) -> None:
    """Prepare one case, write its arrays, then its entry in the index."""
    from common.data.prepared_store import write_prepared_case
    from fetal_brain.data import load_case, pad_to_patch, prepare_case
    from fetal_brain.sampling import count_classes

    index["cases"].pop(case.id, None)
    write_index(folder, index)  # what is stored may not be taken for what is being written
    loaded = load_case(case, config)
    image, label = pad_to_patch(*prepare_case(loaded, config), config)
    counts = count_classes(label, len(config.label_ids))
    arrays = dict(zip(ARRAYS, (image, label, counts), strict=True))
    write_prepared_case(folder, case.id, arrays)
    geometry = loaded.image.geometry
    index["cases"][case.id] = {
        **source,
        "shape": list(label.shape),
        "source_shape": list(loaded.image.array.shape),
        "geometry": {name: getattr(geometry, name) for name in GEOMETRY_FIELDS},
        "voxels_per_class": counts.sum(axis=1),
    }
    write_index(folder, index)


def describe_sources(case: "Case") -> dict[str, str]:
    """Return the paths of a case's files and the SHA-256 of what they hold."""
    from common.errors import DataError
    from common.files import sha256_of

    if case.label_path is None:
        raise DataError(f"case {case.id} has no segmentation; expected one to train with")
    source = {}
    for name, path in (("image", case.image_path), ("segmentation", case.label_path)):
        try:
            source |= {name: str(path), f"{name}_sha256": sha256_of(path)}
        except OSError as refusal:
            raise DataError(f"{path}: cannot be read ({refusal.strerror})") from None
    return source


def is_stored(
    folder: Path, case_id: str, index: Mapping[str, Any], sources: Mapping[str, Mapping[str, str]]
) -> bool:
    """Say whether a case was stored whole, from the same content, in the same way."""
    from common.data.prepared_store import PreparedCase
    from common.errors import DataError

    entry = index["cases"].get(case_id)
    if entry is None or any(
        entry[f"{name}_sha256"] != sources[case_id][f"{name}_sha256"]
        for name in ("image", "segmentation")
    ):
        return False
    arrays = PreparedCase(case_id, folder / case_id).arrays
    try:
        return all(arrays[name].size for name in ARRAYS)
    except (KeyError, DataError):
        return False


def read_index(folder: Path, config: Config) -> dict[str, Any]:
    """Return the index of a folder; without cases where they were prepared in another way.

    Raises:
        DataError: the folder holds something else than prepared cases.
    """
    import json

    from common.errors import DataError
    from common.files import plain

    fresh = {
        "paper": "fetal_brain",
        "preparation": plain({name: getattr(config, name) for name in PREPARATION_FIELDS}),
        "cases": {},
    }
    if not folder.exists():
        return fresh
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; expected a folder of prepared cases")
    if not (folder / INDEX).is_file():
        foreign = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if foreign:
            raise DataError(
                f"{folder} holds {min(foreign)} but no {INDEX}; expected a new or empty folder, or"
                " one of prepared cases"
            )
        return fresh
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        same_paper = index["paper"] == fresh["paper"]
        same_way = index["preparation"] == fresh["preparation"] and isinstance(index["cases"], dict)
    except (ValueError, TypeError, KeyError):
        raise DataError(
            f"{folder / INDEX} is damaged; expected a folder of prepared cases"
        ) from None
    if not same_paper:
        raise DataError(f"{folder} was prepared for {index['paper']}; expected fetal_brain")
    return index if same_way else fresh


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    """Write prepared.json in one go."""
    from common.files import write_json

    write_json(folder / INDEX, index)
