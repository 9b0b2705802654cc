"""The parts of the comparison of original and port, as `compare` offers them."""

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
    compare_ways,
    describe_variable,
    inference_table,
    layers_table,
)
from common.study.dice_definitions import DicePair, deepmedic_dice
from common.study.microscope import compare_recorded, recorded_shapes
from common.study.parts import shared_parts
from dhcp_fetal.config import PRESETS, Config
from dhcp_fetal.data import files_from, load_case, name_of, prepare_case, read_file
from dhcp_fetal.effects import EffectBench
from dhcp_fetal.inference import on_volumes
from dhcp_fetal.model import build_model
from dhcp_fetal.networks import load_run_network
from dhcp_fetal.original_weights import (
    IGNORED,
    KINDS,
    list_blocks,
    name_variables,
    original_shape,
    read_original,
)
from dhcp_fetal.recording import NETWORK, rebuild


def list_parts(
    config: Config, *, run: Path | None, original: Path | None
) -> dict[str, Callable[[], Table]]:
    """Return what makes each part that is possible, by its name; arguments as for `compare`."""
    makers = shared_parts(
        run, presets=PRESETS, layers=partial(compare_layers, config),
        activations=compare_activations, bench=EffectBench, load_network=load_run_network,
        read_prediction=read_prediction,
    )  # fmt: skip
    if run is not None:
        makers["inference"] = lambda: inference_table(compare_inference(run), run)
    if original is not None:
        makers["weights"] = lambda: Table("weights", compare_weights(run, original, config))
    return makers


def compare_layers(config) -> Table:
    """Lay the published network's variables beside those of a configuration's network.

    Names are numbers in the order of creation, so that only networks of one layout can be paired.
    """
    rows, theirs = list_layers(config), recorded_shapes("dhcp_fetal", NETWORK)
    why_not = "The original's shapes are not recorded in this installation."
    if theirs is not None and {row["original"] for row in rows} != theirs.keys():
        theirs, why_not = None, "The published network has another layout: nothing to pair."
    table = layers_table(rows, theirs, why_not=why_not)
    layouts = "Kernels are out x in x their three edges there, the three edges x in x out here."
    return replace(table, text=f"{table.text} {layouts}")


def list_layers(config) -> list[dict]:
    """Return a row per variable of a network, layer after layer: see `describe_variable`."""
    model = build_model(config)
    names = {variable.path: name for name, variable in name_variables(model)}
    variables = [
        getattr(block[ending], attribute)
        for block in list_blocks(model)
        for ending, attribute in KINDS.values()
        if ending in block
    ]
    return [describe_variable(names[variable.path], variable) for variable in variables]


def compare_activations() -> Table:
    """Hold every block of the published network to what the engine computed."""
    return compare_recorded("dhcp_fetal", NETWORK, rebuild)


def read_prediction(run: Path):
    """Return the first held-out case that has a label map, for `metrics_table`; else None."""
    config = load_config(run, Config)
    for files in map(files_from, load_run(run).read_split().get("test", ())):
        path = prediction_path(Path(run) / "predictions", name_of(files))
        if path.is_file() and files.labels is not None:
            case, found = load_case(files, config), read_file(path, config).array.T
            return {f"run: {case.name}": DicePair(found, case.labels, case.mask)}
    return None


def compare_inference(run: Path) -> list[dict]:
    """Segment the held-out cases of a run in several ways.

    Returns a row per case and way: seconds, DICE1 of the foreground as `dice`, voxels unlike the
    port's, and their share.
    """
    configure_runtime(seed=0)
    network, config = load_run_network(run)
    engine = replace(config, tiling="engine")
    smaller = tuple(edge - 6 for edge in config.inference_segment)
    ways = {
        "port": replace(config, tiling="lattice"),
        "port, smaller tiles": replace(config, tiling="lattice", inference_segment=smaller),
        "engine": engine,
        "engine, smaller tiles [G5]": replace(engine, inference_segment=smaller),
        "engine, centred context [G3]": replace(engine, centred_context=True),
    }
    runs = {name: on_volumes(network, way) for name, way in ways.items()}
    rows = []
    for files in map(files_from, load_run(run).read_split()["test"]):
        case = load_case(files, config)
        image = prepare_case(case, config)
        segment = {name: partial(label, run, image, case.mask) for name, run in runs.items()}
        rows += compare_ways(case.name, segment, case.labels, measure=deepmedic_dice)
    return rows


def label(run, image, mask):
    """Return the label map of a volume."""
    return run(image, mask).labels


def compare_weights(run: Path | None, original: Path, config) -> list[dict]:
    """Return a row per variable: its largest difference between a checkpoint and a network.

    Where the checkpoint is of another architecture the rows show the shapes instead, those that
    differ first.
    """
    network = build_model(config) if run is None else load_run_network(run)[0]
    ours = dict(name_variables(network))
    theirs = {name: array for name, array in read_original(original).items()
              if not any(ignored(name) for ignored in IGNORED)}  # fmt: skip
    rows = []
    for name in dict.fromkeys([*ours, *theirs]):
        mine = original_shape(ours[name]) if name in ours else None
        other = theirs[name].shape if name in theirs else None
        row = {"variable": name, "network": str(mine), "checkpoint": str(other), "difference": "–"}
        if mine == other:
            value = np.asarray(ours[name])
            value = value.transpose(4, 3, 0, 1, 2) if value.ndim == 5 else value
            row["difference"] = f"{np.abs(value - theirs[name]).max():.3g}"
        rows.append(row)
    return sorted(rows, key=lambda row: row["network"] == row["checkpoint"])
