"""Layers read from a network's file, against Keras' own account of them."""

import zipfile

import pytest

from common.errors import RunError
from common.suite.network_drawing import read_layers


def test_layers_are_those_keras_knows(network):
    path, shapes, parameters = network
    layers = read_layers(path)
    assert [layer.name for layer in layers] == list(shapes)
    assert {layer.name: layer.parameters for layer in layers} == parameters
    shown = {
        name: " × ".join("–" if size is None else str(size) for size in shape)
        for name, shape in shapes.items()
    }
    assert {layer.name: layer.shape for layer in layers} == shown


def test_nothing_is_built_or_executed(network, tmp_path):
    """A class that no program here knows is read like any other."""
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(network[0]) as old, zipfile.ZipFile(path, "w") as new:
        new.writestr("config.json", old.read("config.json").replace(b"Dropout", b"Unheard"))
        new.writestr("model.weights.h5", old.read("model.weights.h5"))
    assert "Unheard" in {layer.kind for layer in read_layers(path)}


@pytest.mark.parametrize("content", [b"", b"no zip"])
def test_a_damaged_file_is_one_line(content, tmp_path):
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"model\.keras: its layers cannot be read"):
        read_layers(path)


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(RunError, match="expected the network that train saved"):
        read_layers(tmp_path / "model.keras")
