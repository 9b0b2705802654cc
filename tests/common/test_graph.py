"""What a network costs, read off its graph: numbers worked out by hand."""

import keras
import pytest
from keras import layers

from common.cost.layer_memory import (
    LayerMemory,
    bytes_kept_for_gradient,
    bytes_of_dtype,
    peak_of_prediction,
    trace_network,
    workspace_of_training,
)


def small_network():
    """Two convolutions, a pooling between them, one enlargement and a skip; any size."""
    image = keras.Input((None, None, 2), name="image")
    x = skip = layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(image)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(4, 3, padding="same", name="second")(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, use_bias=False, name="enlarge")(x)
    x = layers.Add(name="sum")([x, skip])
    return keras.Model(image, layers.Dense(3, name="last")(x))


@pytest.fixture(scope="module")
def trace():
    return trace_network(small_network(), [(2, 8, 6, 2)])


def test_multiply_adds(trace):
    """Positions times kernel: 96 of 3 x 3 x 2 x 4; 24 of 3 x 3 x 4 x 4, and of the 2 x 2 x 4 x 4
    that each entering pixel is spread by; 96 of 4 x 3."""
    counted = {step.layer.name: step.multiply_adds for step in trace.steps}
    expected = {"first": 96 * 72, "pool": 0, "second": 24 * 144, "enlarge": 24 * 64, "sum": 0}
    assert counted == expected | {"last": 96 * 12}
    assert trace.multiply_adds == 96 * 72 + 24 * 144 + 24 * 64 + 96 * 12


def test_tensors_kept_for_the_gradient(trace):
    """Image (the first kernel's), the first's output (its ReLU's, the pooling's), the pooled one,
    what is enlarged, what the last one reads; the enlarged map itself is not."""
    numbers = {"image": 96 * 2, "first": 96 * 4, "pool": 24 * 4, "second": 24 * 4, "sum": 96 * 4}
    assert bytes_kept_for_gradient(trace) == 4 * sum(numbers.values())


def test_blocks_that_forget_keep_what_they_hand_on(trace):
    """The blocks hand on the image, the skip and the lower map; the largest block is computed
    again, which adds the sum alone."""

    def block_of(name):
        return {"first": "down", "pool": "below", "second": "below"}.get(name, "up")

    handed_on = 96 * 2 + 96 * 4 + 24 * 4
    again = max(0, 24 * 4, 96 * 4)
    assert bytes_kept_for_gradient(trace, block_of=block_of) == 4 * (handed_on + again)


def test_hidden_tensors_of_a_layer_count(trace):
    plain = bytes_kept_for_gradient(trace)
    keeps = {"Add": LayerMemory(input=False, output=False, hidden=2.5)}
    assert bytes_kept_for_gradient(trace, memory=keeps) == plain + 4 * 2.5 * 96 * 4


def test_peak_of_prediction(trace):
    """At the enlargement the skip, its 24 x 4 inputs, its result and twice that for a moment."""
    assert peak_of_prediction(trace) == 4 * (96 * 4 + 24 * 4 + 96 * 4 + 2 * 96 * 4)


def test_workspace_of_training(trace):
    """One copy and a half of the last layer's 4 channels in and 3 out; additions make nothing."""
    assert workspace_of_training(trace) == 1.5 * 4 * 96 * (4 + 3)
    memory = {"Add": LayerMemory(way_back=2.0)}
    assert workspace_of_training(trace, memory=memory) == 4 * 96 * (1.5 * 7 + 2 * 4)


def test_half_precision_takes_half_the_bytes():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        network = small_network()
    finally:
        keras.config.set_dtype_policy("float32")
    assert peak_of_prediction(trace_network(network, [(2, 8, 6, 2)])) == 2 * (4 * 96 * 4 + 24 * 4)


def test_the_network_is_left_as_it_was():
    """Layers that were called again would no longer know their one output."""
    network = small_network()
    trace_network(network, [(1, 8, 8, 2)])
    assert network.get_layer("second").output.shape == (None, None, None, 4)


def test_a_missing_input_is_refused():
    with pytest.raises(ValueError, match="0 shapes for 1 inputs"):
        trace_network(small_network(), [])


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 4), ("bfloat16", 2), ("int64", 8), ("uint8", 1), ("bool", 1)]
)
def test_bytes_of_dtype(dtype, size):
    assert bytes_of_dtype(dtype) == size
