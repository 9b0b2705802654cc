"""The parts of the comparison of original and port, as `compare` offers them."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from common.evaluation.run_report import prediction_path
from common.runs.folder import load_config, load_run
from common.runtime import configure_runtime
from common.study.compare import (
    Table,
    compare_arrays,
    compare_ways,
    describe_variable,
    inference_table,
    layers_table,
    require_run,
)
from common.study.dice_definitions import DicePair
from common.study.microscope import compare_recorded, recorded_shapes
from common.study.parts import shared_parts
from sarcoma.config import CODE, PRESETS, Architecture, Config
from sarcoma.data import (
    choose_patients,
    find_patients,
    find_window,
    load_patient,
    prepare_patient,
    split_patients,
)
from sarcoma.effects import EffectBench
from sarcoma.inference import load_run_network, on_volumes, segment
from sarcoma.model import build_for_inference, build_model, shapes_alone
from sarcoma.original_weights import assign_original, ordered_variables, read_original
from sarcoma.patch_files import PATCH_BATCH, patch_dice
from sarcoma.prepared import prepare_cases
from sarcoma.recording import rebuild
from sarcoma.sampling import Stack, make_pool
from sarcoma.scoring import read_pair


def list_parts(
    config: Config, *, run: Path | None, original: Path | None, data: Path | None
) -> dict[str, Callable[[], Table]]:
    """Return what makes each part that is possible, by its name; arguments as for `compare`."""
    makers = shared_parts(
        run, presets=PRESETS, layers=partial(compare_layers, config),
        activations=partial(compare_activations, config.architecture), bench=EffectBench,
        load_network=load_run_network, read_prediction=read_prediction,
    )  # fmt: skip
    if run is not None:
        makers["inference"] = lambda: inference_table(compare_inference(run), run)
    if original is not None:
        makers["weights"] = lambda: Table("weights", compare_weights(run, original))
    if data is not None:
        makers["flips"] = lambda: Table("flips", compare_flips(data))
    return makers


def compare_layers(config: Config) -> Table:
    """Lay the original's variables beside those of a configuration's network."""
    return layers_table(list_layers(config), recorded_shapes("sarcoma", config.architecture))


def list_layers(config: Config) -> list[dict]:
    """Return a row per variable: the name in a Keras 2 file, shape, count, whether trained."""
    with shapes_alone():  # the dilated network has 134 million numbers
        variables = ordered_variables(build_model(config))
    return [describe_variable(f"{variable.path}:0", variable) for variable in variables]


def compare_activations(architecture: Architecture = "unet2d") -> Table:
    """Hold every layer of a released network to what the original computed."""
    return compare_recorded("sarcoma", architecture, lambda: rebuild(architecture))


def read_prediction(run: Path):
    """Return the first test patient who has a label map, for `metrics_table`; else None."""
    config, folder = load_config(run, Config), Path(run) / "predictions"
    for patient in choose_patients(load_run(run), config, data=None, patients=None):
        if prediction_path(folder, patient.id).is_file():
            return {f"run: {patient.id}": DicePair(*read_pair(patient, folder, config)[:2])}
    return None


def compare_inference(run: Path) -> list[dict]:
    """Segment the test patients of a run in several ways.

    Returns:
        A row per patient and way: seconds, Dice of the lesion, voxels unlike the first way's.
    """
    network, config = load_run_network(run)
    configure_runtime(seed=0)
    ways = {
        "as trained": config,
        "patches side by side": replace(config, window_stride=28),
        "window alone (S24)": replace(config, test_slices="window"),
    }
    find = {name: on_volumes(segment, network, way) for name, way in ways.items()}
    rows = []
    for patient in choose_patients(load_run(run), config, data=None, patients=None):
        loaded = load_patient(patient, config.modalities)
        image, window = prepare_patient(loaded, config), find_window(patient, loaded.label)
        rows += compare_ways(
            patient.id,
            {
                name: partial(find_lesion, find[name], image, way, window)
                for name, way in ways.items()
            },
            loaded.label,
        )
    return rows


def find_lesion(find, image, config: Config, window: tuple[int, int]):
    """Return the lesion (Z, Y, X) bool, looked for in all slices or in the window alone."""
    chosen = slice(*window) if config.test_slices == "window" else slice(None)
    lesion = np.zeros(image.shape[:3], bool)
    lesion[chosen] = find(image[chosen]) > config.threshold
    return lesion


def compare_weights(run: Path | None, original: Path) -> list[dict]:
    """Return a row per variable: its largest difference between a Keras 2 file and a run.

    Raises:
        OptionError: no run is given.
        DataError: the file cannot be read or is of another architecture.
    """
    require_run(run, original, what="file")
    trained, config = load_run_network(run)
    converted = build_for_inference(config)
    assign_original(converted, read_original(original), source=str(original))
    first, second = (
        {variable.path: variable for variable in ordered_variables(model)}
        for model in (converted, trained)
    )
    return compare_arrays(first, second)


def compare_flips(data: Path) -> list[dict]:
    """Measure what flipping the image alone does to labels [S1].

    A prediction that followed every flip perfectly is scored against masks that did not.

    Args:
        data: HDF5 file with labels.
    Returns:
        A row per flip: mean Dice of the balanced training patches' masks with their flipped selves.
    """
    split = split_patients(find_patients(data, CODE), CODE)
    with tempfile.TemporaryDirectory() as scratch:
        stack = Stack(prepare_cases(split["training"], Path(scratch), CODE), CODE, slices="window")
        masks = np.stack([stack.draw(patch)[1] for patch in make_pool(stack, CODE)[:4096]])
    ways = {"none": (), "columns": (2,), "rows": (1,), "both": (1, 2)}
    found = {
        name: patch_dice(masks, np.flip(masks, axes), PATCH_BATCH) for name, axes in ways.items()
    }
    found["mean of the four"] = float(np.mean(list(found.values())))
    return [{"flip": name, "dice": round(value, 3)} for name, value in found.items()]
