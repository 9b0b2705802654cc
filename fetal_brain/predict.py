"""Segment whole scans with a trained network and write label maps in the scans' geometry."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from common.cohort.work import HERE, Item, Workers, segment_cases
from common.cost.memory import warn_of_memory
from common.data.geometry import check_same_grid
from common.data.names import check_outputs
from common.data.volumes import write_volume
from common.evaluation.overlap import dice
from common.inference.command import show_progress, with_inference_of
from common.runs.folder import load_config, load_run
from common.runtime import configure_runtime
from fetal_brain.config import (
    INFERENCE_FIELDS,
    PRESETS,
    RUN,
    SPACING_TOLERANCE,
    Config,
    Preset,
)
from fetal_brain.data import Case, check_fits, choose_cases, load_case, read_reference
from fetal_brain.labels import write_ids


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
        on: who works on the scans.
    """
    record = load_run(run)
    config = load_config(run, Config)
    if preset is not None:
        config = with_inference_of(config, PRESETS[preset], INFERENCE_FIELDS)
    cases = choose_cases(record, config, csv=csv, image=image, all_rows=all_rows, mode=mode)
    out = out or run / "predictions"
    refuse_to_replace_inputs(cases, out, with_probabilities=probabilities)
    names = [output_names(case.id)[: 1 + probabilities] for case in cases]
    items = [
        Item(case.id, case, tuple(out / name for name in each))
        for case, each in zip(cases, names, strict=True)
    ]
    begin = partial(
        load_segmenter, run, config, out=out, probabilities=probabilities, resample=resample
    )
    segment_cases(items, begin, what="scan", on=on, out=out, decides=[run / "model.keras"])


def load_segmenter(
    run: Path, config: Config, *, out: Path, probabilities: bool, resample: bool
) -> Callable[[Case], str]:
    """Load the network of a run and return what segments a case; see `segment_case`."""
    from common.runs.training_grid import recorded_grid, segment_on_grid
    from fetal_brain.inference import load_network, on_volumes, segment_scan

    configure_runtime(seed=0)
    network = load_network(run, config)
    segment = on_volumes(
        segment_scan, network, config,
        with_probabilities=probabilities, progress=show_progress("windows"),
    )  # fmt: skip
    on_grid = partial(
        segment_on_grid, grid=recorded_grid(run), resample=resample, tolerance=SPACING_TOLERANCE
    )
    return partial(segment_case, segment=segment, config=config, out=out, on_grid=on_grid)


def refuse_to_replace_inputs(
    cases: Sequence[Case], out: Path, *, with_probabilities: bool = False
) -> None:
    """Raise `OptionError` if a file to write would replace a scan, a segmentation or another."""
    inputs = [path for case in cases for path in (case.image_path, case.label_path) if path]
    count = 1 + with_probabilities
    outputs = [(case.id, [out / name for name in output_names(case.id)[:count]]) for case in cases]
    check_outputs(outputs, inputs, option=f"--out {out}")


def output_names(case_id: str) -> tuple[str, str]:
    """Return the names of the files of a case: label map and probabilities."""
    return f"{case_id}.nii.gz", f"{case_id}_probability.nii.gz"


def segment_case(
    case: Case, segment: Callable, config: Config, *, out: Path, on_grid: Callable | None = None
) -> str:
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
    path, probability_path = (out / name for name in output_names(case.id))
    write_volume(path, write_ids(found["labels"], config), volume.geometry)
    if "probabilities" in found:
        write_volume(probability_path, 1.0 - found["probabilities"][..., 0], volume.geometry)
    return summary_line(path, found["labels"], reference, seconds=time.monotonic() - start)


def summary_line(path: Path, labels, reference, *, seconds: float) -> str:
    """Return the original's line for one case; Dice is that of the foreground, -1 if unknown."""
    # [F19] NaN where neither has any foreground.
    score = -1.0 if reference is None else float(dice(labels > 0, reference > 0))
    shape = (1, *labels.shape, 1)
    return f"Dice={score}; input_dim={shape}; time={seconds:.2f}; output_fn={path};"
