"""The network for other runtimes: run there and compared, or a reason why not."""

from importlib.util import find_spec

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.errors import OptionError
from common.export.formats import FORMATS, check_formats, inputs_of_network, write_formats


@pytest.fixture(scope="module")
def network():
    """Two inputs of open size, a convolution of each, their sum."""
    keras.utils.set_random_seed(0)
    inputs = [keras.Input((None, None, 1), name=name) for name in ("image", "memory")]
    first, second = (keras.layers.Conv2D(4, 3, padding="same", name=f"c{n}")(each)
                     for n, each in enumerate(inputs))  # fmt: skip
    return keras.Model(inputs, keras.layers.Add()([first, second]))


def arrays(*shape):
    rng = np.random.default_rng(1)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_a_format_gives_what_keras_gives(name, network, tmp_path, capfd):
    missing = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; the extra `{name}` has it")
    found = write_formats(tmp_path, network, arrays(1, 9, 12, 1), [name])[name]
    assert found["file"] == FORMATS[name].file
    assert found["largest_difference"] < 1e-5
    assert found["runtime"].split()[0] == FORMATS[name].packages[-1]
    kinds = {FORMATS[name].file, "network.bin"} if name == "openvino" else {FORMATS[name].file}
    assert {path.name for path in tmp_path.iterdir()} == kinds
    assert capfd.readouterr().err == ""


class Opaque(keras.layers.Layer):
    """A layer in Python, which no other runtime can have."""

    def call(self, image):
        return tf.reshape(tf.numpy_function(np.sin, [image], tf.float32), tf.shape(image))


@pytest.mark.slow
def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path, capsys):
    image = keras.Input((4, 4, 1))
    network = keras.Model(image, Opaque()(image))
    found = write_formats(tmp_path, network, arrays(1, 4, 4, 1)[:1], ["litert"])
    assert "problem" in found["litert"]
    assert "note: not written as litert: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_recorded_case_is_fitted_to_the_network(network):
    """With an axis for the batch and for the channel, or the first of a batch; else made up."""
    one, two = arrays(9, 12)
    examples = {"other": {"x": one}, "window": {"image": one, "memory": two}}
    fitted = inputs_of_network(network, examples)
    assert [each.shape for each in fitted] == [(1, 9, 12, 1)] * 2
    np.testing.assert_array_equal(fitted[1][0, ..., 0], two)
    batch = {"patches": dict(zip(("x", "m"), arrays(3, 9, 12, 1), strict=True))}
    assert [each.shape for each in inputs_of_network(network, batch)] == [(1, 9, 12, 1)] * 2
    made_up = inputs_of_network(network, {"volume": {"image": one}})
    assert [each.shape for each in made_up] == [(1, 32, 32, 1)] * 2


def test_mistakes():
    with pytest.raises(OptionError, match="--formats tflite: expected some of onnx, openvino, lit"):
        check_formats(["tflite"])
    absent = [name for name in FORMATS if any(not find_spec(p) for p in FORMATS[name].packages)]
    for name in absent:
        with pytest.raises(OptionError, match=rf"pip install 'segmentation-reproductions\[{name}"):
            check_formats([name])
