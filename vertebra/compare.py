"""Lay original and port side by side: presets, layers, weights, and the effect of the quirks."""

from pathlib import Path

from vertebra.config import PRESETS, Config, Preset

STATISTICS = ("batch", "moving", "per_site")


def compare(
    preset: Preset = "port",
    *,
    run: Path | None = None,
    original: Path | None = None,
    out: Path | None = None,
) -> None:
    """Lay original and port side by side.

    Always: the presets, and the layers with the original's names. With run: the test cases of the
    run searched the released way and the mended one, and with each kind of statistics. With
    original: the largest difference of every tensor between a .pth file and the run.

    Args:
        preset: whose network is listed.
        run: run folder with a trained network.
        original: .pth file of the original.
        out: JSON file with the same tables.
    """
    from common.comparison import compare_presets, show_tables

    tables = {"presets": compare_presets(PRESETS), "layers": list_layers(preset)}
    if run is not None:
        tables["inference"] = compare_inference(run)
    if original is not None:
        tables["weights"] = compare_weights(run, original)
    show_tables(tables, out)


def list_layers(preset: Preset) -> list[dict]:
    """Return a row per tensor of the network: the original's name, the port's, shape, sites."""
    from vertebra.convert import variables_by_name
    from vertebra.model import build_model

    config = PRESETS[preset]
    model = build_model(config)
    return [
        {
            "original": name,
            "port": variable.path,
            "shape": "x".join(map(str, variable.shape)),
            "numbers": int(variable.value.shape.num_elements()),
            "sites": getattr(model.get_layer(name.partition(".")[0]), "sites", 1),
            "trained": "yes" if variable.trainable else "no",
        }
        for name, (variable, _) in variables_by_name(model).items()
    ]


def compare_inference(run: Path) -> list[dict]:
    """Search the test cases of a run in several ways.

    Args:
        run: run folder with a trained network.

    Returns:
        A row per case and way: statistics, search, windows, finds, vertebrae found at IoU 0.5, and
        how it ended.
    """
    from common.runs import load_config, load_run
    from common.training import configure_runtime
    from vertebra.data import Case, load_case
    from vertebra.inference import build_for_any_size, load_network

    record = load_run(run)
    config = load_config(run, Config)
    configure_runtime(seed=0)
    weights = load_network(run, config).get_weights()
    rows = []
    for entry in record.read_split()["test"]:
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

    from common.errors import DataError
    from vertebra.inference import make_ask
    from vertebra.instances import match_instances
    from vertebra.predict import MOST_VISITS
    from vertebra.traverse import advance, begin

    config = replace(config, inference_statistics=statistics, traversal=traversal)
    search = begin(image, config)
    ask, ended = make_ask(model, config), ""
    try:
        for _ in advance(search, ask, max_visits=min(MOST_VISITS, 200)):
            pass
    except (DataError, IndexError, ValueError, OverflowError) as failure:
        ended = f"broke down: {' '.join(str(failure).split())[:60]}"
    matching = match_instances(search.mask, labels)
    return {
        "windows": len(search.visits),
        "finds": len(matching.predictions),
        "found": f"{matching.found} of {len(matching.references)}",
        "ended": ended or search.ended,
    }


def compare_weights(run: Path | None, original: Path) -> list[dict]:
    """Return a row per tensor: its largest difference between a .pth file and a run.

    Raises:
        OptionError: no run is given.
        DataError: the file cannot be read or is another architecture.
    """
    from dataclasses import replace

    import numpy as np

    from common.errors import OptionError
    from common.runs import load_config
    from vertebra.convert import assign_original, read_original, variables_by_name
    from vertebra.inference import build_for_any_size, load_network

    if run is None:
        raise OptionError("--original needs --run; expected the run to compare the file with")
    config = replace(load_config(run, Config), inference_statistics="batch")
    converted = build_for_any_size(config)
    assign_original(converted, read_original(original), source=str(original))
    trained = variables_by_name(load_network(run, config))
    return [
        {
            "tensor": name,
            "largest difference": float(np.abs(np.subtract(variable, trained[name][0])).max()),
        }
        for name, (variable, _) in variables_by_name(converted).items()
    ]
