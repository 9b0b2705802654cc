"""Scans written with mean 0 and deviation 1, as normalise_t2w_images.py does."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from common.data.geometry import check_same_grid
from common.data.labels import inside
from common.data.nifti import ENDINGS
from common.data.volumes import ending_of, read_volume, stem_of
from dhcp_fetal.config import Config
from dhcp_fetal.outputs import write_result


def nifti_name(scan: Path) -> str:
    """Return the name of a normalised scan: its own, as .nii.gz where it is no NIfTI."""
    return scan.name if ending_of(scan) in ENDINGS else f"{stem_of(scan)}.nii.gz"


def normalise_file(source: Path, target: Path, config: Config, *, mask: Path | None = None) -> None:
    """Normalise one scan; of a 4-D file the first volume.

    Mean and deviation are taken over the mask's voxels other than 0, or over all. Of `Config`
    `normalise_to_float` [G25] counts.

    Source: normalise_t2w_images.py; specification 3.1.
    """
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
    if config.normalise_to_float:
        result, kept = result.astype(np.float32), None
    write_result(target, result, scan.geometry, replace(config, copy_header=True), stored=kept)
