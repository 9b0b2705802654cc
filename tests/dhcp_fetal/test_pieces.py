"""Pieces against tiles: the same outcome, whatever is left out or computed at once."""

from dataclasses import replace
from functools import lru_cache

import keras
import numpy as np
import pytest
import tensorflow as tf

from dhcp_fetal import geometry
from dhcp_fetal.config import CODE, QUICK
from dhcp_fetal.inference import engine_tiles, on_volumes
from dhcp_fetal.model import build_model
from dhcp_fetal.study.tile_loop import make_apply, predict_volume
from dhcp_fetal.tiles_in_graph import Tiles, find_needs, is_divisible, pad

SHAPE = (46, 37, 30)
ENGINE = replace(QUICK, tiling="engine")
FULLY_CONNECTED = replace(
    ENGINE,
    fc_filters=(12, 12, 12),
    fc_kernels=((3, 3, 3), (1, 3, 1), (5, 1, 3), (1, 1, 1)),
    fc_padding=("mirror",) * 4,
    fc_dropout=(),
    fc_residual_layers=(2, 3),
)


def make_network(config):
    """Return a network whose weights make something of the image."""
    keras.utils.set_random_seed(5)
    model = build_model(config)
    random = np.random.default_rng(5)
    for variable in model.trainable_variables:
        if "norm" not in variable.path:
            variable.assign(variable + random.normal(0, 0.03, variable.shape))
    return model


@lru_cache(maxsize=1)
def compiled(config):
    """Return the engine's loop over tiles and ours, of the same network."""
    network = make_network(config)
    return make_apply(network), on_volumes(network, config)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(6).normal(size=(*SHAPE, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def mask():
    """Two parts, in tiles that overlap at the far ends."""
    mask = np.zeros(SHAPE, np.int16)
    mask[2:7, 20:30, 5:20] = 1
    mask[40:44, 3, 3] = 1
    return mask


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        pytest.param(replace(ENGINE, inference_segment=(33, 27, 30)), id="uneven tiles"),
        pytest.param(
            replace(CODE, inference_segment=(33, 33, 33)), id="fetal", marks=pytest.mark.full_size
        ),
        pytest.param(FULLY_CONNECTED, id="mirrored layers"),
        pytest.param(
            replace(
                FULLY_CONNECTED,
                fc_padding=("valid", "mirror", "zero", "valid"),
                fc_residual_layers=(2,),
                compat="v0.8.4",
            ),
            id="all paddings",
        ),
        pytest.param(
            replace(ENGINE, context_factors=(), context_filters=(), pad_inputs=False),
            id="no context",
        ),
        pytest.param(ENGINE, id="quick"),
    ],
)
def test_pieces_equal_tiles(config, image, mask):
    """To rounding: 0 was measured for most, 2e-7 at most."""
    apply, segment = compiled(config)
    for region in (None, mask):
        whole = predict_volume(apply, image, config, mask=region)
        found = segment(image, region)
        assert np.ptp(whole.probabilities[..., 1]) > 0.05
        np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=2e-6, rtol=0)
        assert np.mean(found.labels != whole.labels) < 1e-4


@pytest.mark.slow
def test_small_and_flat_images():
    """[D6] [G7] What lies beyond the far end of a small image is not computed."""
    apply, segment = compiled(ENGINE)
    for shape in ((5, 40, 12, 1), (30, 30, 1, 1)):
        small = np.random.default_rng(7).normal(size=shape).astype(np.float32)
        whole, found = predict_volume(apply, small, ENGINE), segment(small)
        np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=2e-6, rtol=0)


@pytest.mark.parametrize("shape", [SHAPE, (5, 40, 12), (30, 30, 1)])
def test_the_engines_tiles_cover_the_volume_once(shape):
    """Every voxel is given by exactly one tile: the last on it. Inputs lie in the padded image."""
    image = tf.zeros((*shape, 1))
    padded = pad(image, ENGINE)
    for axis, tiles in enumerate(engine_tiles(padded, image, ENGINE)):
        spans = zip(tiles.low.numpy(), tiles.high.numpy(), strict=True)
        given = np.concatenate([np.arange(low, high) for low, high in spans])
        np.testing.assert_array_equal(given, np.arange(shape[axis]))
        assert (tiles.start.numpy() >= 0).all()
        assert (tiles.start + tiles.length).numpy().max() <= padded.image.shape[axis]


@pytest.mark.parametrize(
    ("seen", "region", "mirrored"),
    [((0, 25), (0, 25), [1, 1]), ((4, 9), (3, 10), [0, 0]), ((20, 25), (19, 25), [0, 1])],
)
def test_needed_regions_by_hand(seen, region, mirrored):
    """A 3x3x3 mirror in a tile of 25: a voxel more inside, none but the mirror at the border."""
    assert geometry.shrink((33,) * 3, ENGINE.kernels, ENGINE.padding) == (25, 25, 25)
    assert (ENGINE.fc_kernels[0], ENGINE.fc_padding[0]) == ((3, 3, 3), "mirror")
    parts = (100, 100 + seen[1] - seen[0], 92, 33, seen[0])  # low, high, start, length, skip
    needs = find_needs(Tiles(*(tf.constant([[part] * 3]) for part in parts)), ENGINE)
    assert needs.first.numpy().tolist() == [[region[0]] * 3]
    assert needs.last.numpy().tolist() == [[region[1]] * 3]
    assert needs.mirrored[0, 0].numpy().tolist() == [mirrored] * 3


def test_padded_pathways_are_not_divided():
    """A pathway that is mirrored at the tile's border depends on the tile, too."""
    assert is_divisible(CODE)
    for mode in ("mirror", "zero"):
        padded = replace(CODE, padding=(mode,) * 8, context_padding=(mode,) * 8)
        assert not is_divisible(padded)


@pytest.mark.slow
def test_an_empty_mask_gives_nothing(image):
    _, segment = compiled(ENGINE)
    found = segment(image, np.zeros(SHAPE, np.int16))
    assert not found.probabilities.any()
