"""What an exported model serves."""

from dataclasses import replace
from functools import lru_cache

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.errors import OptionError
from dhcp_fetal.config import QUICK
from dhcp_fetal.data import normalise
from dhcp_fetal.inference import LONGEST_TILE, lattice_tiles, on_volumes, spoilt_voxels
from dhcp_fetal.model import build_model
from dhcp_fetal.serving import check_servable, cut_segments, make_endpoints
from dhcp_fetal.study.tile_loop import make_apply, predict_volume
from dhcp_fetal.tiles_in_graph import pad

SMALL = replace(
    QUICK,
    input_channels=2,
    context_factors=((3, 3, 3), (4, 2, 4)),
    context_filters=((8, 8, 12, 12),) * 2,
    inference_segment=(21, 19, 20),
    inference_batch_size=1,
    tiling="engine",
    normalisation="volume",
)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(3)
    model = build_model(SMALL)
    random = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(variable + random.normal(0, 0.05, variable.shape))
    return model


@lru_cache(maxsize=1)
def signature(network, config, name):
    """Return a signature of an exported model, compiled once for the tests that follow."""
    endpoints = {endpoint.name: endpoint for endpoint in make_endpoints(network, config)}
    return tf.function(
        endpoints[name].function, input_signature=endpoints[name].signature, autograph=False
    )


def served(network, config, image, mask):
    """Return what the signature of an exported model gives."""
    graph = signature(network, config, "volume" if mask is None else "masked")
    arrays = [image] if mask is None else [image, mask]
    return {name: tensor.numpy() for name, tensor in graph(*map(tf.constant, arrays)).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tiling", "shape", "changes", "masked"),
    [
        ("engine", (34, 30, 27), {}, False),
        ("engine", (34, 60, 27), {"normalisation": "brain"}, True),
        ("engine", (5, 30, 1), {"align_context_at_border": True, "centred_context": True}, False),
        ("engine", (40, 30, 22), {"pad_inputs": False, "normalisation": "none"}, False),
        ("lattice", (34, 60, 27), {"normalisation": "brain"}, True),
        ("lattice", (40, 30, 22), {"pad_inputs": False, "normalisation": "none"}, False),
    ],
)
def test_what_is_served_is_what_the_tiles_give(network, tiling, shape, changes, masked):
    """[G4] [G7] [G26] Odd and even factors, small images. 1e-5; 4e-7 was measured.

    In the engine's tiles against its loop; on the lattice against `predict`, whose own tiles are
    those of tests/dhcp_fetal/test_inference.py.
    """
    config = replace(SMALL, tiling=tiling, **changes)
    image = np.random.default_rng(0).normal(0, 1, (*shape, 2)).astype(np.float32)
    mask = np.zeros(shape, np.int16)
    mask[4:20, 6:22, 3:20] = 1
    mask[30:33, 55:58, 25:26] = 1
    mask = mask if masked else None
    prepared = normalise(image, config.normalisation, mask > 0 if masked else None)
    if tiling == "engine":
        expected = predict_volume(make_apply(network), prepared, config, mask=mask)
    else:
        expected = on_volumes(network, config)(prepared, mask)
    found = served(network, config, image, mask)
    np.testing.assert_allclose(found["probabilities"], expected.probabilities, atol=1e-5)
    assert np.mean(found["labels"] != expected.labels) < 1e-3
    assert found["labels"].dtype == np.uint8
    assert np.ptp(expected.probabilities[..., 1]) > 0.05


@pytest.mark.slow
@pytest.mark.full_size
def test_boxes_equal_whole_tiles_on_the_lattice(network, monkeypatch):
    """Of two displaced lattices: networks whose layers can be computed for a box alone, and those
    of which whole tiles are taken and what their mirror spoils is dropped. Factors 3, 4 and 2:
    5e-7 was measured."""
    config = replace(SMALL, tiling="lattice", lattice_shifts=2)
    image = np.random.default_rng(0).normal(0, 1, (34, 60, 27, 2)).astype(np.float32)
    found = on_volumes(network, config)(image)
    monkeypatch.setattr("dhcp_fetal.inference.is_divisible", lambda config: False)
    whole = on_volumes(network, config)(image)
    np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=1e-5)


@pytest.mark.slow
def test_an_empty_region_gives_nothing(network):
    config = replace(SMALL, tiling="lattice")
    image = np.random.default_rng(0).normal(0, 1, (20, 20, 20, 2)).astype(np.float32)
    mask = np.zeros((20, 20, 20), np.int16)
    found = served(network, config, image, mask)
    assert not np.any(found["probabilities"])
    assert found["labels"].dtype == np.uint8
    assert not np.any(found["labels"])


@pytest.mark.slow
@pytest.mark.parametrize("multiply", [True, False])
def test_a_mask_of_other_numbers(network, multiply):
    """[G8] The engine multiplies by them; the port asks whether they are above 0."""
    config = replace(SMALL, multiply_by_mask=multiply)
    image = np.random.default_rng(0).normal(0, 1, (20, 20, 20, 2)).astype(np.float32)
    ones = np.ones((20, 20, 20), np.int16)
    once, twice = (served(network, config, image, mask) for mask in (ones, 2 * ones))
    for name in ("labels", "probabilities"):
        np.testing.assert_array_equal(twice[name], once[name] * (2 if multiply else 1))


@pytest.mark.parametrize(("size", "shift"), [(100, 0), (100, 6), (43, 0), (2, 5)])
def test_tiles_cover_every_voxel_once_and_begin_on_the_lattice(size, shift):
    """The lattice of factors 3, 4 and 2 has a step of 12 along x."""
    padded = pad(tf.zeros((100, 100, 100, 2)), SMALL)
    tiles = lattice_tiles(tf.constant(size), 0, shift, padded, SMALL, LONGEST_TILE)
    covered = [np.arange(a, b) for a, b in zip(tiles.low.numpy(), tiles.high.numpy(), strict=True)]
    np.testing.assert_array_equal(np.concatenate(covered), np.arange(size))
    assert max(map(len, covered)) <= LONGEST_TILE
    first = tiles.low.numpy() - tiles.skip.numpy() + spoilt_voxels(SMALL, 0)
    assert not np.any((first + shift) % 12)


def test_what_the_graph_does_not_do_is_refused():
    with pytest.raises(OptionError, match="zscore_channels"):
        check_servable(replace(SMALL, zscore_channels="all"))
    with pytest.raises(OptionError, match="lattice_shifts: found 7, expected 1 to 6"):
        check_servable(replace(SMALL, tiling="lattice", lattice_shifts=7))
    check_servable(SMALL)


def test_segments_are_in_the_networks_shapes(network):
    scan = np.random.default_rng(0).normal(0, 1, (30, 30, 30, 2)).astype(np.float32)
    parts = cut_segments(scan, SMALL)
    assert [part.shape[0] for part in parts] == [1, 1, 1]
    assert parts[0].shape == (1, *SMALL.validation_segment, 2)
    assert network.predict_on_batch(parts).shape == (1, 9, 9, 9, 2)
