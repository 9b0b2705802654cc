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
    presets_table,
    require_run,
)
from common.study.dice_definitions import Case as Scored
from common.study.dice_definitions import formulas_table, metrics_table
from common.study.effects import compare_effects as measure_effects
from common.study.microscope import compare_recorded, recorded_shapes
from fetal_brain.config import CODE, INFERENCE_FIELDS, PRESETS, Config, Preset
from fetal_brain.data import Case, choose_cases, load_case, prepare_case, read_reference
from fetal_brain.effects import Bench
from fetal_brain.inference import build_for_any_plane, load_run_network, on_volumes, segment_labels
from fetal_brain.labels import read_ids
from fetal_brain.model import build_model
from fetal_brain.original_weights import assign_original, read_original, variables_by_name
from fetal_brain.recording import NETWORK, rebuild


def list_parts(
    preset: Preset, *, run: Path | None, original: Path | None
) -> dict[str, Callable[[], Table]]:
    """Return what makes each part that is possible, by its name; arguments as for `compare`."""
    makers: dict[str, Callable[[], Table]] = {
        "presets": lambda: presets_table(PRESETS),
        "layers": lambda: compare_layers(preset),
        "activations": compare_activations,
        "effects": lambda: compare_effects(run),
        "metrics": lambda: compare_metrics(run),
        "formulas": formulas_table,
    }
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


def compare_effects(run: Path | None = None) -> Table:
    """Flip every switch of the preset `code` alone and measure what it does on phantoms.

    Args:
        run: whose trained network segments the phantoms; None: one trained here for some seconds.
    """
    configure_runtime(seed=0)
    return measure_effects(Bench(run and load_run_network(run)), code=CODE, run=run)


def compare_metrics(run: Path | None = None) -> Table:
    """Score telling predictions, and the first of a run's, with every historical Dice."""
    return metrics_table(*([] if run is None else [read_prediction(run)]))


def read_prediction(run: Path):
    """Return the first held-out case that has a label map, for `metrics_table`."""
    config = load_config(run, Config)
    for scan in map(Case.from_dict, load_run(run).read_split()["test"]):
        path = prediction_path(Path(run) / "predictions", scan.id)
        if path.is_file():
            found = read_ids(read_volume(path), config, source=str(path)).array
            return {f"run: {scan.id}": Scored(found, read_reference(scan, config).array)}
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
