"""Gradients of large kernels, plane by plane, beside TensorFlow's own; where they are used."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.network.kernel_gradient import conv3d, speed_up_kernel_gradients
from common.runtime import has_avx512, onednn_in_force

ON_CPU = not tf.config.list_physical_devices("GPU")


def gradients_of(convolve, x, kernel, *, compiled):
    """Return the result of a convolution and the gradients of its squared sum, as arrays."""

    def run(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = convolve(x, kernel)
            loss = tf.reduce_sum(tf.square(y))
        return (y, *tape.gradient(loss, [x, kernel]))

    found = (tf.function(run) if compiled else run)(tf.constant(x), tf.constant(kernel))
    return [tensor.numpy() for tensor in found]


@pytest.mark.parametrize("slices", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("edges", [(5, 5, 5), (7, 5, 3)])
def test_equals_tensorflows_gradient(slices, edges):
    """Also for volumes of fewer slices than a kernel reaches; 5e-7 of the largest was measured."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, slices, 7, 6, 3)).astype(np.float32)
    kernel = rng.normal(size=(*edges, 3, 4)).astype(np.float32)
    plain = gradients_of(
        lambda x, k: tf.nn.conv3d(x, k, [1] * 5, "SAME"), x, kernel, compiled=False
    )
    for compiled in (False, True):
        for expected, found in zip(plain, gradients_of(conv3d, x, kernel, compiled=compiled),
                                   strict=True):  # fmt: skip
            np.testing.assert_allclose(found, expected, atol=5e-6 * np.abs(expected).max())


def test_by_hand():
    """One voxel 2, seen by the kernel's first and last plane: the gradient is what lies there."""
    x, upstream = np.zeros((1, 5, 5, 5, 1), np.float32), np.zeros((1, 5, 5, 5, 1), np.float32)
    x[0, 2, 2, 2, 0] = 2.0
    upstream[0, 4, 3, 2, 0], upstream[0, 0, 2, 2, 0] = 3.0, 5.0
    kernel = tf.zeros((5, 5, 5, 1, 1))
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        loss = tf.reduce_sum(conv3d(tf.constant(x), kernel) * upstream)
    gradient = tape.gradient(loss, kernel).numpy()[..., 0, 0]
    expected = np.zeros((5, 5, 5))
    expected[0, 1, 2], expected[4, 2, 2] = 6.0, 10.0
    np.testing.assert_array_equal(gradient, expected)


@pytest.fixture
def network():
    """One convolution of each kind; the first two are large enough, "same" and without strides."""
    keras.utils.set_random_seed(0)
    image = keras.Input((None, None, None, 2))
    x = keras.layers.Conv3D(2, 5, padding="same", name="large")(image)
    x = keras.layers.Conv3D(2, 7, padding="same", activation="relu", name="larger")(x)
    x = keras.layers.Conv3D(2, 3, padding="same", name="small")(x)
    x = keras.layers.Conv3D(2, 5, padding="same", strides=2, name="strided")(x)
    return keras.Model(image, keras.layers.Conv3D(1, 5, name="valid")(x))


@pytest.mark.skipif(not ON_CPU, reason="with a GPU nothing is changed")
class TestWhere:
    def test_below_avx512(self, network, monkeypatch):
        if not onednn_in_force():
            pytest.skip("TensorFlow's own kernels are not replaced")
        if has_avx512():
            assert speed_up_kernel_gradients(network) == 0
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        assert speed_up_kernel_gradients(network) == 2
        changed = [layer.name for layer in network.layers
                   if "convolution_op" in vars(layer)]  # fmt: skip
        assert changed == ["large", "larger"]

    def test_kernels_of_more_planes_than_their_input(self):
        """There oneDNN multiplies matrices with AVX-512, too."""
        if not onednn_in_force():
            pytest.skip("TensorFlow's own kernels are not replaced")
        image = keras.Input((3, None, None, 2))
        network = keras.Model(image, keras.layers.Conv3D(2, 5, padding="same")(image))
        assert speed_up_kernel_gradients(network) == 1

    def test_a_step_and_what_is_stored_stay_the_same(self, network, monkeypatch, tmp_path):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
        twin = keras.models.clone_model(network)
        twin.set_weights(network.get_weights())
        speed_up_kernel_gradients(twin)
        image = np.random.default_rng(0).normal(size=(1, 12, 12, 12, 2)).astype(np.float32)
        for model in (network, twin):
            model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
            model.train_on_batch(image, np.ones((1, 2, 2, 2, 1), np.float32))
        for one, other in zip(network.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
        twin.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(loaded(image), twin(image), atol=1e-6)
