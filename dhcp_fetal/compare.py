"""Lay original and port side by side: presets, layers, and the effect of the inference quirks."""

from pathlib import Path

from dhcp_fetal.config import PRESETS, Preset


def compare(
    preset: Preset = "port",
    *,
    run: Path | None = None,
    original: Path | None = None,
    model_cfg: Path | None = None,
    out: Path | None = None,
) -> None:
    """Lay original and port side by side.

    Always: the presets, and the layers with the original's variable names. With run: how the label
    maps of the run's held-out cases change from the engine's way of inference to the port's. With
    original: the first variables in which a checkpoint and the run, or the network of a model cfg,
    differ.

    Args:
        preset: whose network is listed.
        run: run folder with a trained network.
        original: a checkpoint of the original.
        model_cfg: the original's model cfg, whose network is listed instead (-model).
        out: JSON file with the same tables.
    """
    from common.comparison import compare_presets, show_tables
    from dhcp_fetal.config import from_cfg

    config = PRESETS[preset] if model_cfg is None else from_cfg(model_cfg)
    tables = {"presets": compare_presets(PRESETS), "layers": list_layers(config)}
    if run is not None:
        tables["inference"] = compare_inference(run)
    if original is not None:
        tables["weights"] = compare_weights(run, original, config)
    show_tables(tables, out)


def list_layers(config) -> list[dict]:
    """Return a row per variable of a network: the original's name, the port's, shape, count."""
    from dhcp_fetal.convert import name_variables
    from dhcp_fetal.model import build_model

    return [
        {
            "original": name,
            "port": variable.path,
            "shape": "x".join(map(str, variable.shape)),
            "parameters": int(variable.value.shape.num_elements()),
            "trained": "yes" if variable.trainable else "no",
        }
        for name, variable in name_variables(build_model(config))
    ]


def compare_inference(run: Path) -> list[dict]:
    """Segment the held-out cases of a run in several ways.

    Args:
        run: run folder with a trained network.
    Returns:
        A row per case and way: seconds, DICE1 of the foreground, share of voxels unlike the port's.
    """
    import time
    from dataclasses import replace

    from common.runs import load_run
    from common.training import configure_runtime
    from dhcp_fetal.data import files_from, load_case, prepare_case
    from dhcp_fetal.inference import make_apply, segment_volume
    from dhcp_fetal.measures import engine_dice
    from dhcp_fetal.networks import load_run_network

    configure_runtime(seed=0)
    network, config = load_run_network(run)
    apply = make_apply(network)
    engine = replace(config, tiling="engine")
    smaller = tuple(edge - 6 for edge in config.inference_segment)
    ways = {
        "port": replace(config, tiling="lattice"),
        "port, smaller tiles": replace(config, tiling="lattice", inference_segment=smaller),
        "engine": engine,
        "engine, smaller tiles [G5]": replace(engine, inference_segment=smaller),
        "engine, centred context [G3]": replace(engine, centred_context=True),
    }
    rows = []
    for files in map(files_from, load_run(run).read_split()["test"]):
        case = load_case(files, config)
        image, found = prepare_case(case, config), {}
        for name, way in ways.items():
            start = time.perf_counter()
            found[name] = segment_volume(apply, image, way, mask=case.mask).labels
            unlike = float((found[name] != found["port"]).mean())
            dice = engine_dice(found[name], case.labels, case.mask, config.classes)
            rows.append({
                "case": case.name,
                "inference": name,
                "seconds": round(time.perf_counter() - start, 2),
                "dice1": round(dice["foreground"][0], 4),
                "voxels unlike port": f"{unlike:.4%}",
            })  # fmt: skip
    return rows


def compare_weights(run: Path | None, original: Path, config) -> list[dict]:
    """Return a row per variable: its largest difference between a checkpoint and a network.

    Where the checkpoint is of another architecture the rows show the shapes instead, those that
    differ first.
    """
    import numpy as np

    from dhcp_fetal.convert import IGNORED, name_variables, original_shape, read_original
    from dhcp_fetal.model import build_model
    from dhcp_fetal.networks import load_run_network

    network = build_model(config) if run is None else load_run_network(run)[0]
    ours = {name: variable for name, variable in name_variables(network)}
    theirs = {
        name: array
        for name, array in read_original(original).items()
        if not any(ignored(name) for ignored in IGNORED)
    }
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
