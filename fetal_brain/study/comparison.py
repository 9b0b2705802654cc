"""The parts of the comparison of original and port, as `compare` offers them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from common.data.volumes import read_volume
from common.evaluation.run_report import prediction_path
from common.inference.command import with_inference_of
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
from fetal_brain.config import INFERENCE_FIELDS, PRESETS, Config, Preset
from fetal_brain.data import Case, choose_cases, load_case, prepare_case, read_reference
from fetal_brain.effects import EffectBench
from fetal_brain.inference import build_for_any_plane, load_run_network, on_volumes, segment_labels
from fetal_brain.labels import read_ids
from fetal_brain.model import build_model
from fetal_brain.original_weights import assign_original, read_original, variables_by_name
from fetal_brain.recording import NETWORK, rebuild


def list_parts(
    preset: Preset, *, run: Path | None, original: Path | None
) -> dict[str, Callable[[], Table]]:
    """Return what makes each part that is possible, by its name; arguments as for `compare`."""
    makers = shared_parts(
        run, presets=PRESETS, layers=partial(compare_layers, preset),
        activations=compare_activations, bench=EffectBench, load_network=load_run_network,
        read_prediction=read_prediction,
    )  # fmt: skip
    if run is not None:
        makers["inference"] = lambda: inference_table(compare_inference(run), run)
    if original is not None:
        makers["weights"] = lambda: Table("weights", compare_weights(run, original))
    return makers


def compare_layers(preset: Preset) -> Table:
    """Lay the original's variables beside those of a preset's network."""
    return layers_table(list_layers(preset), recorded_shapes("fetal_brain", NETWORK))


def list_layers(preset: Preset) -> list[dict]:
    """Return a row per variable of the network: the original's name, the port's, shape, count."""
    named = variables_by_name(build_model(PRESETS[preset]))
    return [describe_variable(name, variable) for name, variable in named.items()]


def compare_activations() -> Table:
    """Hold every layer of the released network to what the original computed."""
    return compare_recorded("fetal_brain", NETWORK, rebuild)


def read_prediction(run: Path):
    """Return the first held-out case that has a label map, for `metrics_table`."""
    config = load_config(run, Config)
    for scan in map(Case.from_dict, load_run(run).read_split()["test"]):
        path = prediction_path(Path(run) / "predictions", scan.id)
        if path.is_file():
            found = read_ids(read_volume(path), config, source=str(path)).array
            return {f"run: {scan.id}": DicePair(found, read_reference(scan, config).array)}
    return None


def compare_inference(run: Path) -> list[dict]:
    """Segment the held-out cases of a run both ways, and with single quirks on.

    Args:
        run: run folder with a trained network.

    Returns:
        A row per case and way: seconds, Dice of the foreground, voxels unlike the port's.
    """
    network, config = load_run_network(run)
    configure_runtime(seed=0)
    port, code = (
        with_inference_of(config, PRESETS[preset], INFERENCE_FIELDS) for preset in ("port", "code")
    )
    code = replace(code, pad_small_volumes=True)
    # [F29] The port's windows are as large as the plane, the code's slide in half steps.
    ways = {
        "port": port,
        "code": code,
        "code without F5": replace(code, count_last_window_twice=False),
    }
    label = {name: on_volumes(segment_labels, network, way) for name, way in ways.items()}
    rows = []
    cases = choose_cases(load_run(run), config, csv=None, image=None, all_rows=False, mode="EVAL")
    for case in cases:
        image, reference = prepare_case(load_case(case, config), config)
        segment = {name: partial(run, image[..., 0]) for name, run in label.items()}
        rows += compare_ways(case.id, segment, reference)
    return rows


def compare_weights(run: Path | None, original: Path) -> list[dict]:
    """Return a row per variable: its largest difference between a checkpoint and a run.

    Raises:
        OptionError: no run is given.
        DataError: the checkpoint cannot be read or is another architecture.
    """
    require_run(run, original)
    trained, config = load_run_network(run)
    converted = build_for_any_plane(config)
    assign_original(converted, read_original(original), source=str(original))
    return compare_arrays(variables_by_name(converted), variables_by_name(trained))
