"""Normalise scans to mean 0 and deviation 1, as the original's normalise_t2w_images.py."""

from pathlib import Path
from typing import Literal

from dhcp_fetal.config import Config, Preset


def prepare(
    images: Path,
    out: Path = Path("normalised"),
    *,
    config: Config,
    preset: Preset = "port",
    over: Literal["volume", "brain"] = "volume",
    masks: Path | None = None,
    check: bool = False,
) -> None:
    """Normalise the scans of a folder, list or table to mean 0 and deviation 1.

    Training and prediction normalise by themselves (--normalisation); this writes the normalised
    scans, under the names they had.

    Args:
        images: folder or list file of scans, or table.
        out: folder of the normalised scans; not the one they lie in.
        config: normalise_to_float and copy_header matter here.
        preset: where the numbers come from; code keeps the type of the input, quantised.
        over: the whole volume, background included (the original), or the brain alone.
        masks: folder of brain masks under the scans' names, for over brain; default: the table's
            column roi_mask.
        check: only look: print everything that is wrong with any file of the cases, labels and
            masks included, write nothing, and end with status 2 if anything keeps the data from
            being used; classes and input_channels matter here.
    """
    if check:
        from dhcp_fetal.inspection import inspect_cases

        inspect_cases(images, config, out).conclude()
        return
    from common.data.names import check_outputs
    from common.errors import DataError, OptionError
    from dhcp_fetal.data import find_cases

    cases = find_cases(images)
    for files in cases:
        if len(files.channels) != 1 or files.channels[0] is None:
            raise DataError(f"{images}: expected one scan per case, found {len(files.channels)}")
    scans = [files.channels[0] for files in cases]
    regions = [None] * len(cases)
    if over == "brain":
        regions = [
            files.mask if masks is None else masks / scan.name
            for files, scan in zip(cases, scans, strict=True)
        ]
        if None in regions:
            name = scans[regions.index(None)].name
            raise OptionError(f"{name}: --over brain needs --masks or a column roi_mask")
    targets = [Path(out) / nifti_name(scan) for scan in scans]
    outputs = [(str(scan), [target]) for scan, target in zip(scans, targets, strict=True)]
    check_outputs(outputs, scans, option=f"--out {out}")
    Path(out).mkdir(parents=True, exist_ok=True)
    for scan, target, mask in zip(scans, targets, regions, strict=True):
        normalise_file(scan, target, config, mask=mask)
    print(f"Normalised scans: {len(cases)} in {out}")


def nifti_name(scan: Path) -> str:
    """Return the name of a normalised scan: its own, as .nii.gz where it is no NIfTI."""
    from common.data.nifti import ENDINGS
    from common.data.volumes import ending_of, stem_of

    return scan.name if ending_of(scan) in ENDINGS else f"{stem_of(scan)}.nii.gz"


def normalise_file(source: Path, target: Path, config: Config, *, mask: Path | None = None) -> None:
    """Normalise one scan; of a 4-D file the first volume.

    Args:
        source: NIfTI.
        target: NIfTI.
        config: uses `normalise_to_float` [G25] and `copy_header`.
        mask: over whose voxels other than 0 mean and deviation are taken; None: all.
    Raises:
        DataError: a file cannot be read or written, or they lie on different grids.
    Source: normalise_t2w_images.py; specification 3.1.
    """
    from dataclasses import replace

    import numpy as np

    from common.data.geometry import check_same_grid
    from common.data.labels import inside
    from common.data.volumes import read_volume
    from dhcp_fetal.outputs import write_result

    scan = read_volume(source, frames="first", flat=True)
    values = scan.array.T.astype(np.float64)
    counted = values
    if mask is not None:
        region = read_volume(mask, flat=True, finite=False)
        check_same_grid(scan, region, names=(str(source), str(mask)))
        brain = inside(region.array.T, str(mask))
        counted = values[brain] if brain.any() else values
    deviation = counted.std()
    constant = counted.min() == counted.max()
    # A constant image is divided by 0 in the original.
    result = np.zeros_like(values) if constant else (values - counted.mean()) / deviation
    header = scan.geometry.nifti
    kept = scan.array.dtype if header is None else header.get_data_dtype()
    write_result(
        target,
        result.astype(np.float32) if config.normalise_to_float else result,
        scan.geometry,
        replace(config, copy_header=True),
        stored=None if config.normalise_to_float else kept,
    )
