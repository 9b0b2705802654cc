"""The original's layout run live in PyTorch, block by block, beside the port with equal weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from common.data.rng import rng_for
from common.study.compare import Table
from common.study.microscope import Rebuilt, RecordedLayer, Recording, activations_table
from vertebra.config import CODE
from vertebra.original_weights import BLOCKS, read_original, with_channels_of
from vertebra.phantom_spine import make_scan
from vertebra.recording import draw_state, network_with

EDGE = 32
"""Of the patch: weights do not depend on it, and a small one is quick."""
TOLERANCE = 2e-4


def compare_live(original: Path | None = None) -> Table:
    """Compare every application of a block with PyTorch's, with an original's weights or a seed's.

    The table has no rows where PyTorch is not installed, and says so.
    """
    try:
        import torch
    except ImportError:
        return Table("live", [], "Not compared live: PyTorch is not installed (the extra `torch`).")
    rebuilt, weights = prepare(original)
    layers = record(torch, weights, rebuilt)
    source = f"PyTorch {torch.__version__}, live, weights of {original or 'a seed'}"
    recording = Recording(source, TOLERANCE, tuple(layers), {})
    found = rebuilt.activations([layer.port for layer in layers])
    return replace(activations_table(recording, found, paper="vertebra"), title="live")


def prepare(original: Path | None) -> tuple[Rebuilt, dict[str, np.ndarray]]:
    """Return the port's network with its patch, and the weights by the original's names."""
    config = replace(CODE, patch_size=EDGE, channels=8)
    weights = draw_state(config) if original is None else read_original(original)
    config = with_channels_of(weights, config, source=str(original))
    scan, labels = make_scan((EDGE,) * 3, (3.0,) * 3, rng_for(2))
    memory = labels.array > np.median(labels.array[labels.array > 0])
    patch = np.stack([scan.array, memory], axis=-1)[None].astype(np.float32)
    return network_with(weights, config, patch), weights


def record(torch, weights: dict[str, np.ndarray], rebuilt: Rebuilt) -> list[RecordedLayer]:
    """Run the layout in PyTorch and return every value of every block application."""
    from vertebra.study.original_torch import Network

    network = Network(weights["dense.weight"].shape[1]).train()
    state = {name: torch.from_numpy(np.array(value)) for name, value in weights.items()}
    network.load_state_dict(state, strict=False)
    kept = []
    for block in BLOCKS:
        getattr(network, block).register_forward_hook(
            lambda module, inputs, output, block=block: kept.append((block, output.numpy()))
        )
    with torch.no_grad():
        mask, completeness = network(torch.from_numpy(np.moveaxis(rebuilt.inputs, -1, 1).copy()))
    blocks = [name for name in rebuilt.tensors if "@" in name]
    layers = []
    for name, (block, output) in zip(blocks, kept, strict=True):
        if name.partition("@")[0] != block:
            raise AssertionError(f"the layout runs {block} where the port has {name}")
        layers.append(as_layer(name, np.moveaxis(output, 1, -1)))
    mask = as_layer("mask", np.moveaxis(mask.numpy(), 1, -1))
    return [*layers, mask, as_layer("completeness", completeness.numpy().reshape(1, 1))]


def as_layer(name: str, values: np.ndarray) -> RecordedLayer:
    """Return a whole activation as a recorded layer."""
    flat = np.ascontiguousarray(values).ravel()
    return RecordedLayer(name, name, values.shape, np.arange(flat.size), flat)
