"""Check and standardise the patients of the HDF5 file and store them ready for training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from common.cost.memory import peak_memory
from common.data.prepared_store import PreparedCase
from sarcoma.config import DATA, PATCH, Config, Preset
from sarcoma.data import SUBSETS, find_patients, split_patients
from sarcoma.inspection import inspect_file
from sarcoma.nnunet import write_dataset
from sarcoma.patch_files import write_patches
from sarcoma.prepared import prepare_cases
from sarcoma.sampling import Stack


def prepare(
    data: Path = DATA,
    out: Path = Path("prepared"),
    *,
    config: Config,
    preset: Preset = "port",
    patches: Path | None = None,
    layout: Literal["paper", "ibsi", "nnunet"] = "paper",
    check: bool = False,
) -> None:
    """Check and standardise every patient of the HDF5 file; the original's data-gen.

    Patches are not stored: training cuts them when it needs them.

    Args:
        data: HDF5 file with ct_data, pet_data and label_data; for another layout the folder of the
            data set.
        out: folder of prepared patients, for the --prepared option of train; for another layout
            the HDF5 file to write.
        config: modalities, patients and slices matter here.
        preset: where the numbers come from; options after it change single ones.
        patches: folder for the original's arrays of balanced patches (ct_train.npy, ...).
        layout: paper; ibsi for the folder ibsi_validation of theibsi/data_sets (NIfTI or DICOM); or
            nnunet for a data set of nnU-Net with the channels CT and PET, on 5 mm. These become a
            file like the paper's.
        check: only look: print everything that is wrong with any patient, write nothing, and end
            with status 2 if anything keeps the data from being used.
    """
    if layout == "ibsi":
        from sarcoma.ibsi import DIFFERENCE, write_collection

        count = write_collection(data, out)
        print(f"Patients: {count} in {out}, on 5 mm; not the paper's file: {DIFFERENCE}")
        return
    if layout == "nnunet":
        print(f"Patients in {out}: {write_dataset(data, out).described}")
        return
    if check:
        inspect_file(data, config, out).conclude()
        return
    split = split_patients(find_patients(data, config), config)
    cases = {subset: prepare_cases(split[subset], out, config) for subset in SUBSETS}
    count = sum(map(len, cases.values()))
    print(f"Prepared patients: {count} in {out}; train uses them with --prepared {out}")
    if patches is not None:
        training = cases["training"] + cases["validation"]
        for name, chosen in (("train", training), ("test", cases["test"])):
            print(write_patches(chosen, patches, config, name))
    print(describe_memory(cases["training"] + cases["validation"], config))


def describe_memory(cases: Sequence[PreparedCase], config: Config) -> str:
    """Return a line on the memory used here and by the original's way for the same slices.

    The original holds every patch of every slice three times over while it stacks them [S19].
    """
    patches = len(Stack(cases, config, slices=config.training_slices))
    theirs = 3 * patches * PATCH * PATCH * 4
    ours = peak_memory()
    return (
        f"Memory: {ours / 1e9:.2f} GB at most; all {patches} patches at once, as in the original, "
        f"take {theirs / 1e9:.1f} GB, {theirs / ours:.0f} times as much"
    )
