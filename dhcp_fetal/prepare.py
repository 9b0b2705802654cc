"""Normalise scans to mean 0 and deviation 1, as the original's normalise_t2w_images.py."""

from pathlib import Path
from typing import Literal

from common.data.names import check_outputs
from common.data.nnunet import read_dataset
from common.data.tables import column_name, write_table
from common.errors import DataError, OptionError
from common.runs.failures import Failures
from dhcp_fetal.atlas import write_atlas
from dhcp_fetal.config import Config, Preset
from dhcp_fetal.data import find_cases
from dhcp_fetal.inspection import inspect_cases
from dhcp_fetal.normalised_files import nifti_name, normalise_file
from dhcp_fetal.session import CHANNEL


def prepare(
    images: Path,
    out: Path = Path("normalised"),
    *,
    config: Config,
    preset: Preset = "port",
    over: Literal["volume", "brain"] = "volume",
    masks: Path | None = None,
    layout: Literal["table", "nnunet", "atlas"] = "table",
    check: bool = False,
) -> None:
    """Normalise the scans of a folder, list or table to mean 0 and deviation 1.

    Training and prediction normalise by themselves (--normalisation); this writes the normalised
    scans, under the names they had.

    Args:
        images: folder or list file of scans, or table; for another layout the folder of the data.
        out: folder of the normalised scans, not the one they lie in; the table to write for
            --layout nnunet, the folder of three tables for --layout atlas.
        config: normalise_to_float and copy_header matter here.
        preset: where the numbers come from; code keeps the type of the input, quantised.
        over: the whole volume, background included (the original), or the brain alone.
        masks: folder of brain masks under the scans' names, for over brain; default: the table's
            column roi_mask.
        layout: table; nnunet for a data set of nnU-Net or the Medical Segmentation Decathlon; or
            atlas for a public atlas of several ages. These become tables; nothing else is done.
        check: only look: print everything that is wrong with any file of the cases, labels and
            masks included, write nothing, and end with status 2 if anything keeps the data from
            being used; classes and input_channels matter here.
    """
    if layout == "nnunet":
        dataset = read_dataset(images)
        channels = [f"{CHANNEL}{n}_{column_name(name)}" for n, name in enumerate(dataset.channels)]
        rows = [(*case.images, case.label, case.id) for case in dataset.labelled]
        write_table(out, (*channels, "ground_truth", "prediction_filename"), rows)
        print(f"Table {out}: {dataset.described}")
        return
    if layout == "atlas":
        count, held_out = write_atlas(images, out)
        print(f"Tables brain.csv, cortex.csv, ages.csv in {out}: {count} ages, the last {held_out} "
              "of the tables between the others")  # fmt: skip
        return
    if check:
        inspect_cases(images, config, out).conclude()
        return
    cases = find_cases(images)
    for files in cases:
        if len(files.channels) != 1 or files.channels[0] is None:
            raise DataError(f"{images}: expected one scan per case, found {len(files.channels)}")
    scans = [files.channels[0] for files in cases]
    regions = [None] * len(cases)
    if over == "brain":
        regions = [f.mask for f in cases] if masks is None else [masks / s.name for s in scans]
        if None in regions:
            name = scans[regions.index(None)].name
            raise OptionError(f"{name}: --over brain needs --masks or a column roi_mask")
    targets = [Path(out) / nifti_name(scan) for scan in scans]
    outputs = [(str(scan), [target]) for scan, target in zip(scans, targets, strict=True)]
    check_outputs(outputs, scans, option=f"--out {out}")
    Path(out).mkdir(parents=True, exist_ok=True)
    failures = Failures(len(scans), "scan")
    for scan, target, mask in zip(scans, targets, regions, strict=True):
        with failures.of(str(scan)):
            normalise_file(scan, target, config, mask=mask)
    print(f"Normalised scans: {len(cases) - len(failures.names)} in {out}")
    failures.conclude()
