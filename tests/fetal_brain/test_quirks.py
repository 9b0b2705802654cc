"""Effects of the original's quirks that no recorded number shows by itself."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from common.errors import OptionError
from fetal_brain.config import CODE, PORT
from fetal_brain.inference import build_for_any_plane
from fetal_brain.model import build_model

SMALL = replace(CODE, filters=(4, 4, 8), kernels=(3, 3, 1), patch_shape=(3, 16, 16))


def test_only_the_sign_of_the_image_projection_matters():
    """[F7] Normalising one channel times w divides |w| out again, but for the variance's 1e-3."""
    keras.utils.set_random_seed(0)
    model = build_model(SMALL)
    projection = model.get_layer("upscore_0_conv3d")
    image = np.random.default_rng(0).normal(size=(2, 3, 16, 16, 1)).astype(np.float32)

    def logits(first, second):
        projection.kernel.assign(np.reshape([first, second], projection.kernel.shape))
        return np.array(model(image, training=True))

    assert projection.kernel.shape == (1, 1, 1, 1, 2)
    expected = logits(1.0, -2.0)
    spread = expected.std()
    assert np.abs(logits(3.0, -0.9) - expected).max() < 0.01 * spread
    assert np.abs(logits(-1.0, -2.0) - expected).max() > 0.5 * spread


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"batch_size": 0}, "--batch_size: found 0"),
        ({"max_steps": 0}, "--max_steps: found 0"),
        ({"steps_per_evaluation": 0}, "--steps_per_evaluation: found 0"),
    ],
)
def test_numbers_that_make_no_run_are_refused(changes, expected):
    with pytest.raises(OptionError, match=expected):
        replace(PORT, **changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"patch_shape": (3, 100, 128)}, "--patch_shape: found"),
        ({"window": (3, 128, 100), "window_stride": (1, 64, 64)}, "--window: found"),
        ({"window": (5, 384, 384)}, "--window: found 5 slices"),
        ({"window_stride": (1, 400, 320)}, "--window_stride: found"),
    ],
)
def test_sizes_that_the_network_cannot_take_are_refused(changes, expected):
    with pytest.raises(OptionError, match=expected):
        build_for_any_plane(replace(PORT, **changes))
