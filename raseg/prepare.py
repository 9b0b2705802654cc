"""Write the training binaries from the two arrays: the original's make_datasets."""

from pathlib import Path
from typing import Literal

from common.errors import OptionError
from raseg.binary_writer import write_binaries
from raseg.config import Config, Preset
from raseg.data import check_tag, open_volumes, split_volumes
from raseg.inspection import inspect_arrays
from raseg.nnunet import write_dataset


def prepare(
    tag: str | None = None,
    val: int | None = None,
    *,
    config: Config,
    preset: Preset = "port",
    data: Path = Path("datasets"),
    data_dir: Path = Path("datasets/bins"),
    seed: int = 42,
    check: bool = False,
    layout: Literal["paper", "ibsi", "nnunet"] = "paper",
    out: Path = Path("datasets"),
) -> None:
    """Write the training binaries from images_and_labels.npy and pre_images.npy.

    Five files train_and_label_<tag>_batch_<n>.bin, in the port a val_and_label_<tag>_batch_1.bin,
    and an index beside them. One volume is in memory at a time.

    Args:
        tag: name of this set of binaries.
        val: volumes at the end that are held out.
        config: task, validation_volumes, wrap_intensities and, for the draft, the patches.
        preset: where the numbers come from; options after it change single ones.
        data: folder of the arrays; for another layout the folder of the data set.
        data_dir: folder of the binaries.
        seed: of the patches' places (draft).
        check: only look: print everything that is wrong with any array or volume, write nothing,
            and end with status 2 if anything keeps the data from being used; needs no --tag, and
            --val only to look at the split.
        layout: paper; ibsi for the folder ibsi_validation of theibsi/data_sets (NIfTI or DICOM),
            whose T1 scans of limbs become the array of --task bme; or nnunet for a data set of
            nnU-Net whose cases have one size. Nothing else is done then.
        out: folder of the arrays that another layout becomes.
    """
    if layout == "ibsi":
        from raseg.limbs import write_limbs  # SimpleITK and SciPy

        count = write_limbs(data, out)
        print(f"Volumes: {count} in {out}; limbs with a tumour, no wrists and no oedema")
        return
    if layout == "nnunet":
        print(f"Volumes in {out}: {write_dataset(data, out, config).described}")
        return
    if check:
        inspect_arrays(data, config, data_dir, held_out=val).conclude()
        return
    check_tag(tag)
    if val is None:
        raise OptionError("--val: expected the number of volumes that are held out")
    volumes = open_volumes(data, config)
    split = split_volumes(len(volumes), held_out=val, validation=config.validation_volumes)
    counts = write_binaries(volumes, split, data_dir, tag=tag, config=config, seed=seed)
    print(f"Records in the training binaries: {counts}; held out: {len(split['test'])} volumes")
    if split["validation"]:
        print(f"Watched while training: {len(split['validation'])} volumes")
    print(f"Binaries: {data_dir / f'train_and_label_{tag}_batch_1.bin'} ...")
