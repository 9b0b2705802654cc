"""Padding, tiles, contexts and whole volumes, by hand and as the engine recorded them."""

import json
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from dhcp_fetal import original_weights, tiles
from dhcp_fetal.cfg.fields import from_cfg
from dhcp_fetal.config import CODE, PORT, QUICK
from dhcp_fetal.inference import on_volumes
from dhcp_fetal.model import build_model
from dhcp_fetal.normalisation import zscore
from dhcp_fetal.study import tile_loop


def ramp(length):
    """Image whose value is the voxel's x, with one thin channel."""
    return np.arange(length, dtype=np.float32).reshape(length, 1, 1, 1)


def cut_along_x(image, start, **options):
    """Context of a segment of 17 voxels at full depth along x alone, factor 5, field 17."""
    context = tiles.cut_context(
        image,
        (start, 0, 0),
        (17, 1, 1),
        field=(17, 1, 1),
        factor=(5, 1, 1),
        border=np.array([-1.0]),
        **options,
    )
    return context[:, 0, 0, 0]


# Tiles


def make_mask(case):
    """Box of ones around a drawn centre, as recorded."""
    random = np.random.RandomState(case["roi_seed"])
    mask = np.zeros(case["dims"], dtype=np.int16)
    box = []
    for size in case["dims"]:
        centre, half = random.randint(size // 3, 2 * size // 3), max(4, size // 6)
        box.append(slice(centre - half, centre + half))
    mask[tuple(box)] = 1
    assert mask.sum() == case["roi_sum"]
    return mask


def test_tiles_are_those_of_the_engine(golden):
    """[G5] Order, the last tile's shift, tiles without a mask, filling: seven grids."""
    recorded = golden("tiling")
    cases = json.loads(str(recorded["cases_json"]))
    assert len(cases) == 7
    for case in cases:
        mask = make_mask(case) if case["roi"] else None
        corners = tile_loop.tile_corners(case["dims"], case["segment"], case["stride"], mask=mask)
        filled = tile_loop.fill_batches(corners, case["batch"])
        assert len(filled) == case["n"]
        np.testing.assert_array_equal(filled, recorded[case["key"]][:, :, 0])


@pytest.mark.parametrize(
    ("size", "window", "stride", "expected"),
    [
        (336, 128, 64, (0, 64, 128, 192, 208)),
        (128, 128, 64, (0,)),
        (5, 3, 1, (0, 1, 2)),
        (7, 3, 5, (0, 4)),
        (1, 1, 9, (0,)),
    ],
)
def test_starts(size, window, stride, expected):
    assert tile_loop.window_starts(size, window, stride) == expected


def test_x_varies_fastest():
    corners = tile_loop.tile_corners((6, 5, 4), (4, 4, 4), (2, 2, 2))
    assert corners.tolist() == [[0, 0, 0], [2, 0, 0], [0, 1, 0], [2, 1, 0]]


# Contexts


def test_contexts_are_those_of_the_engine(golden):
    """[G4] [G6] and, as v0.7.0 trains, [D5] [G27]."""
    recorded = golden("context_segments")
    random = np.random.RandomState(int(recorded["volume_seed"]))
    shift = np.array([0.5, -0.25]).reshape(2, 1, 1, 1)
    volume = (random.standard_normal((2, 60, 57, 63)) + shift).astype(np.float32)
    image = np.moveaxis(volume, 0, -1)
    border = tiles.border_means(image)
    np.testing.assert_allclose(border, recorded["border_int"], atol=1e-6)
    for case in json.loads(str(recorded["cases_json"])):
        for truncated in (False, True):
            suffix = "_v070train" if truncated and case["v070train_differs"] else ""
            context = tiles.cut_context(
                image,
                case["start"],
                case["segment"],
                field=case["rf"],
                factor=case["factor"],
                border=border,
                truncated=truncated,
            )
            expected = np.moveaxis(recorded[case["key"] + suffix], 0, -1)
            np.testing.assert_allclose(context, expected, atol=1e-6, err_msg=case["key"])


@pytest.mark.shared
def test_all_recorded_contexts_are_those_of_the_engine(shared):
    path = shared / "golden/dhcp_fetal/context_segments.npz"
    with np.load(path) as recorded:
        test_contexts_are_those_of_the_engine(lambda name: dict(recorded))


def test_context_begins_at_the_first_voxel_of_its_block():
    """[G3] The output voxel of a segment at 100 lies at 108, in a block of 5 from 108 to 112."""
    image = ramp(300)
    assert cut_along_x(image, 100)[8] == 108
    assert cut_along_x(image, 100, centred=True)[8] == 110
    assert np.diff(cut_along_x(image, 100)).tolist() == [5] * 16


def test_grid_of_the_context_at_a_low_border():
    """[G4] The grid of a segment at 1 is ..., -6, -1, 4, 9, ...; the engine begins at 0 instead."""
    image = ramp(300)
    engine, aligned = cut_along_x(image, 1), cut_along_x(image, 1, aligned=True)
    assert engine[:8].tolist() == [-1] * 6 + [0, 5]
    assert aligned[:8].tolist() == [-1] * 7 + [4]
    assert aligned[8] == 9
    assert engine[8] == 10
    np.testing.assert_array_equal(cut_along_x(image, 100, aligned=True), cut_along_x(image, 100))


def test_context_beyond_the_high_border_is_the_border():
    context = cut_along_x(ramp(120), 100)
    assert context[10:].tolist() == [118] + [-1] * 6


def test_sampled_segments_of_v070_lose_the_far_context():
    """[D5] [G27] 17 of 19 and 17 of 18 voxels are filled; at inference all of them."""
    image = np.ones((90, 90, 90, 1), np.float32)
    case = tiles.PaddedCase(image, None, np.array([7.0], np.float32), ((0, 0),) * 3)
    corner, segment = (33, 33, 33), (25, 25, 25)
    _, third, fifth = tiles.cut_segment(case, corner, segment, CODE, sampled=True)
    assert [int((part[:, 8, 8, 0] == 1).sum()) for part in (third, fifth)] == [17, 17]
    for config, sampled in ((CODE, False), (PORT, True)):
        _, third, fifth = tiles.cut_segment(case, corner, segment, config, sampled=sampled)
        assert [part.shape[0] for part in (third, fifth)] == [19, 18]
        assert third.min() == third.max() == 1.0
        # The fifth part's field reaches out of this small image.
        assert int((fifth[:, 8, 8, 0] == 1).sum()) > 11


# Preparation


def test_reflection_and_border_are_those_of_the_engine(golden):
    recorded = golden("normalise")
    image = np.moveaxis(recorded["img"], 0, -1)
    np.testing.assert_allclose(tiles.border_means(image), recorded["border_int"], rtol=1e-12)
    for pads, name in ((((8, 8),) * 3, "pad_out"), (((2, 3), (0, 1), (8, 9)), "pad_out_asym")):
        padded = tiles.reflect(recorded["pad_in"], pads)
        assert padded.shape == tuple(recorded[f"{name}_shape"])
        np.testing.assert_array_equal(padded.reshape(-1)[::7], recorded[f"{name}_every7"])


def test_normalisation_is_that_of_the_engine(golden):
    """1e-9 relative."""
    recorded = golden("normalise")
    image = np.moveaxis(recorded["img"], 0, -1)
    for case in json.loads(str(recorded["zscore_json"])):
        chosen = case["apply_per_channel"]
        config = replace(
            PORT,
            zscore_channels="all" if case["apply_to_all_channels"] else tuple(chosen),
            zscore_percentiles=case["cutoff_percents"],
            zscore_deviations=case["cutoff_times_std"],
            zscore_above_mean=case["cutoff_below_mean"],
        )
        mask = recorded["roi"] if case["roi"] else None
        result = np.moveaxis(zscore(image, config, mask=mask), -1, 0)
        expected = recorded[f"z{case['n']}_every7"]
        np.testing.assert_allclose(result.reshape(-1)[::7], expected, rtol=1e-9)


def test_normalisation_comes_after_padding():
    """[G29] Of 0, 1, 2, 9 the reflected voxels 2, 1 and 2, 1 count again."""
    image = np.array([0.0, 1, 2, 9]).reshape(4, 1, 1, 1)
    config = replace(PORT, zscore_channels="all")
    case = tiles.pad_case(image, config, segment=(17, 17, 17))
    padded = np.pad(image, ((8, 8), (8, 8), (8, 8), (0, 0)), mode="reflect")
    expected = (padded - padded.mean()) / padded.std()
    np.testing.assert_allclose(case.image, expected, rtol=1e-6)
    assert abs(padded.mean() - image.mean()) > 0.1


def test_padding_reaches_the_segment():
    """[D6] [G7] 45 voxels are needed, 20 + 16 are there: 9 more at the far end."""
    assert tiles.plan_padding((20, 60, 45), PORT, (45, 45, 45)) == ((8, 17), (8, 8), (8, 8))
    bare = replace(PORT, pad_inputs=False)
    assert tiles.plan_padding((20, 60, 45), bare, (45, 45, 45)) == ((0, 25), (0, 0), (0, 0))


# Whole volumes
ENGINE = replace(QUICK, tiling="engine")
segmenter = lru_cache(maxsize=1)(on_volumes)
"""Compiled once for the tests that follow each other: most of their time goes into that."""


@pytest.fixture(scope="module")
def network():
    """A small network with weights that make something of the image."""
    model = build_model(QUICK)
    random = np.random.default_rng(5)
    for variable in model.trainable_variables:
        if "norm" not in variable.path:
            variable.assign(variable + random.normal(0, 0.1, variable.shape))
    return model


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(6).normal(size=(40, 37, 30, 1)).astype(np.float32)


@pytest.mark.slow
def test_the_batch_does_not_matter(network, image):
    apply = tile_loop.make_apply(network)
    results = [
        tile_loop.predict_volume(apply, image, replace(ENGINE, inference_batch_size=size))
        for size in (1, 3)
    ]
    assert np.ptp(results[0].probabilities[..., 1]) > 0.05
    np.testing.assert_allclose(
        results[0].probabilities, results[1].probabilities, atol=2e-6, rtol=0
    )
    np.testing.assert_allclose(results[0].probabilities.sum(-1), 1.0, atol=1e-6)


def test_batches_keep_their_shape(image):
    """Whatever is compiled for the first batch serves the last one."""
    shapes, steps = [], []

    def apply(batch):
        shapes.append([part.shape for part in batch])
        return np.full((len(batch[0]), 25, 25, 25, 2), 0.5, np.float32)

    tile_loop.predict_volume(apply, image, QUICK, progress=lambda *step: steps.append(step))
    assert shapes == [[(5, 33, 33, 33, 1), (5, 17, 17, 17, 1)]] * 2
    assert steps == [(5, 8), (8, 8)]


@pytest.mark.slow
def test_masks(network, image):
    """[G8] The engine multiplies by the mask's value; [G9] outside all classes are 0."""
    mask = np.zeros(image.shape[:3])
    mask[10:20, 5:30, 8:20] = 1.9999
    engine = on_volumes(network, replace(ENGINE, multiply_by_mask=True))(image, mask)
    ours = segmenter(network, ENGINE)(image, mask)
    inside = mask > 0
    np.testing.assert_allclose(ours.probabilities[inside].sum(-1), 1.0, atol=1e-6)
    np.testing.assert_array_equal(engine.probabilities, 2 * ours.probabilities)
    np.testing.assert_array_equal(engine.labels, 2 * ours.labels)
    assert not ours.probabilities[~inside].any()
    assert not ours.labels[~inside].any()
    assert ours.labels.dtype == np.int16
    whole = segmenter(network, ENGINE)(image)
    np.testing.assert_array_equal(ours.labels[inside], whole.labels[inside])


def test_an_empty_mask_gives_nothing(image):
    def apply(batch):
        raise AssertionError("no tile should be predicted")

    result = tile_loop.predict_volume(apply, image, QUICK, mask=np.zeros(image.shape[:3]))
    assert not result.probabilities.any()
    assert result.labels.shape == image.shape[:3]


@pytest.mark.slow
def test_small_images(network):
    """[D6] [G7] v0.8.4 fails below 25 + 8 voxels; a flat image is no exception."""
    segment = segmenter(network, ENGINE)
    for shape in ((5, 40, 12, 1), (30, 30, 1, 1)):
        small = np.random.default_rng(7).normal(size=shape)
        result = segment(small)
        np.testing.assert_allclose(result.probabilities.sum(-1), 1.0, atol=1e-6)


@pytest.mark.slow
def test_without_padding_the_margin_stays_empty(network, image):
    """[G26]"""
    config = replace(ENGINE, pad_inputs=False)
    result = on_volumes(network, config)(np.pad(image, ((0, 0), (0, 0), (2, 2), (0, 0))))
    covered = np.zeros((40, 37, 34), dtype=bool)
    covered[4:-4, 4:-4, 4:-4] = True
    np.testing.assert_allclose(result.probabilities[covered].sum(-1), 1.0, atol=1e-6)
    assert not result.probabilities[~covered].any()


@pytest.fixture(scope="module")
def crop(shared):
    """Two channels and the brain mask of a part of a real patient (CC BY-NC-SA, read in place)."""
    import nibabel

    folder = shared / "golden/dhcp_fetal/crop"
    names = ("Flair_subtrMeanDivStd", "T1c_subtrMeanDivStd", "brainmask")
    flair, t1c, mask = (nibabel.load(folder / f"{name}.nii.gz").get_fdata() for name in names)
    return np.stack([flair, t1c], axis=-1), mask


def assert_recorded(result, recorded, key, classes=5):
    """Labels equal; p 1e-5 (3e-6 measured)."""
    np.testing.assert_array_equal(result.labels, recorded[f"{key}_segm"])
    flat = result.probabilities.reshape(-1, classes)
    samples = flat[recorded[f"{key}_sample_flat_idx"]].T
    np.testing.assert_allclose(samples, recorded[f"{key}_probs"], atol=1e-5, rtol=0)
    means = flat.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(means, recorded[f"{key}_prob_mean"], atol=1e-6)
    deviations = flat.std(axis=0, dtype=np.float64)
    np.testing.assert_allclose(deviations, recorded[f"{key}_prob_std"], atol=1e-6)


model_of = lru_cache(maxsize=1)(build_model)


def predict_recorded(config, checkpoint, image, mask=None):
    model = model_of(config)
    original_weights.assign_original(model, original_weights.read_original(checkpoint))
    return segmenter(model, config)(image, mask)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    ("step", "masked"), [("step96", True), ("step96", False), ("step24", False)]
)
def test_small_network_on_a_real_volume(shared, crop, step, masked):
    """[G10] step24 averages 36 rows that no batch has written."""
    folder = shared / "golden/dhcp_fetal/small"
    config = replace(from_cfg(folder / "small_model.cfg"), inference_batch_size=5)
    image, mask = crop
    checkpoint = folder / f"smallFetal.{step}.model.ckpt"
    result = predict_recorded(config, checkpoint, image, mask if masked else None)
    with np.load(folder / "small_infer.npz") as recorded:
        assert_recorded(result, recorded, f"{step}_{'roi' if masked else 'noroi'}")


@pytest.mark.shared
@pytest.mark.slow
def test_tiny_network_on_a_real_volume(shared, crop, example_files):
    folder = shared / "golden/dhcp_fetal/tiny"
    config = from_cfg(example_files / "tinyCnn/model/modelConfig.cfg")
    result = predict_recorded(config, folder / "tinyCnn.step400.model.ckpt", crop[0])
    with np.load(folder / "tiny_infer.npz") as recorded:
        assert_recorded(result, recorded, "step400_noroi")


@pytest.mark.slow
@pytest.mark.shared
def test_tiny_network_on_a_whole_patient(shared, example_files):
    import nibabel

    patient = shared / "data/brats/validation/brats_2013_pat0003_1"
    channels = [
        np.asanyarray(nibabel.load(patient / f"{name}_subtrMeanDivStd.nii.gz").dataobj)
        for name in ("Flair", "T1c")
    ]
    mask = nibabel.load(patient / "brainmask.nii.gz").get_fdata()
    folder = shared / "golden/dhcp_fetal/tiny"
    config = from_cfg(example_files / "tinyCnn/model/modelConfig.cfg")
    checkpoint = folder / "tinyCnn.step400.model.ckpt"
    result = predict_recorded(config, checkpoint, np.stack(channels, axis=-1), mask)
    with np.load(folder / "tiny_infer.npz") as recorded:
        np.testing.assert_array_equal(result.labels, recorded["pat0003_roi_segm"])
        flat = result.probabilities.reshape(-1, 5)[recorded["pat0003_roi_sample_flat_idx"]]
        np.testing.assert_allclose(flat.T, recorded["pat0003_roi_probs"], atol=1e-5, rtol=0)
