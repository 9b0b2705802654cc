"""Sampling maps, shares, centres and segments, held to what the engine recorded."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from dhcp_fetal import geometry, sampling
from dhcp_fetal.config import PORT, QUICK
from dhcp_fetal.data import Case
from dhcp_fetal.tiles import border_means

KINDS = {
    "foreback": "foreground_background",
    "uniform": "uniform",
    "whole": "whole_image",
    "perclass": "per_class",
}
SEGMENT = (25, 24, 17)
FOUR = replace(PORT, classes=4)


@pytest.fixture(scope="module")
def recorded(golden):
    return golden("sampling")


@pytest.fixture(scope="module")
def entries(recorded):
    return json.loads(str(recorded["info_json"]))


def make_case(labels, mask=None, weight_maps=None, image=None):
    if image is None:
        image = np.zeros((*labels.shape, 1), np.float32)
    return Case("case", image, labels, mask, weight_maps, None)


def recorded_case(recorded, entry):
    mask = recorded["roi"].astype(np.int16) if entry["roi"] else None
    return make_case(recorded["labels"], mask)


@pytest.mark.parametrize("index", range(8))
def test_maps_equal_the_engine(recorded, entries, index):
    entry = entries[index]
    maps = sampling.category_maps(recorded_case(recorded, entry), KINDS[entry["name"]], FOUR)
    assert [int(m.sum()) for m in maps] == entry["map_sums"]
    inside = [sampling.keep_inside(m, SEGMENT) for m in maps]
    assert [int(m.sum()) for m in inside] == entry["constrained_sums"]
    assert [bool(m.any()) for m in inside] == entry["valid"]
    assert sampling.count_categories(KINDS[entry["name"]], FOUR) == entry["n_cats"]


@pytest.mark.parametrize("index", range(8))
def test_shares_and_centres_equal_the_engine(recorded, entries, index):
    """[D9] With numpy's old generator, which the engine uses, even the draws are the same."""
    entry = entries[index]
    seed = int(recorded["np_seed"])
    kind = KINDS[entry["name"]]
    maps = sampling.category_maps(recorded_case(recorded, entry), kind, FOUR)
    shares = np.where(entry["valid"], entry["perc"], 0.0)
    counts = sampling.share_among_categories(101, shares, np.random.RandomState(seed))
    assert counts.tolist() == entry["n_per_cat_for_101_npseed"]
    place = "roi" if entry["roi"] else "noroi"
    for category, count in enumerate(counts):
        if count:
            name = f"centers_{entry['name']}_{place}_cat{category}"
            rng = np.random.RandomState(seed + 1)
            found = sampling.draw_centres(maps[category], int(count), SEGMENT, rng)
            np.testing.assert_array_equal(found.T, recorded[name], err_msg=name)


def test_limits_of_centres(recorded):
    bounds = [sampling.centre_range(n, s) for n, s in zip((40, 38, 42), SEGMENT, strict=True)]
    assert [[low, high - 1] for low, high in bounds] == recorded["edge_mask_bounds"].tolist()


def test_weight_maps_replace_the_others(recorded):
    random = np.random.RandomState(int(recorded["wmaps_seed"]))
    first = random.uniform(size=(2, 40, 38, 42))
    maps = (first * (random.uniform(size=first.shape) > 0.5)).astype(np.float32)
    assert maps.sum(dtype=np.float64) == pytest.approx(float(recorded["wmaps_sum"]), rel=1e-6)
    case = make_case(recorded["labels"], weight_maps=maps)
    found = sampling.category_maps(case, "per_class", FOUR)
    np.testing.assert_array_equal(np.stack(found), maps)
    assert sampling.count_categories("per_class", FOUR, 2) == 2
    drawn = sampling.draw_centres(maps[0], 400, SEGMENT, np.random.default_rng(0))
    assert (maps[0][tuple(drawn.T)] > 0).all()


def test_centres_follow_the_weights():
    weights = np.zeros((9, 9, 9), np.float32)
    weights[4, 4, 4], weights[4, 5, 4] = 1.0, 3.0
    weights[0, 0, 0] = 100.0  # its segment would leave the image
    drawn = sampling.draw_centres(weights, 4000, (7, 7, 7), np.random.default_rng(1))
    counts = Counter(map(tuple, drawn.tolist()))
    assert set(counts) == {(4, 4, 4), (4, 5, 4)}
    assert counts[4, 5, 4] / 4000 == pytest.approx(0.75, abs=0.03)


def test_shares_among_cases(recorded):
    """As the engine: 25 each of 103 over 4, the rest to random ones, also twice to one."""
    engine = recorded["n_samples_per_subj_103_over_4"]
    assert engine.sum() == 103
    assert engine.min() >= 25
    for seed in range(20):
        counts = sampling.share_among_cases(103, 4, np.random.default_rng(seed))
        assert counts.sum() == 103
        assert counts.min() >= 25


def test_the_two_versions_share_in_another_order():
    """[D10] v0.7.0 settles every case's samples of each category, v0.8.4 leaves that to it."""
    rng = np.random.default_rng(2)
    new = sampling.share_subepoch(101, 3, 2, PORT, proportions=None, rng=rng)
    assert sum(new) == 101
    old = sampling.share_subepoch(
        101, 3, 2, replace(PORT, compat="v0.7.0"), proportions=(0.3, 0.7), rng=rng
    )
    assert np.sum(old) == 101
    assert 30 <= np.sum(old, axis=0)[0] <= 31


def test_absent_categories_give_their_samples_away():
    """[D10] In v0.7.0's way of sharing, too, a subepoch keeps its length."""
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[9:11, 9:11, 9:11] = 1
    case = make_case(labels)
    config = replace(QUICK, classes=3)
    for counts in (30, np.array([10, 10, 10])):
        centres = sampling.draw_case_centres(
            case, counts, "per_class", config, segment=(17, 17, 17), proportions=None,
            rng=np.random.default_rng(3),
        )  # fmt: skip
        assert len(centres) == 30
        ones = labels[tuple(centres.T)].sum()
        assert 10 <= ones <= 20


def test_a_case_without_any_category_is_drawn_from_anywhere():
    case = make_case(np.zeros((20, 20, 20), np.uint8), mask=np.zeros((20, 20, 20), np.int16))
    centres = sampling.draw_case_centres(
        case, 5, "uniform", QUICK, segment=(17, 17, 17), proportions=None,
        rng=np.random.default_rng(4),
    )  # fmt: skip
    assert centres.min() >= 8
    assert centres.max() <= 11


@pytest.mark.parametrize("number", range(4))
def test_segments_equal_the_engine(recorded, number):
    """Centre to corners, contexts and label block; recorded sums and corners."""
    entry = json.loads(str(recorded["extract_json"]))[number]
    shape = (60, 57, 63)
    volume = np.random.RandomState(int(recorded["vol1_seed"])).standard_normal((1, *shape))
    labels = (3 * np.random.RandomState(int(recorded["lab1_seed"])).uniform(size=shape)).astype(int)
    assert labels.sum() == int(recorded["lab1_sum"])
    image = np.moveaxis(volume, 0, -1).astype(np.float32)
    field = entry["rf"][0]
    layers = (field - 1) // 2
    config = replace(
        PORT,
        filters=(4,) * layers,
        kernels=((3, 3, 3),) * layers,
        padding=("valid",) * layers,
        residual_layers=(),
        context_factors=tuple(map(tuple, entry["factors"])),
        context_filters=((4,) * layers,) * len(entry["factors"]),
        context_kernels=((3, 3, 3),) * layers,
        context_padding=("valid",) * layers,
        context_residual_layers=(),
        train_segment=tuple(entry["segment"]),
        validation_segment=(25, 25, 25),
    )
    case = make_case(labels.astype(np.uint8), image=image)
    segment = tuple(entry["segment"])
    border = border_means(image).astype(np.float32)
    parts, truth = sampling.cut_sample(case, border, entry["center"], segment, config)
    assert list(truth.shape) == entry["label_shape"]
    np.testing.assert_array_equal(truth, recorded[f"ext{number}_labels"])
    for index, part in enumerate(parts):
        assert [1, *part.shape[:3]] == entry["shapes"][index]
        corner = recorded[f"ext{number}_path{index}_corner"]
        np.testing.assert_allclose(part[:3, :3, :3, 0], corner, atol=1e-6)
        sums = [part.sum(dtype=np.float64), np.abs(part).sum(dtype=np.float64)]
        np.testing.assert_allclose(sums, recorded[f"ext{number}_path{index}_sum"], rtol=1e-5)


def test_samples_of_a_case_go_to_their_places():
    labels = np.random.default_rng(5).integers(0, 2, (30, 31, 32)).astype(np.uint8)
    image = labels[..., None].astype(np.float32)
    segment = QUICK.train_segment
    arrays = sampling.make_arrays(2, segment, QUICK)
    centres = np.array([[15, 14, 16], [14, 16, 15], [12, 20, 10]])
    sampling.cut_samples(
        make_case(labels, image=image), centres, segment, QUICK, arrays=arrays,
        places=np.array([1, 5, 0]),
    )  # fmt: skip
    inputs, truth = arrays
    assert [array.shape for array in inputs] == [
        (2, *segment, 1),
        (2, *geometry.context_sizes(QUICK, segment)[0], 1),
    ]
    np.testing.assert_array_equal(inputs[0][:, 4:-4, 4:-4, 4:-4, 0], truth)
    assert truth[0, 4, 4, 4] == labels[12, 20, 10]
    assert truth[1, 4, 4, 4] == labels[15, 14, 16]
