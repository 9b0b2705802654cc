"""The packaged recording is what the engine was recorded with; the port holds to every block."""

import numpy as np
import pytest

from common.study.microscope import (
    compare_activations,
    compare_recorded,
    first_divergence,
    load_recorded,
    load_recording,
)
from dhcp_fetal.config import CODE
from dhcp_fetal.convert import IGNORED, name_variables, original_shape
from dhcp_fetal.model import build_model
from dhcp_fetal.recording import NETWORK, VOLUME_SEED, WEIGHTS_SEED, layer_of, rebuild

TOLERANCE = 1e-4
SOURCE = "DeepMedic v0.7.0 with the published cgm cfg, two tiles of 45 x 45 x 45"
NUMBERS = 32


def from_golden(golden):
    """The content of `recorded.json`, from the recorded arrays of the tests."""
    recorded, layers = golden("full_fetal"), []
    assert (int(recorded["weights_seed"]), int(recorded["volume_seed"])) == (
        WEIGHTS_SEED, VOLUME_SEED)  # fmt: skip
    for row, name in enumerate(recorded["block_names"].tolist()):
        shape = recorded["block_shape"][row]
        chosen = slice(None, None, 64 // NUMBERS)
        # The engine keeps channels before the voxels.
        place = np.unravel_index(recorded["block_sample_idx"][row][chosen], shape)
        ours = (shape[0], *shape[2:], shape[1])
        index = np.ravel_multi_index((place[0], *place[2:], place[1]), ours)
        values = recorded["block_sample_val_v070"][row][chosen]
        layers.append({
            "original": name, "port": layer_of(name), "shape": [int(n) for n in ours],
            "index": index.tolist(), "values": [float(f"{v:.9g}") for v in values],
        })  # fmt: skip
    network = {"source": SOURCE, "tolerance": TOLERANCE, "checks": rebuild().sums(),
               "layers": layers}  # fmt: skip
    shapes = {name: list(original_shape(v)) for name, v in name_variables(build_model(CODE))}
    assert sorted(shapes) == recorded["w_names"].tolist()
    return {"networks": {NETWORK: network}, "variables": {NETWORK: shapes}}


def test_the_packaged_recording_is_the_golden_one(golden):
    expected, found = from_golden(golden), load_recorded("dhcp_fetal")
    assert found["variables"] == expected["variables"]
    (network,), (wanted,) = found["networks"].values(), expected["networks"].values()
    assert network["layers"] == wanted["layers"]
    assert network["checks"] == pytest.approx(wanted["checks"])
    assert network["tolerance"] == TOLERANCE


@pytest.mark.shared
def test_recorded_shapes_are_those_of_the_published_index(fetal_files):
    import tensorflow as tf

    index = next(fetal_files.glob("cgm/checkpoint/*.index"))
    published = {name: shape for name, shape in tf.train.list_variables(str(index)[:-6])
                 if not any(ignored(name) for ignored in IGNORED)}  # fmt: skip
    (shapes,) = load_recorded("dhcp_fetal")["variables"].values()
    assert shapes == published


def test_every_block_equals_the_engine_and_a_disturbed_one_is_named():
    """One kernel two per cent larger: that block is the first to differ, none before it."""
    rebuilt, recording = rebuild(), load_recording("dhcp_fetal", NETWORK)
    table = compare_recorded("dhcp_fetal", NETWORK, lambda: rebuilt)
    assert len(table.rows) == 27
    assert {row["verdict"] for row in table.rows} == {"equal"}
    assert max(row["of scale"] for row in table.rows) < 2e-5
    kernel = rebuilt.model.get_layer("context_2_3_conv").kernel
    kernel.assign(np.array(kernel) * 1.02)
    found = rebuilt.activations([layer.port for layer in recording.layers])
    assert first_divergence(compare_activations(recording, found)) == "path2_block2"
