"""One scan through one network or through both: first the brain, then the cortex within it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import keras
import numpy as np

from common.cost.memory import warn_of_memory
from common.errors import DataError
from common.inference.command import show_progress
from common.inference.extras import (
    NONE,
    Extras,
    averaged,
    axes_of,
    clean_up,
    entropy_of,
)
from common.runs.training_grid import TrainingGrid, fit_scan, recorded_grid
from dhcp_fetal.config import AXES, Config
from dhcp_fetal.data import Case, load_case, prepare_case
from dhcp_fetal.features import write_features
from dhcp_fetal.inference import on_volumes
from dhcp_fetal.measures import engine_dice
from dhcp_fetal.model import build_model
from dhcp_fetal.networks import load_run_network, load_weights
from dhcp_fetal.outputs import write_result, write_results
from dhcp_fetal.plans import Plan, entropy_path, stage_name
from dhcp_fetal.session import CaseFiles, Saved
from dhcp_fetal.tiles import Prediction, as_weights


@dataclass(frozen=True)
class Stage:
    """A network and what it looks for."""

    what: str
    """brain, cortex, or labels for a network on its own."""
    segment: Callable[..., Prediction]
    """The network on volumes; see `inference.on_volumes`."""
    config: Config
    model: keras.Model | None = None
    """Needed for feature maps only."""
    grid: TrainingGrid | None = None
    """That of its training, where it is known."""
    resample: bool = False
    """Interpolate scans of another voxel size."""
    extras: Extras = NONE


def load_stage(plan: Plan) -> Stage:
    """Load the networks of a plan; the stage shows on a terminal how far it is."""
    if plan.of_run:
        network, _ = load_run_network(plan.source)
    else:
        network = build_model(plan.config)
        load_weights(network, plan.source)
    networks = [(network, plan.config)]
    networks += [(load_run_network(run)[0], config) for run, config in plan.others]
    progress = show_progress("blocks of tiles")
    functions = [on_volumes(each, config, progress=progress) for each, config in networks]
    segment = averaged_labels(functions, plan.config, plan.extras)
    grid = recorded_grid(plan.source) if plan.of_run else None
    return Stage(plan.what, segment, plan.config, network, grid, plan.resample, plan.extras)


def segment_case(
    files: CaseFiles, stages: Sequence[Stage], out: Path, *, saved: Saved | None
) -> str:
    """Segment one scan, write its files and return a line about it.

    The brain's map is <name>_brain where another stage follows. Where two stages are run, the mask
    of the files is not looked at. `saved` are the original's names, or None for ours.

    Raises:
        DataError: the scan cannot be read, or no brain was found, in which case empty maps have
            been written.
    """
    began = time.monotonic()
    chained = len(stages) > 1
    wanted = replace(files, mask=None, labels=None) if chained else files
    case = load_case(replace(wanted, weight_maps=()), stages[0].config, check_labels=False)
    found = None
    for number, stage in enumerate(stages):
        found, done = segment_stage(case, stage)
        labels = clean_up(found.labels, stage.extras, case.scan.spacing_mm)
        found = Prediction(labels, found.probabilities)
        last = number == len(stages) - 1
        name = stage_name(case.name, stages, number, saved)
        write_results(out, name, found, case.scan, stage.config, saved=saved)
        if stage.extras.entropy:
            doubt = entropy_of(found.probabilities, binary=False)
            write_result(entropy_path(out, name), doubt, case.scan, stage.config)
        if saved is not None and any(saved.feature_ranges):
            if done:
                raise DataError(f"it would be {done}; expected a scan as trained on for features")
            folder = out.parent / "features"
            write_features(stage.model, case, stage.config, saved.feature_ranges, folder)
        if stage.what == "brain" and not found.labels.any():
            if not last:
                name = stage_name(case.name, stages, number + 1, saved)
                write_nothing(out, name, case, stages[-1].config, saved=saved)
            raise DataError("no brain was found; an empty map was written")
        if not last:
            case = replace(case, mask=(found.labels > 0).astype(np.int16))
    line = describe(case, found, stages[-1].config, seconds=time.monotonic() - began)
    return f"{line}; {done}" if done else line


def averaged_labels(functions: Sequence[Callable], config: Config, extras: Extras) -> Callable:
    """Return the only function, or one that takes the most probable class of the mean of all."""
    if not extras.averages:
        return functions[0]

    def probabilities_of(function: Callable) -> Callable:
        return lambda image, mask: {"mean": function(image, mask).probabilities}

    mean = averaged([*map(probabilities_of, functions)], axes_of(extras, AXES))

    def segment(image: np.ndarray, mask: np.ndarray | None = None) -> Prediction:
        found = mean(image, mask)["mean"]
        weight = np.ones(1, np.int16) if mask is None else as_weights(mask, config)
        return Prediction(found.argmax(axis=-1).astype(np.int16) * weight, found)

    return segment


def segment_stage(case: Case, stage: Stage) -> tuple[Prediction, str]:
    """Segment a scan as one network was trained; return what is found and what was done for it."""
    # The normalised channels and a map per class, float32.
    voxels = math.prod(case.image.shape[:3])
    maps = case.image.shape[-1] + stage.config.classes
    warn_of_memory(4 * voxels * maps, what=case.name)
    if stage.grid is None:
        return stage.segment(prepare_case(case, stage.config), case.mask), ""
    fit = fit_scan(case.scan, case.image.shape[:3], stage.grid, resample=stage.resample)
    mask = None if case.mask is None else fit.to_network(case.mask, 0)
    moved = replace(case, image=fit.to_network(case.image, 1), mask=mask)
    found = stage.segment(prepare_case(moved, stage.config), mask)
    probabilities = fit.to_scan(found.probabilities)
    if fit.step is None:
        return Prediction(fit.to_scan(found.labels), probabilities), fit.words
    weight = np.ones(1, np.int16) if case.mask is None else as_weights(case.mask, stage.config)
    labels = probabilities.argmax(axis=-1).astype(np.int16) * weight
    return Prediction(labels, probabilities * weight[..., np.newaxis]), fit.words


def write_nothing(out: Path, name: str, case: Case, config: Config, *, saved: Saved | None) -> None:
    """Write the maps of a scan in which nothing was looked for."""
    shape = case.image.shape[:3]
    empty = Prediction(np.zeros(shape, np.int16), np.zeros((*shape, config.classes), np.float32))
    write_results(out, name, empty, case.scan, config, saved=saved)


def describe(case: Case, found: Prediction, config: Config, *, seconds: float) -> str:
    """Return name, voxels of every class, seconds, and DICE1 to DICE3 where labels are known."""
    counts = np.bincount(found.labels.reshape(-1), minlength=config.classes)[1 : config.classes]
    text = f"{case.name}: {', '.join(map(str, counts))} voxels, {seconds:.1f} s"
    if case.labels is None:
        return text
    scores = engine_dice(found.labels, case.labels, case.mask, config.classes)
    shown = [f"{name} {' '.join(f'{d:.4f}' for d in dice)}" for name, dice in scores.items()]
    return f"{text}; DICE1-3 of {'; '.join(shown)}"
