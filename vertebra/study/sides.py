"""The sides of the benchmark that run on TensorFlow; see `common.cost.turns`."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from scipy.ndimage import gaussian_filter, map_coordinates

from common.cost.turns import Contender
from common.study.contenders import configure, predict, share_weights, train_in_keras
from vertebra.augmentation import deform, displacement_fields
from vertebra.config import CODE, PORT
from vertebra.learning import compile_model
from vertebra.model import build_model
from vertebra.study.bench import config_of, draw_patch, draw_target


def train(sizes, folder: Path) -> Contender:
    """Take the training step of `train` on one patch."""
    runtime = configure(sizes)
    config = config_of(sizes)
    model = build_model(config)
    compile_model(model, config, xla=runtime["xla"])
    share_weights(model, folder)
    return train_in_keras(model, draw_patch(sizes), draw_target(sizes))


def look(sizes, folder: Path) -> Contender:
    """Find the mask of one window, as the search does at every look."""
    configure(sizes)
    model = build_model(config_of(sizes))
    share_weights(model, folder)
    patch = tf.constant(draw_patch(sizes))
    run = tf.function(lambda x: model(x, training=False)["mask"])
    return predict(lambda: run(patch).numpy())


def deform_patch(sizes, folder: Path) -> Contender:
    """Deform an image and its labels as `train` does."""
    rng, arrays = np.random.default_rng(0), draw_arrays(sizes)
    shape, strength = arrays[0].shape, {"alpha": PORT.elastic_alpha, "sigma": PORT.elastic_sigma}
    return predict(lambda: deform(arrays, displacement_fields(rng, shape, **strength)))


def deform_as_the_code(sizes, folder: Path) -> Contender:
    """Deform them as the released code does, by another draw."""
    random, arrays = np.random.RandomState(0), draw_arrays(sizes)
    alpha = CODE.elastic_alpha
    return predict(lambda: np.stack(deform_originally(arrays, random=random, alpha=alpha)))


def deform_originally(arrays, *, random: np.random.RandomState, alpha: float):
    """Deform arrays of one shape with scipy as the released code does.

    Integers stay integer, halves are rounded from zero. Source: data/data_augmentation.py.
    """
    shape = arrays[0].shape
    first, second, third = (
        gaussian_filter(random.rand(*shape) * 2 - 1, CODE.elastic_sigma, mode="constant") * alpha
        for _ in range(3)
    )
    # The field drawn first moves along the second axis.
    grid = np.indices(shape, sparse=True)
    places = [index + field for index, field in zip(grid, (second, first, third), strict=True)]
    return [map_coordinates(array, places, order=1, mode="reflect") for array in arrays]


def draw_arrays(sizes) -> list[np.ndarray]:
    """Return four arrays (z, y, x): three int16 and one float32, as a patch's are."""
    rng, shape = np.random.default_rng(0), (sizes["patch_size"],) * 3
    arrays = [rng.integers(0, 4000, shape).astype(np.int16) for _ in range(3)]
    return [*arrays, rng.random(shape, dtype=np.float32)]
