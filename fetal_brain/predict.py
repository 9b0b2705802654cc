"""Segment whole scans with a trained network and write label maps in the scans' geometry."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from common.cohort.work import HERE, Item, Workers, segment_cases
from common.cost.memory import warn_of_memory
from common.data.geometry import check_same_grid
from common.data.names import check_outputs
from common.data.volumes import write_volume
from common.evaluation.overlap import dice
from common.inference.command import show_progress, with_inference_of
from common.inference.extras import (
    NONE,
    Extras,
    averaged,
    axes_of,
    check_alike,
    clean_up,
    entropy_of,
    only,
)
from common.runs.folder import load_config, load_run
from common.runtime import configure_runtime
from fetal_brain.config import (
    ALIKE,
    AXES,
    INFERENCE_FIELDS,
    PRESETS,
    RUN,
    SPACING_TOLERANCE,
    Config,
    Preset,
)
from fetal_brain.data import Case, check_fits, choose_cases, load_case, read_reference
from fetal_brain.labels import write_ids

LABELS, PROBABILITY, ENTROPY = "", "_probability", "_entropy"
"""Endings of the files of a case."""


def predict(
    run: Path = RUN,
    csv: Path | None = None,
    *,
    image: Path | None = None,
    # [F16] Another mode is refused, [F17] as is TRAIN, whose flipped masks kept the scan's grid.
    mode: Literal["EVAL", "PREDICT"] = "EVAL",
    all_rows: bool = False,
    out: Path | None = None,
    probabilities: bool = False,
    resample: bool = False,
    preset: Preset | None = None,
    extras: Extras = NONE,
    on: Workers = HERE,
) -> None:
    """Segment whole scans and write their label maps in the scans' own geometry.

    Without csv and image: the held-out cases of the run.

    Args:
        run: run folder with a trained network; the original's --model_path.
        csv: list to segment; its last held_out_cases rows, as the original's deploy does.
        image: a single scan to segment instead.
        mode: EVAL also prints the Dice of each case, PREDICT needs no labels.
        all_rows: segment every row of the list.
        out: folder of the label maps; default: predictions/ in the run folder.
        probabilities: write foreground probabilities beside the label maps.
        resample: interpolate scans whose voxels are not of the size that the run was trained on,
            and bring the results back to their own grid; else such scans are refused. Scans of
            another orientation are turned and turned back, which changes no voxel.
        preset: whose way of inference to use; default: the run's own.
        extras: what is done beyond the paper.
        on: who works on the scans.
    """
    record = load_run(run)
    config = load_config(run, Config)
    if preset is not None:
        config = with_inference_of(config, PRESETS[preset], INFERENCE_FIELDS)
    cases = choose_cases(record, config, csv=csv, image=image, all_rows=all_rows, mode=mode)
    out = out or run / "predictions"
    others = [(Path(each), load_config(Path(each), Config)) for each in extras.ensemble]
    check_alike(config, others, ALIKE)
    axes_of(extras, AXES)
    kinds = [LABELS, *[PROBABILITY] * probabilities, *[ENTROPY] * extras.entropy]
    items = list_items(cases, out, kinds)
    begin = partial(
        load_segmenter, [(run, config), *others],
        out=out, probabilities=probabilities, resample=resample, extras=extras,
    )  # fmt: skip
    decides = [each / "model.keras" for each, _ in [(run, config), *others]]
    segment_cases(items, begin, what="scan", on=on, out=out, decides=decides)
    extras.record(out)


def load_segmenter(
    runs: Sequence[tuple[Path, Config]], *, out: Path, probabilities: bool, resample: bool,
    extras: Extras,
) -> Callable[[Case], str]:  # fmt: skip
    """Load the networks of some runs and return what segments a case; see `segment_case`."""
    from common.runs.training_grid import recorded_grid, segment_on_grid
    from fetal_brain.inference import load_network, on_volumes, segment_scan

    configure_runtime(seed=0)
    functions = [
        on_volumes(
            segment_scan, load_network(run, config), config,
            with_probabilities=probabilities or extras.needs_probabilities,
            progress=show_progress("windows"),
        )
        for run, config in runs
    ]  # fmt: skip
    run, config = runs[0]
    on_grid = partial(
        segment_on_grid, grid=recorded_grid(run), resample=resample, tolerance=SPACING_TOLERANCE
    )
    return partial(
        segment_case, segment=averaged_labels(functions, extras), config=config, out=out,
        on_grid=on_grid, probabilities=probabilities, extras=extras,
    )  # fmt: skip


def averaged_labels(functions: Sequence[Callable], extras: Extras) -> Callable:
    """Return the only function, or one that takes the most probable class of the mean of all."""
    if not extras.averages:
        return functions[0]
    mean = averaged([only("probabilities", each) for each in functions], axes_of(extras, AXES))

    def segment(scan):
        found = mean(scan)["probabilities"]
        return {"labels": found.argmax(axis=-1).astype(np.uint8), "probabilities": found}

    return segment


def list_items(cases: Sequence[Case], out: Path, kinds: Sequence[str]) -> list[Item]:
    """Return the cases with the files that will be written of each, of the kinds of `LABELS`.

    Raises:
        OptionError: one would replace a scan, a segmentation or another.
    """
    items = [
        Item(case.id, case, tuple(out / f"{case.id}{kind}.nii.gz" for kind in kinds))
        for case in cases
    ]
    inputs = [path for case in cases for path in (case.image_path, case.label_path) if path]
    check_outputs([(item.name, item.outputs) for item in items], inputs, option=f"--out {out}")
    return items


def segment_case(
    case: Case, segment: Callable, config: Config, *, out: Path, on_grid: Callable | None = None,
    probabilities: bool = False, extras: Extras = NONE,
) -> str:  # fmt: skip
    """Segment one scan, write its files, and return the line that the original prints.

    `on_grid` brings the scan to the training's grid; see `segment_on_grid`. Source: deploy.py,
    predict.
    """
    volume, _ = load_case(replace(case, label_path=None), config)
    check_fits(volume.array.shape, case.image_path, config)
    # The scan as it is and whitened, float32, and the labels.
    warn_of_memory(volume.array.size * (4 + 4 + 1), what=case.id)
    reference = None
    if case.label_path is not None:
        labels = read_reference(case, config)
        check_same_grid(volume, labels, names=(str(case.image_path), str(case.label_path)))
        reference = labels.array
    start = time.monotonic()
    name = str(case.image_path)
    found = on_grid(volume, segment, name=name) if on_grid else segment(volume.array)
    labels = clean_up(found["labels"], extras, volume.geometry.spacing_mm)
    path = out / f"{case.id}{LABELS}.nii.gz"
    write_volume(path, write_ids(labels, config), volume.geometry)
    if probabilities:
        foreground = 1.0 - found["probabilities"][..., 0]
        write_volume(out / f"{case.id}{PROBABILITY}.nii.gz", foreground, volume.geometry)
    if extras.entropy:
        doubt = entropy_of(found["probabilities"], binary=False)
        write_volume(out / f"{case.id}{ENTROPY}.nii.gz", doubt, volume.geometry)
    return summary_line(path, labels, reference, seconds=time.monotonic() - start)


def summary_line(path: Path, labels, reference, *, seconds: float) -> str:
    """Return the original's line for one case; Dice is that of the foreground, -1 if unknown."""
    # [F19] NaN where neither has any foreground.
    score = -1.0 if reference is None else float(dice(labels > 0, reference > 0))
    shape = (1, *labels.shape, 1)
    return f"Dice={score}; input_dim={shape}; time={seconds:.2f}; output_fn={path};"
