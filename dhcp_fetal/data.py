"""Cases: finding them, loading one, preparing one for the network.

Arrays are (x, y, z[, channels]) in the axis order of the NIfTI files. Nothing is reoriented or
resampled here: see `common.runs.training_grid` for what `predict` does.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.data.geometry import Geometry, Volume, check_same_grid
from common.data.inspection import count_in_words
from common.data.labels import check_classes, inside, integer_labels, join_labels
from common.data.names import check_id, check_new, keep_subjects_apart, normal_id, subject_of
from common.data.phantoms import read_marker
from common.data.volumes import check_finite, explain_unread, is_volume, read_volume, stem_of
from common.errors import DataError, OptionError
from common.runs.folder import load_run
from dhcp_fetal.cfg.files import read_path_list
from dhcp_fetal.config import Config
from dhcp_fetal.session import CaseFiles, read_dataframe
from dhcp_fetal.tiles import as_weights

ABSENT_CHANNEL = {"v0.7.0": -4.0, "v0.8.4": 0.0}
"""[D7] What a channel listed as `-` is filled with."""


@dataclass(frozen=True)
class Case:
    """One case as it lies on the disk."""

    name: str
    image: np.ndarray
    """(x, y, z, channels) float32."""
    labels: np.ndarray | None
    """(x, y, z) uint8 class numbers."""
    mask: np.ndarray | None
    """(x, y, z) int16 region of interest, see `as_mask`."""
    weight_maps: np.ndarray | None
    """(maps, x, y, z) float32, one per sampling category."""
    scan: Geometry
    """Of the first channel that is there, and of what is written."""


def find_cases(source: Path) -> tuple[CaseFiles, ...]:
    """Return the cases of a table, of a list file or of a folder.

    Args:
        source: .csv with columns channel_..., ground_truth, roi_mask, prediction_filename; or a
            list file with one scan per line; or a folder, each volume of which is a scan.
    Raises:
        DataError: it is missing or names nothing.
    """
    return check_names(list_cases(source), source)


def list_cases(source: Path) -> tuple[CaseFiles, ...]:
    """Return the cases of `find_cases`, whatever their names."""
    source = Path(source)
    if source.is_dir():
        paths = sorted(path for path in source.iterdir() if is_volume(path))
        cases = tuple(CaseFiles((path.absolute(),)) for path in paths)
    elif source.name.lower().endswith(".csv"):
        cases = read_dataframe(source)
    else:
        cases = tuple(CaseFiles((path,)) for path in read_path_list(source))
    if not cases:
        hint = explain_unread(path.name for path in source.iterdir()) if source.is_dir() else ""
        raise DataError(
            f"{source}: found no case; expected a folder or list of scans, or a table{hint}"
        )
    return cases


def name_of(files: CaseFiles) -> str:
    """Return what a case's results are called: its name, or that of its first scan's file."""
    if files.name:
        return files.name
    first = next((path for path in files.channels if path is not None), None)
    return normal_id(stem_of(first)) if first else "unnamed"


def check_names(cases: Sequence[CaseFiles], source: Path | str) -> tuple[CaseFiles, ...]:
    """Return cases, each of which has a name of its own; see `check_name`."""
    places: dict[str, str] = {}
    for number, files in enumerate(cases, start=1):
        check_name(files, places, source, number)
    return tuple(cases)


def check_name(files: CaseFiles, places: dict[str, str], source: Path | str, number: int) -> None:
    """Refuse a name that an earlier case has or that can name no file; add it to `places`.

    The case is `number` of its source, from 1; `places` tells where each name so far stood.
    """
    name, where = name_of(files), f"{source}, case {number}"
    check_id(name, where)
    check_new(name, places, where)
    places[name] = f"case {number}"


def load_case(files: CaseFiles, config: Config, *, check_labels: bool = True) -> Case:
    """Read the files of a case and hold them to one grid.

    Args:
        files: of the case.
        config: uses `compat`, `classes`, `label_ids`, `input_channels`, `multiply_by_mask`.
        check_labels: refuse class numbers the network does not have (run_input_checks).
    Raises:
        DataError: a file cannot be read, lies on another grid, or holds other classes; no channel
            is there, or their number is not the network's.
    Source: preprocessing.py and io.py of DeepMedic; specification 2 and 3.3.
    """
    check_channels(files, config)
    channels = [path and read_file(path, config) for path in files.channels]
    # [G16] The first channel may be the absent one; the engine takes its size from it and fails.
    present = [(image, path) for image, path in zip(channels, files.channels, strict=True) if image]
    scan, scan_path = present[0]
    for image, path in present[1:]:
        check_same_grid(scan, image, names=(str(scan_path), str(path)))
    array = np.empty((*scan.array.T.shape, len(channels)), np.float32)
    for index, image in enumerate(channels):
        array[..., index] = ABSENT_CHANNEL[config.compat] if image is None else image.array.T

    def read_beside(path: Path) -> np.ndarray:
        """Read a file on the grid of the scan, (x, y, z), whatever its values."""
        image = read_file(path, config, finite=False)
        check_same_grid(scan, image, names=(str(scan_path), str(path)))
        return image.array.T

    labels = files.labels and as_classes(read_beside(files.labels), files.labels, config.label_ids)
    if labels is not None and check_labels:
        check_classes(labels, str(files.labels), config.classes)
    mask = files.mask and as_mask(read_beside(files.mask), files.mask, config)
    if None in files.weight_maps:
        raise DataError(f"case {name_of(files)}: a weight map is '-', expected a file")
    maps = [read_beside(path) for path in files.weight_maps]
    for weights, path in zip(maps, files.weight_maps, strict=True):
        check_weights(weights, path)
    stacked = np.stack(maps).astype(np.float32) if maps else None
    return Case(name_of(files), array, labels, mask, stacked, scan.geometry)


def read_file(path: Path, config: Config, *, finite: bool = True) -> Volume:
    """Read one file (Z, Y, X) as the engine takes it: 2-D as one slice, of 4-D as `compat` says.

    [D8] v0.7.0 takes the first volume of a 4-D file; v0.8.4 asks for a single one. `finite` refuses
    NaN and infinite voxels.
    """
    frames = "first" if config.compat == "v0.7.0" else "one"
    return read_volume(path, frames=frames, flat=True, finite=finite)


def check_channels(files: CaseFiles, config: Config) -> None:
    """Refuse a case with another number of channels than the network's, or with none that is there.

    [G16] A channel that is `-` counts.
    """
    if len(files.channels) != config.input_channels:
        raise DataError(
            f"case {name_of(files)}: found {len(files.channels)} channels, "
            f"expected {config.input_channels} (input_channels)"
        )
    if not any(files.channels):
        raise DataError(f"case {name_of(files)}: every channel is '-', expected at least one scan")


def as_classes(array: np.ndarray, path: Path, label_ids: Sequence | None = None) -> np.ndarray:
    """Return class numbers as uint8, of ids as `Config.label_ids` has them; None: of themselves.

    [G31] The engine rounds fractions of any size, 0.5 to background.
    """
    if label_ids is not None:
        return join_labels(integer_labels(array, str(path)), label_ids)
    return integer_labels(array, str(path), least=0, most=255).astype(np.uint8)


def as_mask(array: np.ndarray, path: Path, config: Config) -> np.ndarray:
    """Return a region of interest as int16: 1 wherever the file is not 0.

    [G8] With `multiply_by_mask` its numbers, rounded as the engine does.

    Raises:
        DataError: a value is NaN, or one that is to be multiplied by is none of 16 bits.
    """
    region, limit = inside(array, str(path)), np.iinfo(np.int16).max
    if config.multiply_by_mask and np.abs(array).max() > limit:
        raise DataError(
            f"{path}: found the mask value {array.max():g}; expected at most {limit} to multiply "
            "by, as the engine does (--multiply_by_mask)"
        )
    return as_weights(array if config.multiply_by_mask else region, config)


def prepare_case(case: Case, config: Config) -> np.ndarray:
    """Return a case's image (x, y, z, channels) float32 as `Config.normalisation` says.

    "none" leaves the files' numbers, "volume" takes mean and deviation of every channel over all
    voxels (normalise_t2w_images.py), "brain" over the mask where the case has one.
    """
    return normalise(case.image, config.normalisation, case.mask, name=case.name)


def normalise(
    image: np.ndarray, kind: str, mask: np.ndarray | None = None, *, name: str = "scan"
) -> np.ndarray:
    """Give every channel mean 0 and deviation 1 over all voxels or, of kind "brain", the mask's.

    Image (x, y, z, channels), mask (x, y, z) above 0 inside; None or empty: all voxels. Returns
    float32, a constant channel as 0; of kind "none" the image itself.
    """
    if kind == "none":
        _warn_of_raw_numbers(image, name)
        return image
    inside = mask > 0 if kind == "brain" and mask is not None else np.zeros(0, bool)
    result = np.empty(image.shape, np.float32)
    for channel in range(image.shape[-1]):
        values = image[..., channel]
        counted = values[inside] if inside.any() else values
        mean, deviation = counted.mean(dtype=np.float64), counted.std(dtype=np.float64)
        constant = counted.min() == counted.max()
        result[..., channel] = 0.0 if constant else (values - mean) / deviation
    return result


def _warn_of_raw_numbers(image: np.ndarray, name: str) -> None:
    """Say that an image hardly can be one of mean 0 and deviation 1; such ones segment to nothing.

    Measured on BraTS scans normalised within the brain: deviation 1.7, mean -2.3.
    """
    spread = float(image[::2, ::2, ::2].std())
    if not 0.05 < spread < 20:
        warnings.warn(
            f"{name}: deviation {spread:.3g}; the network expects scans of mean 0 and deviation 1 "
            "(--normalisation volume, or the command prepare)",
            stacklevel=3,
        )


def split_cases(cases: Sequence[CaseFiles], config: Config) -> dict[str, tuple[CaseFiles, ...]]:
    """Divide a list: the last rows are held out, those before them validate, the rest train."""
    held_out = len(cases) - config.held_out_cases
    watched = held_out - config.validation_cases
    if watched < 1:
        raise DataError(
            f"found {count_in_words(len(cases), 'case')}; expected more than held_out_cases and "
            f"validation_cases, {config.held_out_cases} + {config.validation_cases}"
        )
    split = {
        "training": tuple(cases[:watched]),
        "validation": tuple(cases[watched:held_out]),
        "test": tuple(cases[held_out:]),
    }
    note_subjects(split)
    return split


def note_subjects(split: Mapping[str, Sequence[CaseFiles]]) -> str:
    """Refuse a subject on two sides (`DataError`); return what to say where none is known."""
    return keep_subjects_apart({
        name: [(name_of(files), subject_of(next(filter(None, files.channels), Path())))
               for files in part]
        for name, part in split.items()
    })  # fmt: skip


def describe_files(files: CaseFiles) -> dict[str, object]:
    """Return a case as split.json holds it."""
    return {"id": name_of(files), **{k: v for k, v in vars(files).items() if k != "name"}}


def files_from(entry: dict) -> CaseFiles:
    """Return the case of an entry of split.json."""

    def paths(values):
        return tuple(value and Path(value) for value in values)

    labels, mask = paths((entry["labels"], entry["mask"]))
    maps = paths(entry["weight_maps"])
    return CaseFiles(paths(entry["channels"]), labels, mask, maps, entry["id"])


def paths_of(cases: Sequence[CaseFiles]) -> list[Path]:
    """Return every file of some cases once, in order."""
    named = [p for c in cases for p in (*c.channels, c.labels, c.mask, *c.weight_maps) if p]
    return list(dict.fromkeys(named))


def is_phantom(cases: Sequence[CaseFiles]) -> bool:
    """Return whether any scan lies in a folder that a phantom generator wrote."""
    folders = {path.parent for path in paths_of(cases)}
    return any(read_marker(place) for folder in folders for place in (folder, folder.parent))


def check_weights(array: np.ndarray, path: Path) -> None:
    """Refuse a weight map with weights below 0 or that are no numbers."""
    check_finite(array, path)
    if array.min() < 0:
        raise DataError(f"{path}: found {array.min()}, expected weights of 0 or more")


def choose_cases(*, image, cases, mask, session, home) -> tuple[CaseFiles, ...]:
    """Return the scans that the options name; refuse several kinds of them, or none."""
    given = [name for name, value in (("--image", image), ("--cases", cases), ("-test", session))
             if value is not None]  # fmt: skip
    if len(given) > 1:
        raise OptionError(f"{' and '.join(given)} were given; expected one of them")
    if mask is not None and image is None:
        raise OptionError("--mask belongs to --image; a table has a column roi_mask")
    if image is not None:
        return (CaseFiles((Path(image).absolute(),), mask=mask),)
    if cases is not None:
        return find_cases(cases)
    if session is not None:
        return check_names(session.cases, "the lists of -test")
    if home is None:
        raise OptionError("expected --image, --cases or -test: scans to segment")
    held_out = tuple(map(files_from, load_run(home).read_split()["test"]))
    if not held_out:
        raise OptionError(f"{home} has no held-out cases; expected --image or --cases")
    return held_out
