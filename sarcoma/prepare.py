"""Check and standardise the patients of the HDF5 file and store them ready for training."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sarcoma.config import PATCH, Config, Preset

if TYPE_CHECKING:
    import numpy as np

    from common.data.prepared_store import PreparedCase
    from sarcoma.data import Patient

DATA = Path("input/lab_petct_vox_5.00mm.h5")
"""Where the original looks for its data, relative to the working directory."""
INDEX = "prepared.json"
ARRAYS = ("image", "label", "window")
PREPARATION_FIELDS = ("modalities", "standardise", "pad_small_slices")
"""Fields of the configuration that decide what is stored."""


def prepare(
    data: Path = DATA,
    out: Path = Path("prepared"),
    *,
    config: Config,
    preset: Preset = "port",
    patches: Path | None = None,
    check: bool = False,
) -> None:
    """Check and standardise every patient of the HDF5 file; the original's data-gen.

    Patches are not stored: training cuts them when it needs them.

    Args:
        data: HDF5 file with ct_data, pet_data and label_data.
        out: folder of prepared patients, for the --prepared option of train.
        config: modalities, patients and slices matter here.
        preset: where the numbers come from; options after it change single ones.
        patches: folder for the original's arrays of balanced patches (ct_train.npy, ...).
        check: only look: print everything that is wrong with any patient, write nothing, and end
            with status 2 if anything keeps the data from being used.
    """
    if check:
        from sarcoma.inspection import inspect_file

        inspect_file(data, config, out).conclude()
        return
    from sarcoma.data import SUBSETS, find_patients, split_patients

    split = split_patients(find_patients(data, config), config)
    cases = {subset: prepare_cases(split[subset], out, config) for subset in SUBSETS}
    print(f"Prepared patients: {sum(map(len, cases.values()))} in {out}")
    if patches is not None:
        training = cases["training"] + cases["validation"]
        for name, chosen in (("train", training), ("test", cases["test"])):
            print(write_patches(chosen, patches, config, name))
    print(describe_memory(cases["training"] + cases["validation"], config))


def prepare_cases(
    patients: "Sequence[Patient]", folder: Path, config: Config
) -> "list[PreparedCase]":
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
        DataError: a patient cannot be used, the folder cannot be written or holds something else.
    """
    from filelock import FileLock
    from tqdm import tqdm

    from common.data.names import check_outputs
    from common.data.prepared_store import PreparedCase
    from common.errors import DataError
    from common.files import remove_leftovers

    folder = Path(folder)
    if not patients:
        return []
    folders = [(patient.id, [folder / patient.id]) for patient in patients]
    check_outputs([("the index", [folder / INDEX]), *folders], option=str(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            remove_leftovers(folder)
            index = read_index(folder, describe(patients[0].source, config))
            missing = [patient for patient in patients if not is_stored(folder, patient.id, index)]
            for patient in tqdm(missing, desc="prepare", unit="patient"):
                store_patient(patient, folder, config, index)
    except OSError as refusal:
        raise DataError(f"{folder}: cannot be written ({refusal.strerror or refusal})") from None
    return [PreparedCase(patient.id, folder / patient.id) for patient in patients]


def store_patient(patient: "Patient", folder: Path, config: Config, index: dict) -> None:
    """Prepare one patient, write the arrays, then the entry in the index."""
    import numpy as np

    from common.data.prepared_store import write_prepared_case
    from common.files import write_json
    from sarcoma.data import find_window, load_patient, prepare_patient

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


def describe(source: Path, config: Config) -> dict[str, Any]:
    """Return what decides the content of a folder of prepared patients."""
    from common.errors import DataError
    from common.files import plain, sha256_of

    try:
        digest = sha256_of(source)
    except OSError as refusal:
        raise DataError(f"{source}: cannot be read ({refusal.strerror})") from None
    return {
        "paper": "sarcoma",
        "source_sha256": digest,
        "preparation": plain({name: getattr(config, name) for name in PREPARATION_FIELDS}),
    }


def read_index(folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Return the index of a folder; without patients where they were prepared in another way.

    Raises:
        DataError: the folder holds something else than prepared patients.
    """
    import json

    from common.errors import DataError

    fresh = {**expected, "patients": {}}
    path = folder / INDEX
    if not path.is_file():
        foreign = [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")]
        if foreign:
            raise DataError(
                f"{folder} holds {min(foreign)} but no {INDEX}; expected a new or empty folder, or "
                "one of prepared patients"
            )
        return fresh
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        paper, patients = index["paper"], index["patients"]
    except (ValueError, TypeError, KeyError):
        raise DataError(f"{path} is damaged; expected a folder of prepared patients") from None
    if paper != expected["paper"] or not isinstance(patients, dict):
        raise DataError(f"{folder} was prepared for {paper}; expected {expected['paper']}")
    same = all(index.get(key) == value for key, value in expected.items())
    return index if same else fresh


def is_stored(folder: Path, patient_id: str, index: dict) -> bool:
    """Say whether a patient was stored whole."""
    from common.data.prepared_store import PreparedCase
    from common.errors import DataError

    if patient_id not in index["patients"]:
        return False
    arrays = PreparedCase(patient_id, folder / patient_id).arrays
    try:
        return all(arrays[name].size for name in ARRAYS)
    except (KeyError, DataError):
        return False


def write_patches(
    cases: "Sequence[PreparedCase]", folder: Path, config: Config, subset: str
) -> str:
    """Write the original's arrays of patches, one patch in memory at a time.

    <modality>_<subset>.npy (P, 56, 56, 1) float32, y_<subset>.npy (P,) and y_patches_<subset>.npy
    (P, 28, 28, 1) int32. The original gave train and test the same names [S6] and could not make
    the labels at all [S5].

    Returns:
        A line that says what was written.
    """
    from dataclasses import replace

    from common.files import write_folder_atomically
    from sarcoma.sampling import Stack, make_pool

    config = replace(config, architecture="unet2d")
    stack = Stack(cases, config, slices=config.training_slices)
    classes, pool = stack.classes(), make_pool(stack, config)
    folder.mkdir(parents=True, exist_ok=True)
    with write_folder_atomically(folder / f".patches_{subset}", replace=True) as unfinished:
        names = fill_arrays(stack, pool, classes, unfinished, subset)
        for name in names:  # [S6] one name per subset
            (unfinished / name).replace(folder / name)
    (folder / f".patches_{subset}").rmdir()
    return f"Patches: {len(pool)} in {folder} ({', '.join(names)})"


def fill_arrays(stack, pool: "np.ndarray", classes: "np.ndarray", folder: Path, subset: str):
    """Write the arrays of `write_patches`; return their names."""
    import numpy as np

    count, sizes = len(pool), stack.sizes
    files = {f"{m}_{subset}.npy": ((count, sizes.input, sizes.input, 1), np.float32)
             for m in stack.config.modalities}  # fmt: skip
    files[f"y_patches_{subset}.npy"] = ((count, sizes.output, sizes.output, 1), np.int32)
    open_memmap = np.lib.format.open_memmap
    arrays = [
        open_memmap(folder / name, mode="w+", dtype=dtype, shape=shape)
        for name, (shape, dtype) in files.items()
    ]
    for row, patch in enumerate(pool):
        image, label = stack.draw(patch)
        for channel in range(image.shape[-1]):
            arrays[channel][row] = image[..., channel, None]
        arrays[-1][row] = label
    np.save(folder / f"y_{subset}.npy", classes[pool].astype(np.int32))  # [S5]
    return [*files, f"y_{subset}.npy"]


def describe_memory(cases: "Sequence[PreparedCase]", config: Config) -> str:
    """Return a line on the memory used here and by the original's way for the same slices.

    The original holds every patch of every slice three times over while it stacks them [S19].
    """
    from common.cost.memory import peak_memory
    from sarcoma.sampling import Stack

    patches = len(Stack(cases, config, slices=config.training_slices))
    theirs = 3 * patches * PATCH * PATCH * 4
    ours = peak_memory()
    return (
        f"Memory: {ours / 1e9:.2f} GB at most; all {patches} patches at once, as in the original, "
        f"take {theirs / 1e9:.1f} GB, {theirs / ours:.0f} times as much"
    )
