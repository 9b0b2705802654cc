import numpy as np
import pytest

from common.data.normalisation import whiten


@pytest.fixture(scope="module")
def recorded(golden_dir):
    with np.load(golden_dir / "fetal_brain" / "reader.npz") as file:
        return dict(file)


@pytest.mark.parametrize("case", ["int16", "uint8", "f64", "const"])
def test_equals_the_original(recorded, case):
    """The original works in float32: at a mean of 100 053 and a deviation of 862, case f64, one
    float32 rounding of the input is 4.5e-6 of the deviation. Measured: 5.0e-6, elsewhere 2.4e-7."""
    whitened = whiten(recorded[f"white_{case}_in"])
    assert whitened.dtype == np.float32
    tolerance = 1e-5 if case == "f64" else 5e-7
    np.testing.assert_allclose(whitened, recorded[f"white_{case}_out"], rtol=0, atol=tolerance)


def test_hand_computed():
    """Mean 3, deviations -2, -1, 0, 1, 2: population variance 2, not the sample's 2.5."""
    image = np.array([1, 2, 3, 4, 5], dtype=np.uint8).reshape(5, 1, 1)
    expected = np.array([-2, -1, 0, 1, 2]) / np.sqrt(2)
    np.testing.assert_allclose(whiten(image).ravel(), expected, rtol=1e-7)


def test_mean_is_float64():
    """float32 has no number between the two values, hence not their mean."""
    image = np.full((4, 5, 6), 2**24 - 2, dtype=np.float32)
    image[::2] += 1
    np.testing.assert_array_equal(np.unique(whiten(image)), [-1.0, 1.0])


@pytest.mark.parametrize("value", [0, 7, 0.1, -1e9])
def test_constant_image_becomes_zeros(value):
    """0.1 has a mean that differs from it by a rounding error, which must not be scaled up."""
    image = np.full((3, 7, 11), value)
    np.testing.assert_array_equal(whiten(image), np.zeros((3, 7, 11), np.float32))


def test_input_is_left_alone():
    image = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    before = image.copy()
    whiten(image)
    np.testing.assert_array_equal(image, before)


def test_no_voxels():
    with pytest.raises(ValueError, match="no voxels"):
        whiten(np.zeros((0, 4, 4)))
