"""One scan through one network or through both: first the brain, then the cortex within it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from common.cost.memory import warn_of_memory
from common.errors import DataError
from dhcp_fetal.config import Config
from dhcp_fetal.data import Case, load_case, prepare_case
from dhcp_fetal.features import write_features
from dhcp_fetal.inference import segment_volume
from dhcp_fetal.measures import engine_dice
from dhcp_fetal.outputs import paths_written, write_results
from dhcp_fetal.session import CaseFiles, Saved
from dhcp_fetal.tiles import Apply, Prediction

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Stage:
    """A network and what it looks for."""

    what: str
    """brain, cortex, or labels for a network on its own."""
    apply: Apply
    config: Config
    model: "keras.Model | None" = None
    """Needed for feature maps only."""


def segment_case(
    files: CaseFiles,
    stages: Sequence[Stage],
    out: Path,
    *,
    saved: Saved | None,
    progress: Callable[[int, int], None] | None = None,
) -> str:
    """Segment one scan, write its files and return a line about it.

    The brain's map is <name>_brain where another stage follows, else <name>, as that of the last
    stage is.

    Args:
        files: of the scan; where two stages are run, its mask is not looked at.
        stages: one network, or the brain's and the cortex's.
        out: folder, which exists.
        saved: the original's names, or None for ours.
        progress: shows tiles done.
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
        found = segment_stage(case, stage, progress=progress)
        last = number == len(stages) - 1
        name = stage_name(case.name, stages, number)
        write_results(out, name, found, case.scan, stage.config, saved=saved)
        if saved is not None and any(saved.feature_ranges):
            folder = out.parent / "features"
            write_features(stage.model, case, stage.config, saved.feature_ranges, folder)
        if stage.what == "brain" and not found.labels.any():
            if not last:
                write_nothing(out, case, stages[-1].config, saved=saved)
            raise DataError("no brain was found; an empty map was written")
        if not last:
            case = replace(case, mask=(found.labels > 0).astype(np.int16))
    return describe(case, found, stages[-1].config, seconds=time.monotonic() - began)


def stage_name(name: str, stages: Sequence[Stage], number: int) -> str:
    """Return what the results of a stage are called: as the case, but for those before the last."""
    return name if number == len(stages) - 1 else f"{name}_{stages[number].what}"


def paths_of_results(
    name: str, stages: Sequence[Stage], out: Path, *, saved: Saved | None
) -> list[Path]:
    """Return the files of a case in the order in which they are written, without feature maps."""
    return [
        path
        for number, stage in enumerate(stages)
        for path in paths_written(out, stage_name(name, stages, number), stage.config, saved=saved)
    ]


def segment_stage(case: Case, stage: Stage, *, progress=None) -> Prediction:
    """Normalise a scan as one network was trained and segment it."""
    # The normalised channels and a map per class, float32.
    voxels = math.prod(case.image.shape[:3])
    maps = case.image.shape[-1] + stage.config.classes
    warn_of_memory(4 * voxels * maps, what=case.name)
    image = prepare_case(case, stage.config)
    return segment_volume(stage.apply, image, stage.config, mask=case.mask, progress=progress)


def write_nothing(out: Path, case: Case, config: Config, *, saved: Saved | None) -> None:
    """Write the maps of a scan in which nothing was looked for."""
    shape = case.image.shape[:3]
    empty = Prediction(np.zeros(shape, np.int16), np.zeros((*shape, config.classes), np.float32))
    write_results(out, case.name, empty, case.scan, config, saved=saved)


def describe(case: Case, found: Prediction, config: Config, *, seconds: float) -> str:
    """Return name, voxels of every class, seconds, and DICE1 to DICE3 where labels are known."""
    counts = np.bincount(found.labels.reshape(-1), minlength=config.classes)[1 : config.classes]
    text = f"{case.name}: {', '.join(map(str, counts))} voxels, {seconds:.1f} s"
    if case.labels is None:
        return text
    scores = engine_dice(found.labels, case.labels, case.mask, config.classes)
    shown = [f"{name} {' '.join(f'{d:.4f}' for d in dice)}" for name, dice in scores.items()]
    return f"{text}; DICE1-3 of {'; '.join(shown)}"
