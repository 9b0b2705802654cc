"""Lay original and port side by side: presets, layers, weights, and what the quirks do."""

from dataclasses import replace
from pathlib import Path

from sarcoma.config import PRESETS, Architecture, Config, Preset


def compare(
    preset: Preset = "code",
    *,
    architecture: Architecture = "unet2d",
    run: Path | None = None,
    original: Path | None = None,
    data: Path | None = None,
    out: Path | None = None,
) -> None:
    """Lay original and port side by side.

    Always: the presets, and the layers with the original's variable names. With run: the test
    patients segmented from patches that overlap and that do not, and within the window alone. With
    original: the variables in which a Keras 2 file and the run differ. With data: what flipping
    the image alone does to the Dice of a perfect prediction.

    Args:
        preset: whose network is listed.
        architecture: which of its networks.
        run: run folder with a trained network.
        original: a Keras 2 file of the original; needs run.
        data: HDF5 file with labels.
        out: JSON file with the same tables.
    """
    from common.comparison import compare_presets, show_tables

    config = replace(PRESETS[preset], architecture=architecture)
    tables = {"presets": compare_presets(PRESETS), "layers": list_layers(config)}
    if run is not None:
        tables["inference"] = compare_inference(run)
    if original is not None:
        tables["weights"] = compare_weights(run, original)
    if data is not None:
        tables["flips"] = compare_flips(data)
    show_tables(tables, out)


def list_layers(config: Config) -> list[dict]:
    """Return a row per variable: the name in a Keras 2 file, shape, count, whether trained."""
    import math

    import keras

    from sarcoma.convert import ordered_variables
    from sarcoma.model import build_model

    with keras.StatelessScope():  # shapes alone: the dilated network has 134 million numbers
        variables = ordered_variables(build_model(config))
    return [
        {
            "variable": f"{variable.path}:0",
            "shape": "x".join(map(str, variable.shape)),
            "parameters": math.prod(variable.shape),
            "trained": "yes" if variable.trainable else "no",
        }
        for variable in variables
    ]


def compare_inference(run: Path) -> list[dict]:
    """Segment the test patients of a run in several ways.

    Returns:
        A row per patient and way: seconds, Dice of the lesion, lesion in ml.
    """
    import time

    import numpy as np

    from common.metrics import dice, volume_ml
    from common.runs import load_config, load_run
    from common.training import configure_runtime
    from sarcoma.data import SPACING_MM, find_window, load_patient, prepare_patient
    from sarcoma.inference import load_network, make_apply, segment
    from sarcoma.predict import choose_patients

    record, config = load_run(run), load_config(run, Config)
    configure_runtime(seed=0)
    apply = make_apply(load_network(run, config), config)
    ways = {
        "as trained": config,
        "patches side by side": replace(config, window_stride=28),
        "window alone (S24)": replace(config, test_slices="window"),
    }
    rows = []
    for patient in choose_patients(record, config, data=None, patients=None):
        loaded = load_patient(patient, config.modalities)
        image = prepare_patient(loaded, config)
        for name, way in ways.items():
            chosen = slice(None)
            if way.test_slices == "window":
                chosen = slice(*find_window(patient, loaded.label))
            start = time.perf_counter()
            lesion = np.zeros(patient.shape, bool)
            lesion[chosen] = segment(apply, image[chosen], way) > way.threshold
            rows.append({
                "patient": patient.id,
                "inference": name,
                "seconds": round(time.perf_counter() - start, 1),
                "dice": round(float(dice(lesion, loaded.label)), 4),
                "ml": round(volume_ml(lesion, spacing_mm=(SPACING_MM,) * 3), 1),
            })  # fmt: skip
    return rows


def compare_weights(run: Path | None, original: Path) -> list[dict]:
    """Return a row per variable: its largest difference between a Keras 2 file and a run.

    Raises:
        OptionError: no run is given.
        DataError: the file cannot be read or is of another architecture.
    """
    import numpy as np

    from common.errors import OptionError
    from common.runs import load_config
    from sarcoma.convert import assign_original, ordered_variables, read_original
    from sarcoma.inference import build_for_inference, load_network

    if run is None:
        raise OptionError("--original needs --run; expected the run to compare the file with")
    config = load_config(run, Config)
    converted = build_for_inference(config)
    assign_original(converted, read_original(original), source=str(original))
    trained = load_network(run, config)
    return [
        {
            "variable": one.path,
            "largest difference": float(np.abs(np.subtract(one, other)).max()),
        }
        for one, other in zip(ordered_variables(converted), ordered_variables(trained), strict=True)
    ]


def compare_flips(data: Path) -> list[dict]:
    """Measure what flipping the image alone does to labels [S1].

    A prediction that followed every flip perfectly is scored against masks that did not.

    Args:
        data: HDF5 file with labels.
    Returns:
        A row per flip: mean Dice of the balanced training patches' masks with their flipped selves.
    """
    import tempfile

    import numpy as np

    from sarcoma.config import CODE
    from sarcoma.data import find_patients, split_patients
    from sarcoma.evaluate import PATCH_BATCH, patch_dice
    from sarcoma.prepare import prepare_cases
    from sarcoma.sampling import Stack, make_pool

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
