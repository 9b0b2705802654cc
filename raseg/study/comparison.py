"""The parts of the comparison of original and port, as `compare` offers them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

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
from raseg.config import PRESETS, Config, Preset
from raseg.data import choose_volumes, normalise, open_volumes, prepare_volume, read_split
from raseg.effects import EffectBench
from raseg.inference import load_run_network, on_volumes, segment
from raseg.masks import mask_path, read_mask, to_mask
from raseg.model import build_for_any_size
from raseg.original_weights import assign_original, read_original, variables_by_name
from raseg.recording import NETWORK, rebuild


def list_parts(
    preset: Preset, *, run: Path | None, data: Path, original: Path | None
) -> dict[str, Callable[[], Table]]:
    """Return what makes each part that is possible, by its name; arguments as for `compare`."""
    makers = shared_parts(
        run, presets=PRESETS, layers=partial(compare_layers, preset),
        activations=compare_activations, bench=EffectBench, load_network=load_run_network,
        read_prediction=lambda run: read_prediction(run, data),
    )  # fmt: skip
    if original is not None:
        makers["weights"] = lambda: Table("weights", compare_weights(run, original))
    elif run is not None:
        makers["inference"] = lambda: inference_table(compare_inference(run, data), run)
    return makers


def compare_layers(preset: Preset) -> Table:
    """Lay the original's variables beside those of a preset's network."""
    return layers_table(list_layers(preset), recorded_shapes("raseg", NETWORK))


def list_layers(preset: Preset) -> list[dict]:
    """Return a row per variable of the network: the original's name, the port's, shape, count."""
    named = variables_by_name(build_for_any_size(PRESETS[preset]))
    return [describe_variable(name, variable) for name, variable in named.items()]


def compare_activations() -> Table:
    """Hold every layer of the released network to what the original computed."""
    return compare_recorded("raseg", NETWORK, rebuild)


def read_prediction(run: Path, data: Path):
    """Return the first held-out volume that has a mask, for `metrics_table`; else None."""
    record = load_run(run)
    volumes = open_volumes(data, load_config(run, Config))
    folder, tag = Path(run) / "predictions", record.config["tag"]
    for number in read_split(record).get("test", []):
        if mask_path(folder, tag, number).is_file():
            # Slices first: they are what a batch is made of.
            mask, label = read_mask(number, volumes, folder, tag), volumes.label(number)
            return {
                f"run: img{number}": DicePair(np.moveaxis(mask, 2, 0), np.moveaxis(label, 2, 0))
            }
    return None


def compare_inference(run: Path, data: Path) -> list[dict]:
    """Segment the held-out volumes of a run in its own way and with single quirks.

    Args:
        run: run folder with a trained network.
        data: folder of the arrays.

    Returns:
        A row per volume and way: Dice, and voxels unlike the run's own way.
    """
    network, config = load_run_network(run)
    volumes = open_volumes(data, config)
    configure_runtime(seed=0)
    logits_of = on_volumes(segment, network, config)
    rows = []
    for number in choose_volumes(load_run(run), volumes, None):
        inputs = prepare_ways(volumes.image(number), config, number)
        ways = {way: partial(mask_of, logits_of, normalised) for way, normalised in inputs.items()}
        # [R2] A clip at zero turns low logits into ties, hence background.
        ways["R2: ReLU on the logits"] = partial(mask_of, logits_of, inputs["own"], clip=True)
        rows += compare_ways(f"img{number}", ways, volumes.label(number))
    return rows


def mask_of(logits_of, image, *, clip: bool = False):
    """Return the mask of a normalised volume, its logits perhaps clipped at zero."""
    logits = logits_of(image)
    return to_mask(np.maximum(logits, 0) if clip else logits)


def prepare_ways(image, config: Config, number: int) -> dict:
    """Return the network's input under single quirks; patches are left to `predict`."""
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
    require_run(run, original)
    trained, config = load_run_network(run)
    converted = build_for_any_size(config)
    assign_original(converted, read_original(original), source=str(original))
    return compare_arrays(variables_by_name(converted), variables_by_name(trained))
