"""Segment the test patients with a trained network: label maps, and patches as the original."""

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from common.cohort.work import HERE, Item, Workers, segment_cases
from common.cost.memory import warn_of_memory
from common.data.names import check_outputs
from common.data.volumes import write_volume
from common.evaluation.overlap import dice, volume_ml
from common.inference.command import show_progress, with_inference_of
from common.inference.extras import (
    NONE,
    Extras,
    averaged,
    axes_of,
    check_alike,
    clean_up,
    entropy_of,
)
from common.runs.folder import load_config, load_run
from common.runtime import configure_runtime, load_tensorflow_quietly
from sarcoma.config import ALIKE, AXES, INFERENCE_FIELDS, PRESETS, RUN, Config, Preset
from sarcoma.data import (
    GRID,
    SPACING_MM,
    Patient,
    choose_patients,
    find_window,
    has_lesion,
    load_patient,
)
from sarcoma.patch_files import PREDICTED_PATCHES, write_predictions
from sarcoma.prepared import prepare_cases

LABELS, PROBABILITY, ENTROPY = "", "_probability", "_entropy"
"""Endings of the files of a patient."""


def predict(
    run: Path = RUN,
    data: Path | None = None,
    *,
    patients: tuple[str, ...] | None = None,
    out: Path | None = None,
    probabilities: bool = False,
    patches: bool = True,
    preset: Preset | None = None,
    extras: Extras = NONE,
    on: Workers = HERE,
) -> None:
    """Segment whole patients from overlapping patches and write their label maps.

    Without data: the test patients of the run.

    Args:
        run: run folder with a trained network.
        data: HDF5 file to segment instead; label_data may be absent if test_slices is "all".
        patients: which of its patients, such as STS_003; default: all of --data.
        out: folder of the label maps; default: predictions/ in the run folder.
        probabilities: write lesion probabilities beside the label maps.
        patches: also predict the balanced test patches, as the original's evaluation does.
        preset: whose way of inference to use; default: the run's own.
        extras: what is done beyond the papers.
        on: who works on the patients.
    """
    record = load_run(run)
    config = load_config(run, Config)
    if preset is not None:
        config = with_inference_of(config, PRESETS[preset], INFERENCE_FIELDS)
    cases = choose_patients(record, config, data=data, patients=patients)
    out = out or Path(run) / "predictions"
    others = [(Path(each), load_config(Path(each), Config)) for each in extras.ensemble]
    check_alike(config, others, ALIKE)
    axes_of(extras, AXES)
    kinds = [LABELS, *[PROBABILITY] * probabilities, *[ENTROPY] * extras.entropy]
    items = [
        Item(case.id, case, tuple(out / f"{case.id}{kind}.nii.gz" for kind in kinds))
        for case in cases
    ]
    check_outputs([(item.name, item.outputs) for item in items], option=f"--out {out}")
    runs = [(run, config), *others]
    begin = partial(load_segmenter, runs, out=out, with_probability=probabilities, extras=extras)
    decides = [each / "model.keras" for each, _ in runs]
    segment_cases(items, begin, what="patient", on=on, out=out, decides=decides)
    extras.record(out)
    if patches and config.architecture == "unet2d":
        print(predict_patches(cases, run, config, out=out))


def load_segmenter(
    runs: Sequence[tuple[Path, Config]], *, extras: Extras, **options
) -> Callable[[Patient], str]:
    """Load the networks of some runs and return what segments a patient; see `segment_patient`."""
    from sarcoma.inference import load_network, on_windows

    configure_runtime(seed=0)
    segments = [
        on_windows(load_network(run, config), config, progress=show_progress("patches"))
        for run, config in runs
    ]

    def segment(scan: np.ndarray, window: tuple[int, int]) -> np.ndarray:
        functions = [lambda each, s=s: {"lesion": s(each, window)} for s in segments]
        return averaged(functions, axes_of(extras, AXES))(scan)["lesion"]

    return partial(
        segment_patient, segment=segment if extras.averages else segments[0], config=runs[0][1],
        extras=extras, **options,
    )  # fmt: skip


def segment_patient(
    patient: Patient, segment: Callable, config: Config, *, out: Path, with_probability: bool,
    extras: Extras,
) -> str:  # fmt: skip
    """Segment one patient and write the label map; return a line that says so.

    Slices outside those that are predicted [S24] are background.
    """
    began = time.monotonic()
    loaded = load_patient(patient, config.modalities)
    start, stop = 0, patient.shape[0]
    if config.test_slices == "window":
        start, stop = find_window(patient, loaded.label)
    # The images as they are and standardised, the probabilities and the labels.
    bytes_per_voxel = 8 * len(config.modalities) + 4 + 1
    warn_of_memory(math.prod(patient.shape) * bytes_per_voxel, what=patient.id)
    scan = np.stack([loaded.images[name] for name in config.modalities], axis=-1)
    probability = np.zeros(patient.shape, np.float32)
    probability[start:stop] = segment(scan, (start, stop))
    spacing_mm = (SPACING_MM,) * 3
    lesion = clean_up((probability > config.threshold).astype(np.uint8), extras, spacing_mm)
    path = out / f"{patient.id}{LABELS}.nii.gz"
    write_volume(path, lesion, GRID)
    if with_probability:
        write_volume(out / f"{patient.id}{PROBABILITY}.nii.gz", probability, GRID)
    if extras.entropy:
        doubt = entropy_of(probability, binary=True)
        write_volume(out / f"{patient.id}{ENTROPY}.nii.gz", doubt, GRID)
    volume = volume_ml(lesion, spacing_mm=spacing_mm)
    known = "" if loaded.label is None else f"Dice {dice(lesion, loaded.label):.4f}, "
    return f"{path.name}: {known}lesion {volume:.1f} ml, {time.monotonic() - began:.1f} s"


def predict_patches(cases: list[Patient], run: Path, config: Config, *, out: Path) -> str:
    """Predict the balanced patches of the test windows and write them as evaluate.py does.

    prediction.npy and y_patches_test.npy, (P, 28, 28, 1) float32 and int32, into `out`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        known = [case for case in cases if has_lesion(case)]
        if not known:
            return "Patches: none, since no lesion is known"
        load_tensorflow_quietly()  # where workers did the rest
        configure_runtime(seed=0)
        from sarcoma.inference import load_network

        prepared = prepare_cases(known, Path(scratch), config)
        count = write_predictions(prepared, load_network(run, config), config, out)
    return f"{PREDICTED_PATCHES}: {count} balanced patches of the positive windows"
