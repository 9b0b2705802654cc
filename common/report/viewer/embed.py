"""One case in three planes: `evaluate` writes it as small NIfTI files, the suite's page embeds it.

Scans are reduced to 256 grey levels and, where large, to every n-th voxel: enough to look at, not
to measure. The measures of a report come from the files of the run, never from these.
"""

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from common.data.geometry import Geometry
from common.data.nifti import affine_of
from common.errors import RunError
from common.files import atomic_file, read_json, write_json

FOLDER = "viewer"
VOLUMES = ("scan", "reference", "prediction")
MOST_VOXELS = 3_000_000
"""Of one volume: about 2 MB of page for a scan, so that five papers stay below 25 MB."""
GREY_LEVELS = 255


@dataclass(frozen=True)
class ViewedCase:
    """Scan, reference and prediction of one case on one grid: (x, y, z) intensities and labels."""

    id: str
    scan: np.ndarray
    reference: np.ndarray
    prediction: np.ndarray
    affine: np.ndarray
    """(4, 4), from voxels to mm in the axes right, anterior, superior, as NIfTI has it."""
    oriented: bool = True
    """Whether the data say where left and right are; else the viewer shows no letters."""

    @classmethod
    def from_zyx(
        cls, case_id: str, volumes: Sequence[np.ndarray], geometry: Geometry, *, oriented=True
    ) -> "ViewedCase":
        """Build it from scan, reference and prediction, arrays (Z, Y, X), and their geometry."""
        return cls(case_id, *(np.transpose(v) for v in volumes), affine_of(geometry), oriented)


@dataclass(frozen=True)
class EmbeddedCase:
    """A case as the page holds it: base64 of gzip'd NIfTI by name of the volume, and its facts."""

    id: str
    volumes: dict[str, str]
    shape: tuple[int, ...]
    steps: tuple[int, ...]
    oriented: bool
    phantom: bool


def write_case(folder: Path, case: ViewedCase, *, phantom: bool) -> None:
    """Write a case as scan.nii.gz, reference.nii.gz, prediction.nii.gz and case.json, or raise
    `RunError`; arrays of different shapes are a `ValueError`."""
    arrays = (case.scan, case.reference, case.prediction)
    if len({array.shape for array in arrays}) != 1 or case.scan.ndim != 3:
        raise ValueError(f"expected three volumes of one shape, found {[a.shape for a in arrays]}")
    steps = choose_steps(case.scan.shape, np.linalg.norm(case.affine[:3, :3], axis=0))
    every = tuple(slice(None, None, step) for step in steps)
    affine = case.affine @ np.diag([*steps, 1.0])
    reduced = (as_grey(case.scan[every]), *(as_labels(array[every]) for array in arrays[1:]))
    for name, array in zip(VOLUMES, reduced, strict=True):
        with atomic_file(folder / f"{name}.nii.gz") as file:
            file.write(nifti_bytes(array, affine))
    facts = {"case": case.id, "shape": case.scan.shape, "steps": steps}
    write_json(folder / "case.json", {**facts, "oriented": case.oriented, "phantom": phantom})


def read_case(folder: Path) -> EmbeddedCase:
    """Read what `write_case` wrote, ready for embedding; raise `RunError` if it is damaged."""
    facts = read_json(folder / "case.json")
    try:
        volumes = {}
        for name in VOLUMES:
            content = (folder / f"{name}.nii.gz").read_bytes()
            gzip.decompress(content)  # a damaged volume would be an empty viewer
            volumes[name] = base64.b64encode(content).decode("ascii")
        return EmbeddedCase(
            str(facts["case"]), volumes, tuple(facts["shape"]), tuple(facts["steps"]),
            bool(facts["oriented"]), bool(facts["phantom"]),
        )  # fmt: skip
    except (OSError, EOFError, KeyError, TypeError) as failure:
        raise RunError(
            f"{folder} holds no viewable case ({type(failure).__name__}: {failure}); run evaluate "
            "again"
        ) from failure


def choose_steps(shape: Sequence[int], spacing_mm: Sequence[float]) -> tuple[int, ...]:
    """Return which n-th voxel of each axis is kept, so that at most `MOST_VOXELS` are.

    The axis with the finest voxels is thinned first, which brings the voxels nearer to cubes.
    """
    steps = np.ones(3, int)
    while np.prod(-(-np.asarray(shape) // steps)) > MOST_VOXELS:
        steps[np.argmin(np.multiply(spacing_mm, steps))] += 1
    return tuple(steps.tolist())


def as_grey(scan: np.ndarray) -> np.ndarray:
    """Return intensities as uint8, 0 at the 0.5th percentile and 255 at the 99.5th."""
    low, high = np.percentile(scan, (0.5, 99.5))
    scaled = (scan.astype(np.float32) - low) / max(high - low, 1e-6)
    return np.rint(np.clip(scaled, 0, 1) * GREY_LEVELS).astype(np.uint8)


def as_labels(labels: np.ndarray) -> np.ndarray:
    """Return labels as uint8, renumbered in their order where a number does not fit."""
    if labels.min() >= 0 and labels.max() <= GREY_LEVELS:
        return labels.astype(np.uint8)
    values, places = np.unique(labels, return_inverse=True)
    first = int(np.searchsorted(values, 1))  # what is not positive is background
    return np.clip(places.reshape(labels.shape) - first + 1, 0, GREY_LEVELS).astype(np.uint8)


def nifti_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    """Return a volume (x, y, z) uint8 as a gzip'd NIfTI file; the same bytes for the same input."""
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=9, mtime=0)
