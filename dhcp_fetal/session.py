"""The files of a session: what a training or test configuration file says beside `Config`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.data.names import normal_id
from common.data.tables import read_table, rows_by_name
from common.errors import DataError, OptionError
from dhcp_fetal.cfg.files import CfgFile, absolute, read_cfg, read_list, read_path_list
from dhcp_fetal.cfg.values import table_of, text

CHANNEL = "channel_"
COLUMNS = ("ground_truth", "roi_mask", "prediction_filename")
"""What a table may hold beside `CHANNEL`..., in any order."""
NIFTI_ENDINGS = (".nii.gz", ".nii")
Range = tuple[int, int]


@dataclass(frozen=True)
class CaseFiles:
    """Files of one case; whether they exist is left to whoever reads them."""

    channels: tuple[Path | None, ...]
    """One image per channel; [G16] None where the list says `-`, the first one included."""
    labels: Path | None = None
    mask: Path | None = None
    weight_maps: tuple[Path | None, ...] = ()
    """One map per category of samples."""
    name: str | None = None
    """What the case's results are called, without `.nii` or `.nii.gz`."""


@dataclass(frozen=True)
class Saved:
    """Which results of whole volumes are written."""

    from_cfg: bool = False
    """The names are those of a test cfg, which speaks of one network; see `chain.stage_name`."""
    labels: bool = True
    probabilities: tuple[bool, ...] = ()
    """One entry per class; empty: all."""
    label_suffix: str = "Segm"
    probability_suffix: str = "ProbMapClass"
    feature_ranges: tuple[tuple[Range | None, ...], ...] = ((), (), ())
    """Feature maps to write of each layer of the normal, the low-resolution and the fully connected
    pathways, as [first, behind the last]; empty: none."""


@dataclass(frozen=True)
class Session:
    """One run of the original's command line."""

    name: str
    output_folder: Path
    weights: Path | None
    """Checkpoint to begin with (cnnModelFilePath)."""
    cases: tuple[CaseFiles, ...]
    validation_cases: tuple[CaseFiles, ...] = ()
    saved: Saved = Saved()
    """Of the test cases, or of the validation cases while training."""
    tensorboard: bool = False
    check_inputs: bool = True


def read_test_session(path: Path) -> Session:
    """Read the files that a test cfg names.

    Raises:
        DataError: a list is missing, or lists differ in length; names both.
        OptionError: see `cfg.read_cfg`; a required key is missing.
    """
    file = read_cfg(path, "test")
    cases = _read_cases(file, "")
    return Session(cases=cases, saved=_read_saved(file, ""), **_common(file, "testSession"))


def read_train_session(path: Path) -> Session:
    """Read the files that a training cfg names; errors as of `read_test_session`."""
    file = read_cfg(path, "train")
    cases, validation = _read_cases(file, "Training", needs_labels=True), ()
    on_samples = file.get("performValidationOnSamplesThroughoutTraining", False)
    if on_samples or file.get("performFullInferenceOnValidationImagesEveryFewEpochs", False):
        validation = _read_cases(file, "Validation", needs_labels=on_samples)
    return Session(
        cases=cases,
        validation_cases=validation,
        saved=_read_saved(file, "Val"),
        tensorboard=file.get("tensorboard_log", False),
        **_common(file, "trainSession"),
    )


def _common(file: CfgFile, name: str) -> dict[str, object]:
    file.require("folderForOutput")
    return {
        "name": file.get("sessionName", name),
        "output_folder": file.resolve("folderForOutput"),
        "weights": file.resolve("cnnModelFilePath"),
        "check_inputs": file.get("run_input_checks", True),
    }


def _read_saved(file: CfgFile, ending: str) -> Saved:
    key = "suffixForSegmAndProbsDict" + ending
    try:
        suffixes = table_of({"segm": text, "prob": text})(file.get(key, {}))
    except ValueError as mistake:
        raise OptionError(f"{file.where(key)}: expected {mistake}") from None
    ranges = ((), (), ())
    if file.get("saveIndividualFms" + ending, False):
        first, last = "minMaxIndicesOfFmsToSaveFromEachLayerOf", "Pathway" + ending
        pathways = ("Normal", "Subsampled", "FullyConnected")
        ranges = tuple(file.get(first + pathway + last, ()) for pathway in pathways)
    return Saved(
        from_cfg=True,
        labels=file.get("saveSegmentation" + ending, True),
        probabilities=file.get("saveProbMapsForEachClass" + ending, ()),
        label_suffix=suffixes.get("segm", "Segm"),
        probability_suffix=suffixes.get("prob", "ProbMapClass"),
        feature_ranges=ranges,
    )


def _read_cases(file: CfgFile, subset: str, *, needs_labels: bool = False) -> tuple[CaseFiles, ...]:
    """Read one subset's cases from a data frame or from lists; a test cfg's subset has no name."""
    short = {"Training": "Train", "Validation": "Val"}.get(subset, "")
    dataframe, channels = f"dataframe_{short}".lower().rstrip("_"), f"channels{subset}"
    if dataframe in file.values:
        return read_dataframe(file.resolve(dataframe))
    if channels not in file.values:
        raise OptionError(f"{file.path}: expected the key {channels} or {dataframe}")
    if needs_labels:
        file.require(f"gtLabels{subset}")
    channel_lists = [file.locate(name) for name in file.get(channels)]
    read = partial(_read_column, reference=channel_lists[0])
    scans = zip(*map(read, channel_lists), strict=True)
    labels, masks = (read(file.resolve(f"{key}{subset}")) for key in ("gtLabels", "roiMasks"))
    map_lists = file.get(f"weightedMapsForSamplingEachCategory{short}", ())
    maps = [read(file.locate(name)) for name in map_lists]
    names = read(file.resolve(f"namesForPredictionsPerCase{short}"), paths=False)
    weights = zip(*maps, strict=True) if maps else [()] * len(labels)
    rows = zip(scans, labels, masks, weights, map(strip_nifti_ending, names), strict=True)
    return tuple(CaseFiles(*row) for row in rows)


def _read_column(path: Path | None, *, reference: Path, paths: bool = True) -> Sequence:
    """Read a list that must be as long as the first channel's; None: nothing for each case."""
    expected = len(read_list(reference))
    if path is None:
        return (None,) * expected
    column = read_path_list(path) if paths else read_list(path)
    if len(column) != expected:
        raise DataError(
            f"{path}: expected {expected} entries as in {reference}, found {len(column)}"
        )
    return column


def read_dataframe(path: Path) -> tuple[CaseFiles, ...]:
    """Read a csv table of cases; its paths are relative to its folder.

    Columns `CHANNEL`... become the channels in the order of their names; an empty cell or `-`: no
    file. See `common.data.tables` for what is refused.
    Source: specification 2.
    """
    table = read_table(Path(path).absolute())
    rows = rows_by_name(table, COLUMNS, prefixes=(CHANNEL,))
    channels = sorted(name for name in (rows[0] if rows else {}) if name.startswith(CHANNEL))
    if not channels:
        raise DataError(f"{path}: expected rows with columns {CHANNEL}..., found none")

    def locate(entry: str | None) -> Path | None:
        return absolute(table.path.parent, entry) if entry not in (None, "", "-") else None

    return tuple(
        CaseFiles(
            channels=tuple(locate(row[name]) for name in channels),
            labels=locate(row.get("ground_truth")),
            mask=locate(row.get("roi_mask")),
            name=strip_nifti_ending(row.get("prediction_filename") or None),
        )
        for row in rows
    )


def strip_nifti_ending(name: str | None) -> str | None:
    """Return a result's name without `.nii` or `.nii.gz`."""
    if name is None:
        return None
    ending = next((e for e in NIFTI_ENDINGS if name.lower().endswith(e)), "")
    return normal_id(name[: len(name) - len(ending)])
