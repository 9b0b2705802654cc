"""The operations of a network, read off its graph: numbers worked out by hand."""

import keras
import pytest
from keras import layers

from common.cost.operations import count_multiply_adds, count_operations


def small_network():
    """Two convolutions, a pooling between them, one enlargement and a skip; any size."""
    image = keras.Input((None, None, 2), name="image")
    x = skip = layers.Conv2D(4, 3, padding="same", activation="relu", name="first")(image)
    x = layers.MaxPooling2D(2, name="pool")(x)
    x = layers.Conv2D(4, 3, padding="same", name="second")(x)
    x = layers.Conv2DTranspose(4, 2, strides=2, use_bias=False, name="enlarge")(x)
    x = layers.Add(name="sum")([x, skip])
    return keras.Model(image, layers.Dense(3, name="last")(x))


def test_multiply_adds():
    """Positions times kernel: 96 of 3 x 3 x 2 x 4; 24 of 3 x 3 x 4 x 4, and of the 2 x 2 x 4 x 4
    that each entering pixel is spread by; 96 of 4 x 3."""
    counted = count_multiply_adds(small_network(), [(2, 8, 6, 2)])
    expected = {"first": 96 * 72, "pool": 0, "second": 24 * 144, "enlarge": 24 * 64, "sum": 0}
    assert counted == expected | {"last": 96 * 12}


def test_an_operation_is_half_a_multiply_add():
    """One kernel of 6 x 3 in batches of 5."""
    image = keras.Input((6,))
    network = keras.Model(image, layers.Dense(3)(image))
    assert count_operations(network, [(5, 6)]) == 2 * 5 * 18


def test_a_layer_that_is_used_twice_counts_twice():
    image = keras.Input((6,))
    dense = layers.Dense(6, name="dense")
    network = keras.Model(image, dense(dense(image)))
    assert count_multiply_adds(network, [(5, 6)])["dense"] == 2 * 5 * 36


def test_the_network_is_left_as_it_was():
    """Layers that were called again would no longer know their one output."""
    network = small_network()
    count_multiply_adds(network, [(1, 8, 8, 2)])
    assert network.get_layer("second").output.shape == (None, None, None, 4)


def test_a_missing_input_is_refused():
    with pytest.raises(ValueError, match="0 shapes for 1 inputs"):
        count_multiply_adds(small_network(), [])
