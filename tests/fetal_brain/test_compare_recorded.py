"""The packaged recording is what the original was recorded with; the port holds to every layer."""

import numpy as np
import pytest

from common.study.microscope import (
    compare_activations,
    compare_recorded,
    first_divergence,
    load_recorded,
    load_recording,
)
from fetal_brain.recording import NETWORK, rebuild

TOLERANCE = 2e-4
SOURCE = "the released code on TensorFlow 1.4.1, evaluation of two patches of 3 x 128 x 128"


def from_golden(golden, recipe, initialisation):
    """The content of `recorded.json`, from the recorded arrays of the tests."""
    recorded = golden("model_eval")
    layers = []
    for row, name in enumerate(recorded["layer_names"].tolist()):
        shape = recorded["layer_shapes"][row].tolist()
        size = int(np.prod(shape))
        layers.append({
            "original": name,
            "port": recipe.layer_of(name),
            "shape": shape,
            "index": (np.arange(16) * (size - 1) // 15).tolist(),
            "values": [float(f"{v:.9g}") for v in recorded["layer_samples"][row]],
        })  # fmt: skip
    network = {"source": SOURCE, "tolerance": TOLERANCE, "checks": rebuild().sums(),
               "layers": layers}  # fmt: skip
    shapes = {name: entry["shape"] for name, entry in initialisation.items()}
    return {"networks": {NETWORK: network}, "variables": {NETWORK: shapes}}


@pytest.fixture(scope="module")
def rebuilt():
    return rebuild()


@pytest.fixture(scope="module")
def recording():
    return load_recording("fetal_brain", NETWORK)


def test_the_packaged_recording_is_the_golden_one(golden, recipe, initialisation):
    expected = from_golden(golden, recipe, initialisation)
    found = load_recorded("fetal_brain")
    assert found["variables"] == expected["variables"]
    (network,), (wanted,) = found["networks"].values(), expected["networks"].values()
    assert network["layers"] == wanted["layers"]
    assert network["checks"] == pytest.approx(wanted["checks"])
    assert network["tolerance"] == TOLERANCE


def test_every_layer_equals_the_original():
    """Two ten-thousandths of a layer's scale are allowed; 2e-6 was measured."""
    table = compare_recorded("fetal_brain", NETWORK, rebuild)
    assert len(table.rows) == 55
    assert {row["verdict"] for row in table.rows} == {"equal"}
    assert max(row["of scale"] for row in table.rows) < 2e-5
    assert table.text.startswith("No divergence in 55 layers")


@pytest.mark.parametrize(
    ("layer", "first"),
    [
        ("enc_unit_2_conv3d", "enc_unit_2/conv3d/Conv3D"),
        ("upscore_1_batch_normalization", "upscore_1/batch_normalization/batchnorm/add_1"),
    ],
)
def test_a_disturbed_layer_is_named(rebuilt, recording, layer, first):
    """One weight array two per cent larger: that layer is the first to differ, none before it."""
    variable = rebuilt.model.get_layer(layer).weights[0]
    kept = np.array(variable)
    variable.assign(kept * 1.02)
    try:
        found = rebuilt.activations([each.port for each in recording.layers])
    finally:
        variable.assign(kept)
    rows = compare_activations(recording, found)
    assert first_divergence(rows) == first
