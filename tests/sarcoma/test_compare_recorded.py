"""The packaged recordings are what the original was recorded with; the port holds to each layer."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from common.study.microscope import (
    compare_activations,
    compare_recorded,
    first_divergence,
    load_recorded,
    load_recording,
)
from sarcoma.config import CODE
from sarcoma.model import build_model
from sarcoma.recording import CONFIGS, rebuild

TOLERANCE = 1e-4
SOURCES = {
    "unet2d": "UNET_2D under Keras 2.1.6, four patches of 56 x 56",
    "cascade": "the cascade under Keras 2.1.6, its inner variables set, two patches of 56 x 56",
    "dilated": "the dilated network under Keras 2.1.6, its missing names supplied, a sixteenth of "
    "the width, two inputs of 404 x 404",
}
FILES = {"unet2d": ("unet2d_full", "act/"), "cascade": ("cascade", "phase0/act/"),
         "dilated": ("dilated", "w16_c2_n404/act/")}  # fmt: skip
LAYERS = {"unet2d": 23, "cascade": 18, "dilated": 34}


def from_golden(golden):
    """The content of `recorded.json`, from the recorded arrays of the tests."""
    networks, variables = {}, {}
    for architecture in CONFIGS:
        rebuilt = rebuild(architecture)
        networks[architecture] = {
            "source": SOURCES[architecture],
            "tolerance": TOLERANCE,
            "checks": rebuilt.sums(),
            "layers": list(layers_of(golden, architecture, rebuilt)),
        }
        variables[architecture] = shapes_of(golden, architecture, rebuilt)
    return {"networks": networks, "variables": variables}


def layers_of(golden, architecture, rebuilt):
    """Every recorded layer in the order of computation: samples, or else moments."""
    file, prefix = FILES[architecture]
    recorded, batch = golden(file), len(rebuilt.inputs[0])
    batch = batch if architecture == "cascade" else len(rebuilt.inputs)
    for layer in rebuilt.model.layers:
        theirs = layer.name.removesuffix("_1") if "up_sampling" in layer.name else layer.name
        if f"{prefix}{theirs}/mean" not in recorded:
            continue
        entry = {"original": theirs, "port": layer.name,
                 "shape": [batch, *layer.output.shape[1:]]}  # fmt: skip
        if f"{prefix}{theirs}/val" in recorded:
            entry["index"] = recorded[f"{prefix}{theirs}/idx"].tolist()
            entry["values"] = numbers(recorded[f"{prefix}{theirs}/val"])
        else:
            entry["mean"] = numbers(recorded[f"{prefix}{theirs}/mean"])
            entry["deviation"] = numbers(recorded[f"{prefix}{theirs}/std"])
        yield entry


def numbers(values):
    return [float(f"{value:.8g}") for value in values]


def shapes_of(golden, architecture, rebuilt):
    """Shapes of the original's variables: as recorded, or as drawn where their sums agree."""
    recorded = golden(FILES[architecture][0])
    ours = {f"{v.path}:0": v for layer in rebuilt.model.layers for v in layer.weights}
    if architecture == "cascade":
        shapes = dict(zip(recorded["names"].tolist(), recorded["shapes"].tolist(), strict=True))
        return {name: [int(n) for n in shapes[name.removesuffix(":0")].strip("(),").split(",")]
                for name in ours}  # fmt: skip
    prefix = "w16_c2_n404/" if architecture == "dilated" else ""
    names = recorded["w16_c2_n404/names" if prefix else "wsum_names"].tolist()
    sums = dict(zip(names, recorded[f"{prefix}wsum"], strict=True))
    assert sorted(sums) == sorted(ours)
    for name, variable in ours.items():
        total = np.asarray(variable).astype(np.float64).sum()
        np.testing.assert_allclose(total, sums[name], rtol=1e-6)
    if architecture == "dilated":  # of the released width, which was counted when it was recorded
        with keras.StatelessScope():
            whole = build_model(replace(CODE, architecture="dilated"))
            ours = {f"{v.path}:0": v for layer in whole.layers for v in layer.weights}
        assert sum(int(np.prod(v.shape)) for v in ours.values()) == 134_268_958
    return {name: list(variable.shape) for name, variable in ours.items()}


def test_the_packaged_recording_is_the_golden_one(golden):
    expected, found = from_golden(golden), load_recorded("sarcoma")
    assert found["variables"] == expected["variables"]
    for architecture, wanted in expected["networks"].items():
        network = found["networks"][architecture]
        assert network["layers"] == wanted["layers"]
        assert network["checks"] == pytest.approx(wanted["checks"])
        assert network["tolerance"] == TOLERANCE


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_layer_equals_the_original(architecture):
    table = compare_recorded("sarcoma", architecture, lambda: rebuild(architecture))
    assert len(table.rows) == LAYERS[architecture]
    assert {row["verdict"] for row in table.rows} == {"equal"}
    assert max(row["of scale"] for row in table.rows) < 2e-5


@pytest.mark.parametrize(
    ("architecture", "layer", "first"),
    [("unet2d", "conv2d_8", "conv2d_8"), ("cascade", "2_conv_1", "2_conv_1")],
)
def test_a_disturbed_layer_is_named(architecture, layer, first):
    """One kernel two per cent larger: that layer is the first to differ, none before it."""
    rebuilt, recording = rebuild(architecture), load_recording("sarcoma", architecture)
    kernel = rebuilt.model.get_layer(layer).weights[0]
    kernel.assign(np.array(kernel) * 1.02)
    found = rebuilt.activations([each.port for each in recording.layers])
    assert first_divergence(compare_activations(recording, found)) == first
