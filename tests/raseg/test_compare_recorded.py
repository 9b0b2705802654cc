"""The packaged recording is what the original was recorded with; the port holds to every layer."""

import json

import numpy as np
import pytest

from common.study.microscope import (
    compare_activations,
    compare_recorded,
    first_divergence,
    load_recorded,
    load_recording,
)
from raseg.recording import NETWORK, SEED, rebuild

TOLERANCE = 1e-4
SOURCE = "the released code on TensorFlow 0.12.1, one volume of 32 x 32 x 20 at full width"
NUMBERS = 48


def from_golden(golden, golden_dir):
    """The content of `recorded.json`, from the recorded arrays of the tests."""
    recorded = golden("small_a")
    assert int(recorded["seed"]) == SEED
    rebuilt, layers = rebuild(), []
    order = [layer.name for layer in rebuilt.model.layers]
    for scope in sorted(recorded["layers"].tolist(), key=order.index):
        shape = (1, *recorded[f"act/{scope}/shape"].tolist())
        i, j, k = recorded[f"act/{scope}/idx"].T
        values, channels = recorded[f"act/{scope}/val"].ravel(), shape[-1]
        voxels = (i * shape[2] + j) * shape[3] + k
        index = (voxels[:, None] * channels + np.arange(channels)).ravel()
        chosen = np.unique(np.arange(NUMBERS) * (index.size - 1) // (NUMBERS - 1))
        # What is doubled to an odd size is cut by a layer of its own.
        cut = scope.startswith("up") and shape[3] % 2
        layers.append({
            "original": scope,
            "port": f"{scope}_cut" if cut else scope,
            "shape": list(shape),
            "index": index[chosen].tolist(),
            "values": [float(f"{v:.9g}") for v in values[chosen]],
        })  # fmt: skip
    network = {"source": SOURCE, "tolerance": TOLERANCE, "checks": rebuilt.sums(),
               "layers": layers}  # fmt: skip
    stored = json.loads((golden_dir / "raseg" / "variables.json").read_text())
    shapes = {entry["name"]: entry["shape"] for entry in stored
              if entry["name"].rpartition("/")[2] in ("weights", "biases")}  # fmt: skip
    return {"networks": {NETWORK: network}, "variables": {NETWORK: shapes}}


@pytest.fixture(scope="module")
def rebuilt():
    return rebuild()


@pytest.fixture(scope="module")
def recording():
    return load_recording("raseg", NETWORK)


def test_the_packaged_recording_is_the_golden_one(golden, golden_dir):
    expected, found = from_golden(golden, golden_dir), load_recorded("raseg")
    assert found["variables"] == expected["variables"]
    (network,), (wanted,) = found["networks"].values(), expected["networks"].values()
    assert network["layers"] == wanted["layers"]
    assert network["checks"] == pytest.approx(wanted["checks"])
    assert network["tolerance"] == TOLERANCE


def test_every_layer_equals_the_original():
    table = compare_recorded("raseg", NETWORK, rebuild)
    assert len(table.rows) == 27
    assert {row["verdict"] for row in table.rows} == {"equal"}
    assert max(row["of scale"] for row in table.rows) < 1e-5


@pytest.mark.parametrize("layer", ["down3", "h1_conv4", "logits"])
def test_a_disturbed_layer_is_named(rebuilt, recording, layer):
    """One kernel two per cent larger: that layer is the first to differ, none before it."""
    kernel = rebuilt.model.get_layer(layer).kernel
    kept = np.array(kernel)
    kernel.assign(kept * 1.02)
    try:
        found = rebuilt.activations([each.port for each in recording.layers])
    finally:
        kernel.assign(kept)
    assert first_divergence(compare_activations(recording, found)) == layer
