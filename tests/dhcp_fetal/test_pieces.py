"""Pieces against tiles: the same outcome, whatever is left out or computed at once."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from dhcp_fetal import geometry, original_weights, pieces, tiles
from dhcp_fetal.cfg.fields import from_cfg
from dhcp_fetal.config import CODE, QUICK
from dhcp_fetal.model import build_model
from dhcp_fetal.piece_network import PieceNetwork

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
    return PieceNetwork(model, config)


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
        pytest.param(ENGINE, id="quick"),
        pytest.param(replace(ENGINE, inference_segment=(33, 27, 30)), id="uneven tiles"),
        pytest.param(replace(CODE, inference_segment=(33, 33, 33)), id="fetal"),
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
    ],
)
def test_pieces_equal_tiles(config, image, mask):
    """To rounding: 0 was measured for most, 2e-7 at most."""
    network = make_network(config)
    for region in (None, mask):
        whole = tiles.predict_volume(network, image, config, mask=region)
        found = pieces.predict_in_pieces(network, image, config, mask=region)
        assert np.ptp(whole.probabilities[..., 1]) > 0.05
        np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=2e-6, rtol=0)
        assert np.mean(found.labels != whole.labels) < 1e-4


def test_small_and_flat_images():
    """[D6] [G7] What lies beyond the far end of a small image is not computed."""
    network = make_network(ENGINE)
    for shape in ((5, 40, 12, 1), (30, 30, 1, 1)):
        small = np.random.default_rng(7).normal(size=shape).astype(np.float32)
        whole = tiles.predict_volume(network, small, ENGINE)
        found = pieces.predict_in_pieces(network, small, ENGINE)
        np.testing.assert_allclose(found.probabilities, whole.probabilities, atol=2e-6, rtol=0)


def test_what_is_seen_covers_the_volume_once(image, mask):
    """Every voxel, or every voxel of the mask, is seen of exactly one tile: the last on it."""
    segment = ENGINE.inference_segment
    for region in (None, mask):
        case = tiles.pad_case(image, ENGINE, segment=segment, mask=region)
        shift = tiles.predicted_shift(case, ENGINE, segment)
        counts = np.zeros(SHAPE, int)
        for piece in pieces.plan_pieces(case, ENGINE, limit=SHAPE):
            low = np.add(piece.corner, shift)
            counts[
                tuple(slice(a + f, a + e) for a, (f, e) in zip(low, piece.seen, strict=True))
            ] += 1
        assert counts.max() == 1
        assert counts[... if region is None else region > 0].all()


def test_needed_regions_by_hand():
    """A 3x3x3 mirror in a tile of 25: a voxel more inside, none but the mirror at the border."""
    seen = ((0, 25), (4, 9), (20, 25))
    needs = pieces.needed_regions(ENGINE, (33, 33, 33), seen)
    assert geometry.shrink((33,) * 3, ENGINE.kernels, ENGINE.padding) == (25, 25, 25)
    assert (ENGINE.fc_kernels[0], ENGINE.fc_padding[0]) == ((3, 3, 3), "mirror")
    assert needs.regions[0] == ((0, 25), (3, 10), (19, 25))
    assert needs.mirrored[0] == ((1, 1), (0, 0), (0, 1))
    assert needs.regions[-1] == seen


def test_padded_pathways_are_not_divided():
    """A pathway that is mirrored at the tile's border depends on the tile, too."""
    assert pieces.is_divisible(CODE)
    for mode in ("mirror", "zero"):
        padded = replace(CODE, padding=(mode,) * 8, context_padding=(mode,) * 8)
        assert not pieces.is_divisible(padded)


def test_an_empty_mask_gives_nothing(image):
    network = make_network(ENGINE)
    found = pieces.predict_in_pieces(network, image, ENGINE, mask=np.zeros(SHAPE, np.int16))
    assert not found.probabilities.any()


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize("masked", [True, False])
def test_small_network_on_a_real_volume(shared, masked):
    """What the original found; labels equal, p 1e-5 (3e-6 measured)."""
    import nibabel

    crop, folder = shared / "golden/dhcp_fetal/crop", shared / "golden/dhcp_fetal/small"
    names = ("Flair_subtrMeanDivStd", "T1c_subtrMeanDivStd", "brainmask")
    flair, t1c, mask = (nibabel.load(crop / f"{name}.nii.gz").get_fdata() for name in names)
    config = from_cfg(folder / "small_model.cfg")
    model = build_model(config)
    tensors = original_weights.read_original(folder / "smallFetal.step96.model.ckpt")
    original_weights.assign_original(model, tensors)
    network, image = PieceNetwork(model, config), np.stack([flair, t1c], axis=-1)
    found = pieces.predict_in_pieces(network, image, config, mask=mask if masked else None)
    key = f"step96_{'roi' if masked else 'noroi'}"
    with np.load(folder / "small_infer.npz") as recorded:
        np.testing.assert_array_equal(found.labels, recorded[f"{key}_segm"])
        flat = found.probabilities.reshape(-1, 5)[recorded[f"{key}_sample_flat_idx"]].T
        np.testing.assert_allclose(flat, recorded[f"{key}_probs"], atol=1e-5, rtol=0)
