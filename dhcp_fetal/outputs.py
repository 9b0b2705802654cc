"""The files of a segmented case: names and headers as the engine's, or our own short ones."""

from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from common.data.geometry import Geometry
from common.data.nifti import ALIGNED, affine_of, header_for
from common.data.volumes import write_volume
from dhcp_fetal.config import Config
from dhcp_fetal.session import Saved
from dhcp_fetal.tiles import Prediction


def result_paths(
    out: Path, name: str, config: Config, *, saved: Saved | None
) -> dict[Path, int | None]:
    """Return the files of a case in the order of writing, and the class whose probabilities it is.

    The label map, of class None, is <name>; with `saved` <name>_Segm, and then there are
    <name>_ProbMapClass<c>, too.
    """
    if saved is None:
        return {out / f"{name}.nii.gz": None}
    ending = f"_{saved.label_suffix}" if saved.label_suffix else ""
    wanted = saved.probabilities or (True,) * config.classes
    paths = {out / f"{name}{ending}.nii.gz": None} if saved.labels else {}
    return paths | {
        out / f"{name}_{saved.probability_suffix}{c}.nii.gz": c
        for c, chosen in enumerate(wanted[: config.classes])
        if chosen
    }


def write_results(
    out: Path, name: str, found: Prediction, scan: Geometry, config: Config, *, saved: Saved | None
) -> None:
    """Write the results of a case in the scan's own geometry; see `result_paths`."""
    out.mkdir(parents=True, exist_ok=True)
    for path, class_ in result_paths(out, name, config, saved=saved).items():
        array = found.labels if class_ is None else found.probabilities[..., class_]
        write_result(path, array, scan, config)


def write_result(
    path: Path, array: np.ndarray, scan: Geometry, config: Config, *, stored: np.dtype | None = None
) -> None:
    """Write voxels (x, y, z) in the geometry of a scan; of `Config` `copy_header` [G24] counts.

    `stored` is the type in the file, None that of the array; integers get a slope and an intercept.

    Raises:
        DataError: the folder cannot be written or the disk is full.
    """
    header = (scan_header if config.copy_header else engine_header)(scan, array.shape)
    header.set_data_dtype(array.dtype if stored is None else stored)
    write_volume(path, array.T, scan, header=header)


def scan_header(scan: Geometry, shape: tuple[int, int, int]) -> nibabel.Nifti1Header:
    """Return the header of a scan for voxels of another range; a new one where it has none."""
    if scan.nifti is None:
        return header_for(shape[::-1], np.dtype(np.float32), scan)
    header = scan.nifti.copy()
    header["cal_min"] = header["cal_max"] = 0
    return header


def engine_header(scan: Geometry, shape: tuple[int, int, int]) -> nibabel.Nifti1Header:
    """Return a header as the engine's [G24]: sform code 2, qform code 0, all others empty."""
    affine, spacing = affine_of(scan), scan.spacing_mm
    if scan.nifti is not None:  # as it is in the file, whatever its unit
        found = scan.nifti["pixdim"][1:4]
        spacing = found if (found > 0).all() else spacing
        with suppress(HeaderDataError, ValueError):
            affine = scan.nifti.get_best_affine()
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_qform(affine, code=0)
    header.set_zooms(spacing)
    header.set_sform(affine, code=ALIGNED)
    return header
