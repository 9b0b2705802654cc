"""One scan in, one file of labels out, by the `predict` of any paper: `predict SCAN -o LABELS`."""

import importlib
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np

from common.data.dicom_paths import find_series
from common.data.labels import integer_labels
from common.data.volumes import FORMATS, ending_of, is_volume, read_volume, write_volume
from common.errors import OptionError
from common.files import scratch_folder

DICOM = ".dcm"
"""Ending of a DICOM Segmentation."""


def check_place(path: Path, scan: Path, *, name: str) -> None:
    """Raise `OptionError`, which calls it `name`, for a file in which no labels of a scan can be
    written: of another kind, in no folder to write to, or a segmentation of what is no series."""
    if not path.name.lower().endswith((*FORMATS, DICOM)):
        expected = f"{', '.join(FORMATS)}, or {DICOM} of a DICOM series"
        raise OptionError(f"{name}: unknown kind of volume; expected {expected}")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise OptionError(f"{name}: expected a folder that exists and can be written")
    if path.name.lower().endswith(DICOM) and find_series(scan) is None:
        raise OptionError(f"{name}: {scan} is no series of DICOM; expected one, or .nii.gz")


def predict_one(predict: Callable[[Path], None], scan: Path, output: Path, *, paper: str) -> None:
    """Let a paper segment a scan into a folder of its own, and put the labels where asked.

    Args:
        predict: writes its results into the folder it is given.
        scan: file or series that it reads.
        output: a volume of any format, or .dcm for a DICOM Segmentation that refers to the scan.
        paper: its package, which a DICOM Segmentation names, and whose `config` says in `SEGMENT`
            what is found.

    Raises:
        OptionError: see `check_place`; the file is the scan; or there are several maps, as of brain
            and cortex.
    """
    check_place(output, scan, name=f"-o {output}")
    if output.resolve() == scan.resolve():
        raise OptionError(f"-o {output} is the scan itself; expected another file")
    with scratch_folder(output) as folder:
        predict(folder)
        found = [path for path in sorted(folder.iterdir()) if is_volume(path)]
        if len(found) != 1:
            made = ", ".join(path.name for path in found) or "none"
            raise OptionError(f"-o {output}: found the label maps {made}; expected one, or --out")
        write_labels(found[0], output, scan, paper=paper)
    print(f"Labels: {output}")


def write_labels(made: Path, output: Path, scan: Path, *, paper: str) -> None:
    """Move or convert a label map that was made for a scan; see `predict_one`."""
    if output.name.lower().endswith(DICOM):
        labels = integer_labels(read_volume(made).array, str(made))
        dicom_seg = importlib.import_module("common.data.dicom_seg")  # its libraries are an extra
        what, numbers = importlib.import_module(f"{paper}.config").SEGMENT, np.unique(labels)
        several = np.count_nonzero(numbers) > 1
        names = {int(number): f"{what} {number}" if several else what for number in numbers}
        version = metadata.version("segmentation-reproductions")
        dicom_seg.write_segmentation(
            output, labels, scan, names=names, algorithm=paper, version=version
        )
    elif ending_of(made) == ending_of(output) != ".mhd":
        made.replace(output)
    else:
        volume = read_volume(made)
        write_volume(output, volume.array, volume.geometry)
