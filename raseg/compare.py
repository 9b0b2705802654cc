"""Lay original and port side by side: presets, layers, and what the quirks do to predictions."""

from pathlib import Path

from raseg.config import PRESETS, Config, Preset


def compare(
    preset: Preset = "port",
    *,
    run: Path | None = None,
    data: Path = Path("datasets"),
    original: Path | None = None,
    out: Path | None = None,
) -> None:
    """Lay original and port side by side.

    Always: the presets, and the layers with the original's variable names. With run: how the masks
    of its held-out volumes change under the original's quirks. With original: in which variables a
    checkpoint and the run differ.

    Args:
        preset: whose network is listed.
        run: run folder with a trained network.
        data: folder of the arrays, for run.
        original: a checkpoint of the original.
        out: JSON file with the same tables.
    """
    from common.comparison import compare_presets, show_tables

    tables = {"presets": compare_presets(PRESETS), "layers": list_layers(preset)}
    if original is not None:
        tables["weights"] = compare_weights(run, original)
    elif run is not None:
        tables["inference"] = compare_inference(run, data)
    show_tables(tables, out)


def list_layers(preset: Preset) -> list[dict]:
    """Return a row per variable of the network: the original's name, the port's, shape, count."""
    from raseg.convert import variables_by_name
    from raseg.inference import build_for_any_size

    model = build_for_any_size(PRESETS[preset])
    return [
        {
            "original": name,
            "port": variable.path,
            "shape": "x".join(map(str, variable.shape)),
            "parameters": int(variable.value.shape.num_elements()),
        }
        for name, variable in variables_by_name(model).items()
    ]


def compare_inference(run: Path, data: Path) -> list[dict]:
    """Segment the held-out volumes of a run in its own way and with single quirks.

    Args:
        run: run folder with a trained network.
        data: folder of the arrays.

    Returns:
        A row per volume and way: Dice, and voxels unlike the run's own way.
    """
    import numpy as np

    from common.metrics import dice
    from common.runs import load_config, load_run
    from common.training import configure_runtime
    from raseg.data import open_volumes
    from raseg.inference import load_network, make_whole_pass, to_mask
    from raseg.predict import choose_volumes

    record = load_run(run)
    config = load_config(run, Config)
    volumes = open_volumes(data, config)
    configure_runtime(seed=0)
    whole = make_whole_pass(load_network(run, config), config)
    rows = []
    for number in choose_volumes(record, volumes, None):
        image, label = volumes.image(number), volumes.label(number)
        found = {}
        for way, normalised in prepare_ways(image, config, number).items():
            logits = whole(normalised)
            found[way] = to_mask(logits)
            if way == "own":  # [R2] A clip at zero turns low logits into ties, hence background.
                found["R2: ReLU on the logits"] = to_mask(np.maximum(logits, 0))
        rows += [
            {
                "volume": number,
                "way": way,
                "dice": round(float(dice(mask, label)), 4),
                "voxels unlike own": int((mask != found["own"]).sum()),
            }
            for way, mask in found.items()
        ]
    return rows


def prepare_ways(image, config: Config, number: int) -> dict:
    """Return the network's input under single quirks; patches are left to `predict`."""
    from dataclasses import replace

    import numpy as np

    from raseg.data import normalise, prepare_volume

    name = f"volume {number}"
    signed = replace(config, predict_from_stored=True, read_as_signed=True)
    sums = image.astype(np.float32)
    single = (sums - sums.mean(axis=(0, 1, 2))) / sums.std(axis=(0, 1, 2))
    return {
        "own": prepare_volume(image, config, name=name),
        "R4: words read as signed": prepare_volume(image, signed, name=name),
        "R5: statistics in float32": single.astype(np.float32),
        "R6: intensities not truncated": normalise(image),
    }


def compare_weights(run: Path | None, original: Path) -> list[dict]:
    """Return a row per variable: its largest difference between a checkpoint and a run.

    Raises:
        OptionError: no run is given.
        DataError: the checkpoint cannot be read or is another architecture.
    """
    import numpy as np

    from common.errors import OptionError
    from common.runs import load_config
    from raseg.convert import assign_original, read_original, variables_by_name
    from raseg.inference import build_for_any_size, load_network

    if run is None:
        raise OptionError("--original needs --run; expected the run to compare the checkpoint with")
    config = load_config(run, Config)
    converted = build_for_any_size(config)
    assign_original(converted, read_original(original), source=str(original))
    trained = variables_by_name(load_network(run, config))
    return [
        {
            "variable": name,
            "largest difference": float(np.abs(np.subtract(variable, trained[name])).max()),
        }
        for name, variable in variables_by_name(converted).items()
    ]
