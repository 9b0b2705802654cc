"""The parts of the comparison of original and port, as `compare` offers them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

from common.runs.folder import load_run
from common.runtime import configure_runtime
from common.study.compare import (
    Table,
    compare_arrays,
    describe_variable,
    inference_table,
    layers_table,
)
from common.study.dice_definitions import DicePair
from common.study.microscope import compare_recorded, recorded_shapes
from common.study.parts import shared_parts
from vertebra.config import PRESETS, Preset
from vertebra.data import Case, load_case, prediction_path
from vertebra.effects import EffectBench
from vertebra.inference import build_for_any_size, load_run_network, make_ask
from vertebra.instances import match_instances
from vertebra.model import build_model
from vertebra.original_weights import assign_original, read_original, variables_by_name
from vertebra.recording import NETWORK, rebuild
from vertebra.scoring import read_pair
from vertebra.study.live_torch import compare_live
from vertebra.study.oracle import run_search

STATISTICS = ("batch", "moving", "per_site")


def list_parts(
    preset: Preset, *, run: Path | None, original: Path | None
) -> dict[str, Callable[[], Table]]:
    """Return what makes each part that is possible, by its name; arguments as for `compare`."""
    makers = shared_parts(
        run, presets=PRESETS, layers=partial(compare_layers, preset),
        activations=compare_activations, bench=EffectBench, load_network=load_run_network,
        read_prediction=read_prediction,
    )  # fmt: skip
    makers["live"] = partial(compare_live, original)
    if run is not None:
        makers["inference"] = lambda: inference_table(compare_inference(run), run)
    if original is not None and run is not None:
        makers["weights"] = lambda: Table("weights", compare_weights(run, original))
    return makers


def compare_layers(preset: Preset) -> Table:
    """Lay the original's tensors beside those of a preset's network, and count a tensor's sites."""
    model = build_model(PRESETS[preset])
    rows = [
        {
            **describe_variable(name, variable),
            "sites": getattr(model.get_layer(name.partition(".")[0]), "sites", 1),
        }
        for name, (variable, _) in variables_by_name(model).items()
    ]
    return layers_table(rows, recorded_shapes("vertebra", NETWORK))


def compare_activations() -> Table:
    """Hold every application of a block to what the original computed."""
    return compare_recorded("vertebra", NETWORK, rebuild)


def read_prediction(run: Path):
    """Return the first test case that has a mask, for `metrics_table`; else None."""
    folder = Path(run) / "predictions"
    for case in map(Case.from_dict, load_run(run).read_split()["test"]):
        if prediction_path(folder, case.id).is_file():
            found, reference = read_pair(case, folder)
            return {f"run: {case.id}": DicePair(found.array, reference.array)}
    return None


def compare_inference(run: Path) -> list[dict]:
    """Search the test cases of a run in several ways.

    Returns a row per case and way: statistics, search, windows, finds, vertebrae found at IoU 0.5,
    and how it ended.
    """
    network, config = load_run_network(run)
    configure_runtime(seed=0)
    weights = network.get_weights()
    rows = []
    for case in map(Case.from_dict, load_run(run).read_split()["test"]):
        image, labels = load_case(case, config)
        for statistics, traversal in product(STATISTICS, ("port", "code")):
            way = replace(config, inference_statistics=statistics, traversal=traversal)
            model = build_for_any_size(way)  # statistics are chosen when it is traced
            model.set_weights(weights)
            search, ended = run_search(image.array, make_ask(model, way), way)
            matching = match_instances(search.mask, labels.array)
            rows.append({
                "case": case.id, "statistics": statistics, "search": traversal,
                "windows": len(search.visits), "finds": len(matching.predictions),
                "found": f"{matching.found} of {len(matching.references)}", "ended": ended,
            })  # fmt: skip
    return rows


def compare_weights(run: Path, original: Path) -> list[dict]:
    """Return a row per tensor: its largest difference between a .pth file and a run.

    Raises `DataError` where the file cannot be read or is of another architecture.
    """
    trained, config = load_run_network(run)
    converted = build_for_any_size(replace(config, inference_statistics="batch"))
    assign_original(converted, read_original(original), source=str(original))
    first, second = (
        {name: variable for name, (variable, _) in variables_by_name(model).items()}
        for model in (converted, trained)
    )
    return compare_arrays(first, second)
