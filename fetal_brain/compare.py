"""Lay original and port side by side: presets, layers, and the effect of the inference quirks."""

from pathlib import Path

from fetal_brain.config import PRESETS, Preset


def compare(
    preset: Preset = "port",
    *,
    run: Path | None = None,
    original: Path | None = None,
    out: Path | None = None,
) -> None:
    """Lay original and port side by side.

    Always: the presets, and the layers with the original's variable names. With run: how the
    label maps of the run's held-out cases change from the original's way of inference to the
    port's. With original: the first variables in which a checkpoint and the run differ.

    Args:
        preset: whose network is listed.
        run: run folder with a trained network.
        original: a checkpoint or export of the original.
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
    """Return a row per variable of the network: the original's name, the port's, shape, count."""
    from fetal_brain.convert import variables_by_name
    from fetal_brain.model import build_model

    model = build_model(PRESETS[preset])
    return [
        {
            "original": name,
            "port": variable.path,
            "shape": "x".join(map(str, variable.shape)),
            "parameters": int(variable.value.shape.num_elements()),
            "trained": "yes" if variable.trainable else "no",
        }
        for name, variable in variables_by_name(model).items()
    ]


def compare_inference(run: Path) -> list[dict]:
    """Segment the held-out cases of a run both ways, and with single quirks on.

    Args:
        run: run folder with a trained network.

    Returns:
        A row per case and way: seconds, Dice of the foreground, voxels unlike the port's.
    """
    import time
    from dataclasses import replace

    from common.metrics import dice
    from common.runs import load_config, load_run
    from common.training import configure_runtime
    from fetal_brain.config import Config
    from fetal_brain.data import load_case, prepare_case
    from fetal_brain.inference import load_network, make_apply, segment_labels
    from fetal_brain.predict import choose_cases, with_inference_of

    record = load_run(run)
    config = load_config(run, Config)
    configure_runtime(seed=0)
    apply = make_apply(load_network(run, config), config)
    code = with_inference_of(config, "code")
    # [F29] The port's windows are as large as the plane, the code's slide in half steps.
    ways = {
        "port": with_inference_of(config, "port"),
        "code": replace(code, pad_small_volumes=True),
        "code without F5": replace(code, pad_small_volumes=True, count_last_window_twice=False),
    }
    rows = []
    for case in choose_cases(record, config, csv=None, image=None, all_rows=False, mode="EVAL"):
        image, reference = prepare_case(load_case(case, config), config)
        found = {}
        for name, way in ways.items():
            start = time.perf_counter()
            found[name] = segment_labels(apply, image[..., 0], way)
            rows.append({
                "case": case.id,
                "inference": name,
                "seconds": round(time.perf_counter() - start, 2),
                "dice": round(float(dice(found[name] > 0, reference > 0)), 4),
                "voxels unlike port": int((found[name] != found["port"]).sum()),
            })  # fmt: skip
    return rows


def compare_weights(run: Path | None, original: Path) -> list[dict]:
    """Return a row per variable: its largest difference between a checkpoint and a run.

    Raises:
        OptionError: no run is given.
        DataError: the checkpoint cannot be read or is another architecture.
    """
    from common.comparison import compare_arrays
    from common.errors import OptionError
    from common.runs import load_config
    from fetal_brain.config import Config
    from fetal_brain.convert import assign_original, read_original, variables_by_name
    from fetal_brain.inference import build_for_any_plane, load_network

    if run is None:
        raise OptionError("--original needs --run; expected the run to compare the checkpoint with")
    config = load_config(run, Config)
    converted = build_for_any_plane(config)
    assign_original(converted, read_original(original), source=str(original))
    trained = variables_by_name(load_network(run, config))
    return compare_arrays(variables_by_name(converted), trained)
