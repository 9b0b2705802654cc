"""Patients of the soft-tissue sarcoma collection as the IBSI publishes them, NIfTI or DICOM.

Source of the data: theibsi/data_sets, folder ibsi_validation: nifti/<id>/CT_image.nii.gz and
CT_mask.nii.gz, or dicom/<id>/CT/image with the contours in CT/mask; PET and MR_T1 likewise. Every
scan is cropped 5 cm around the contour.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.data.dicom import read_contours, read_series
from common.data.geometry import Volume, check_same_grid
from common.data.labels import inside
from common.data.names import check_id
from common.data.volumes import read_volume
from common.errors import DataError

STRUCTURE = "GTV_Mass"
MARGIN_MM = 50.0


@dataclass(frozen=True)
class Source:
    """Where one patient lies."""

    id: str
    nifti: Path | None
    dicom: Path | None

    def read(self, modality: str, *, lesion: bool) -> tuple[Volume, Volume | None, Any]:
        """Read a scan in the units of its files, and the lesion on it.

        Args:
            modality: CT, PET or MR_T1.
            lesion: whether the lesion is wanted: uint8 0 and 1 on the scan's grid, else None.

        Returns:
            scan, lesion, and the series (`common.data.dicom.Series`) where the scan is DICOM.

        Raises:
            DataError: a file is missing or cannot be used; the lesion is empty, or on another grid.
        """
        series = mask = None
        if self.nifti:
            scan = read_volume(self.nifti / f"{modality}_image.nii.gz")
            if lesion:
                path = self.nifti / f"{modality}_mask.nii.gz"
                found = read_volume(path)
                mask = Volume(inside(found.array, str(path)).astype(np.uint8), found.geometry)
        else:
            series = read_series(self.dicom / modality / "image")
            scan = series.volume
            if lesion:
                contours = self.dicom / modality / "mask" / "RS.dcm"
                within = read_contours(contours, STRUCTURE, scan)
                mask = Volume(within.astype(np.uint8), scan.geometry)
        if mask is not None:
            check_same_grid(scan, mask, names=(f"{self.id}: {modality}", "its lesion"))
            if not mask.array.any():
                raise DataError(f"{self.id}: the lesion's mask is empty")
        return scan, mask, series


def find_sources(folder: Path) -> list[Source]:
    """Return the patients of the collection, those with NIfTI files and those with DICOM.

    Raises:
        DataError: the folder holds none, or a name that cannot be an id.
    """
    folder = Path(folder)
    found: dict[str, dict[str, Path]] = {}
    for kind in ("nifti", "dicom"):
        for path in sorted((folder / kind).glob("*/")):
            check_id(path.name, str(folder / kind))
            found.setdefault(path.name, {})[kind] = path
    if not found:
        raise DataError(
            f"{folder}: found no nifti/<patient> or dicom/<patient>; expected the folder "
            "ibsi_validation of theibsi/data_sets"
        )
    return [Source(id_, of.get("nifti"), of.get("dicom")) for id_, of in sorted(found.items())]
