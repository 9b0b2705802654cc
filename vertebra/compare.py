"""Lay original and port side by side: presets, layers, activations, quirks, metrics."""

from pathlib import Path
from typing import TYPE_CHECKING

from vertebra.config import PRESETS, Config, Preset

if TYPE_CHECKING:
    from common.study.compare import Table

STATISTICS = ("batch", "moving", "per_site")


def compare(
    preset: Preset = "port",
    *,
    run: Path | None = None,
    original: Path | None = None,
    out: Path | None = None,
    to: Path | None = None,
    parts: tuple[str, ...] | None = None,
) -> None:
    """Lay original and port side by side.

    Always: the presets, and the layers with the original's names. With run: the test cases of the
    run searched the released way and the mended one, and with each kind of statistics. With
    original and run: the largest difference of every tensor between a .pth file and the run. With
    to, or parts: the activations of the original against the port's, as recorded and, where PyTorch
    is installed, live; what each quirk does on phantoms; and one prediction under every Dice of the
    five projects.

    Args:
        preset: whose network is listed.
        run: run folder with a trained network.
        original: .pth file of the original; the live comparison takes its weights.
        out: JSON file with the same tables.
        to: folder of a page with every part, such as report/vertebra/compare.
        parts: which of presets, layers, activations, live, effects, metrics, formulas, inference,
            weights; or all. Default: all with to, else those that need no computation.
    """
    from common.study.compare import (
        Table,
        compare_parts,
        inference_table,
        presets_table,
        require_run,
    )
    from common.study.dice_definitions import formulas_table

    if to is None and parts is None:
        require_run(run, original, what="file")
    makers = {
        "presets": lambda: presets_table(PRESETS),
        "layers": lambda: compare_layers(preset),
        "activations": compare_activations,
        "live": lambda: compare_live(original),
        "effects": lambda: compare_effects(run),
        "metrics": lambda: compare_metrics(run),
        "formulas": formulas_table,
    }
    if run is not None:
        makers["inference"] = lambda: inference_table(compare_inference(run), run)
    if original is not None and run is not None:
        makers["weights"] = lambda: Table("weights", compare_weights(run, original))
    compare_parts("vertebra", makers, parts=parts, out=out, to=to)


def compare_layers(preset: Preset) -> "Table":
    """Lay the original's tensors beside those of a preset's network."""
    from common.study.compare import layers_table
    from common.study.microscope import recorded_shapes
    from vertebra.recording import NETWORK

    return layers_table(list_layers(preset), recorded_shapes("vertebra", NETWORK))


def list_layers(preset: Preset) -> list[dict]:
    """Return a row per tensor of the network: the original's name, the port's, shape, sites."""
    from common.study.compare import describe_variable
    from vertebra.convert import variables_by_name
    from vertebra.model import build_model

    model = build_model(PRESETS[preset])
    return [
        {
            **describe_variable(name, variable),
            "sites": getattr(model.get_layer(name.partition(".")[0]), "sites", 1),
        }
        for name, (variable, _) in variables_by_name(model).items()
    ]


def compare_activations() -> "Table":
    """Hold every application of a block to what the original computed."""
    from common.study.microscope import compare_recorded
    from vertebra.recording import NETWORK, rebuild

    return compare_recorded("vertebra", NETWORK, rebuild)


def compare_live(original: Path | None = None) -> "Table":
    """Hold every application of a block to PyTorch's, where that is installed.

    Args:
        original: .pth file whose weights both sides take; None: weights drawn from a seed.
    """
    from vertebra import live

    return live.compare_live(original)


def compare_effects(run: Path | None = None) -> "Table":
    """Flip every switch of the preset `code` alone and measure what it does on phantoms.

    Args:
        run: whose trained network is used, if its patches are as small as the quick preset's; None:
            one trained here for some seconds.
    """
    from common.runtime import configure_runtime
    from common.study.effects import compare_effects as measure
    from vertebra.config import CODE
    from vertebra.effects import Bench
    from vertebra.inference import load_run_network

    configure_runtime(seed=0)
    return measure(Bench(run and load_run_network(run)), code=CODE, run=run)


def compare_metrics(run: Path | None = None) -> "Table":
    """Score telling predictions, and the first of a run's, with every historical Dice."""
    from common.study.dice_definitions import metrics_table

    return metrics_table(*([] if run is None else [read_prediction(run)]))


def read_prediction(run: Path):
    """Return the first test case that has a mask, for `metrics_table`; else None."""
    from common.runs.folder import load_run
    from common.study.dice_definitions import Case as Scored
    from vertebra.data import Case
    from vertebra.evaluate import prediction_path, read_pair

    folder = Path(run) / "predictions"
    for case in map(Case.from_dict, load_run(run).read_split()["test"]):
        if prediction_path(folder, case.id).is_file():
            found, reference = read_pair(case, folder)
            return {f"run: {case.id}": Scored(found.array, reference.array)}
    return None


def compare_inference(run: Path) -> list[dict]:
    """Search the test cases of a run in several ways.

    Args:
        run: run folder with a trained network.

    Returns:
        A row per case and way: statistics, search, windows, finds, vertebrae found at IoU 0.5, and
        how it ended.
    """
    from common.runs.folder import load_run
    from common.runtime import configure_runtime
    from vertebra.data import Case, load_case
    from vertebra.inference import build_for_any_size, load_run_network

    network, config = load_run_network(run)
    configure_runtime(seed=0)
    weights = network.get_weights()
    rows = []
    for entry in load_run(run).read_split()["test"]:
        case = Case.from_dict(entry)
        image, labels = load_case(case, config)
        for statistics in STATISTICS:
            for traversal in ("port", "code"):
                model = build_for_any_size(config)  # statistics are chosen when it is traced
                model.set_weights(weights)
                found = search_one_way(model, image.array, labels.array, config,
                                       statistics=statistics, traversal=traversal)  # fmt: skip
                rows.append({"case": case.id, "statistics": statistics, "search": traversal,
                             **found})  # fmt: skip
    return rows


def search_one_way(model, image, labels, config: Config, *, statistics, traversal) -> dict:
    """Return what one search of one scan comes to, also where it breaks down."""
    from dataclasses import replace

    from vertebra.inference import make_ask
    from vertebra.instances import match_instances
    from vertebra.search import run_search

    config = replace(config, inference_statistics=statistics, traversal=traversal)
    search, ended = run_search(image, make_ask(model, config), config)
    matching = match_instances(search.mask, labels)
    return {
        "windows": len(search.visits),
        "finds": len(matching.predictions),
        "found": f"{matching.found} of {len(matching.references)}",
        "ended": ended,
    }


def compare_weights(run: Path | None, original: Path) -> list[dict]:
    """Return a row per tensor: its largest difference between a .pth file and a run.

    Raises:
        OptionError: no run is given.
        DataError: the file cannot be read or is of another architecture.
    """
    from dataclasses import replace

    from common.study.compare import compare_arrays, require_run
    from vertebra.convert import assign_original, read_original, variables_by_name
    from vertebra.inference import build_for_any_size, load_run_network

    require_run(run, original, what="file")
    trained, config = load_run_network(run)
    converted = build_for_any_size(replace(config, inference_statistics="batch"))
    assign_original(converted, read_original(original), source=str(original))
    first, second = (
        {name: variable for name, (variable, _) in variables_by_name(model).items()}
        for model in (converted, trained)
    )
    return compare_arrays(first, second)
