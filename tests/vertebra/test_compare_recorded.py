"""The packaged recording is what the original was recorded with; the port holds to every block."""

import numpy as np
import pytest

from common.study.microscope import (
    compare_activations,
    compare_recorded,
    first_divergence,
    load_recorded,
    load_recording,
)
from vertebra.config import CODE
from vertebra.live import compare_live
from vertebra.recording import NETWORK, SEED, original_shapes, rebuild

TOLERANCE = 1e-4
SOURCE = "iterativeFCN.py on PyTorch 2.13 in train mode, four channels, a patch of 128 x 128 x 128"
NUMBERS = 48


def from_golden(golden):
    """The content of `recorded.json`, from the recorded arrays of the tests."""
    recorded, layers = golden("model_small"), []
    assert int(recorded["weight_seed"]) == SEED
    for name in recorded["block_names"].tolist():
        edge, channels = int(name.partition("@")[2]), 1 if name.startswith("conv_final") else 4
        layers.append({
            "original": name,
            "port": name,
            "shape": [1, edge, edge, edge, channels],
            "mean": numbers(recorded[f"a_batch_chmean/{name}"]),
            "deviation": numbers(recorded[f"a_batch_chstd/{name}"]),
        })  # fmt: skip
    z, y, x = recorded["a_S_idx"].astype(int).T
    index = ((z * 128) + y) * 128 + x
    chosen = np.unique(np.arange(NUMBERS) * (index.size - 1) // (NUMBERS - 1))
    layers.append({
        "original": "sigmoid", "port": "mask", "shape": [1, 128, 128, 128, 1],
        "index": index[chosen].tolist(), "values": numbers(recorded["a_batch_S"][chosen]),
    })  # fmt: skip
    layers.append({
        "original": "dense", "port": "logit", "shape": [1, 1], "index": [0],
        "values": numbers(np.ravel(recorded["a_batch_C_logit"])),
    })  # fmt: skip
    network = {"source": SOURCE, "tolerance": TOLERANCE, "checks": rebuild().sums(),
               "layers": layers}  # fmt: skip
    shapes = {name: list(shape) for name, shape in original_shapes(CODE).items()}
    return {"networks": {NETWORK: network}, "variables": {NETWORK: shapes}}


def numbers(values):
    return [float(f"{value:.9g}") for value in values]


def test_the_packaged_recording_is_the_golden_one(golden):
    expected, found = from_golden(golden), load_recorded("vertebra")
    assert found["variables"] == expected["variables"]
    (network,), (wanted,) = found["networks"].values(), expected["networks"].values()
    assert network["layers"] == wanted["layers"]
    assert network["checks"] == pytest.approx(wanted["checks"])
    assert network["tolerance"] == TOLERANCE


@pytest.mark.shared
def test_recorded_shapes_are_those_of_the_released_file(shared):
    from vertebra.convert import read_original

    tensors = read_original(shared / "data" / "vertebra" / "IterativeFCN_pretrained.pth")
    (shapes,) = load_recorded("vertebra")["variables"].values()
    released = {name: list(array.shape) for name, array in tensors.items()
                if not name.endswith("num_batches_tracked")}  # fmt: skip
    assert shapes == released


def test_every_block_equals_the_original_and_a_disturbed_one_is_named():
    """One scale of conv_up two per cent larger: its first application is the first to differ."""
    rebuilt, recording = rebuild(), load_recording("vertebra", NETWORK)
    table = compare_recorded("vertebra", NETWORK, lambda: rebuilt)
    assert len(table.rows) == 14
    assert {row["verdict"] for row in table.rows} == {"equal"}
    assert max(row["of scale"] for row in table.rows) < 2e-5
    # Of a kernel the normalisation behind it would divide the factor out.
    gamma = rebuilt.model.get_layer("conv_up").norm_5.gamma
    gamma.assign(np.array(gamma) * 1.02)
    found = rebuilt.activations([layer.port for layer in recording.layers])
    assert first_divergence(compare_activations(recording, found)) == "conv_up@32"


def test_live():
    """Every value of every block; without PyTorch the part says that it is not installed."""
    table = compare_live()
    if not table.rows:
        pytest.skip(table.text)
    assert len(table.rows) == 12
    assert {row["verdict"] for row in table.rows} == {"equal"}
