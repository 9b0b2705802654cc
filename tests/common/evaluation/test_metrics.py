import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from common.evaluation.metrics import score_case, summarise, surface_distances
from common.evaluation.overlap import (
    dice,
    jaccard,
    relative_volume_difference,
    volume_ml,
)

DICE_CASES = ["rand", "same", "pred_empty", "label_empty", "both_empty", "all_fg", "three"]


@pytest.fixture(scope="module")
def recorded(golden_dir):
    with np.load(golden_dir / "fetal_brain" / "metrics.npz") as file:
        return dict(file)


def box(shape, *, low, high):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def two_boxes():
    """2x4x4 = 32 voxels, and the same moved by one row: 24 in common, 40 together."""
    return (
        box((6, 8, 8), low=(1, 1, 1), high=(3, 5, 5)),
        box((6, 8, 8), low=(1, 2, 1), high=(3, 6, 5)),
    )


@pytest.mark.parametrize("case", DICE_CASES)
def test_dice_equals_the_original(recorded, case):
    """The original rounds to float32."""
    prediction, reference = recorded[f"dice_{case}_pred"], recorded[f"dice_{case}_label"]
    classes = range(recorded[f"dice_{case}_n"])
    found = [dice(prediction == c, reference == c) for c in classes]
    np.testing.assert_allclose(found, recorded[f"dice_{case}_out"], rtol=1e-7)


def test_overlap_by_hand():
    first, second = two_boxes()
    assert dice(first, second) == 2 * 24 / 64
    assert jaccard(first, second) == 24 / 40


def test_dice_and_jaccard_are_one_measure():
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 5, 6, 7)) < 0.4
    overlap = jaccard(first, second)
    assert dice(first, second) == pytest.approx(2 * overlap / (1 + overlap), rel=1e-12)


def test_volumes_by_hand():
    first, second = two_boxes()
    second = second | box((6, 8, 8), low=(4, 0, 0), high=(5, 8, 8))  # 64 voxels more
    spacing_mm = (2.5, 0.5, 0.8)  # 1 mm3 a voxel
    assert volume_ml(first, spacing_mm=spacing_mm) == pytest.approx(0.032)
    (row,) = score_case(first, second, labels={"box": 1}, spacing_mm=spacing_mm)
    assert row["volume_difference_ml"] == pytest.approx(-0.064)
    assert relative_volume_difference(first, second) == pytest.approx(-64 / 96)
    assert relative_volume_difference(second, first) == pytest.approx(2.0)


def test_parallel_plates():
    """One voxel thick, two slices of 3 mm apart: 6 mm everywhere, whatever the other spacings."""
    first = box((5, 7, 9), low=(1, 0, 0), high=(2, 7, 9))
    second = box((5, 7, 9), low=(3, 0, 0), high=(4, 7, 9))
    distances = surface_distances(first, second, spacing_mm=(3.0, 0.4, 0.7))
    assert distances.hausdorff95_mm == pytest.approx(6)
    assert distances.assd_mm == pytest.approx(6)


def test_spacing_belongs_to_its_axis():
    """Two voxels apart by (1, 2, 3): sqrt((1*5)^2 + (2*0.5)^2 + (3*2)^2) = sqrt(62)."""
    first = box((3, 4, 5), low=(0, 0, 0), high=(1, 1, 1))
    second = box((3, 4, 5), low=(1, 2, 3), high=(2, 3, 4))
    expected = pytest.approx(math.sqrt(62))
    distances = surface_distances(first, second, spacing_mm=(5, 0.5, 2))
    assert distances.hausdorff95_mm == expected
    assert distances.assd_mm == expected


def test_percentile_interpolates_and_the_larger_direction_counts():
    """A line of 10 voxels, once with an 11th 8 mm away. Back: ten 0 and one 8; the 95th percentile
    lies half way between the last two. Forth: ten 0. Pooled: 8 / 21."""
    line = box((1, 1, 30), low=(0, 0, 0), high=(1, 1, 10))
    longer = line | box((1, 1, 30), low=(0, 0, 13), high=(1, 1, 14))
    for pair in ((line, longer), (longer, line)):
        distances = surface_distances(*pair, spacing_mm=(1, 1, 2))
        assert distances.hausdorff95_mm == pytest.approx(4)
        assert distances.assd_mm == pytest.approx(8 / 21)


def test_surface_is_six_connected():
    """A 5^3 cube has 98 surface voxels; a hole in its centre adds its 6 face neighbours, each 1 mm
    below the outer surface. 95th percentile of 98 zeros and 6 ones: place 0.95 * 103 = 97.85."""
    cube = box((9, 9, 9), low=(2, 2, 2), high=(7, 7, 7))
    hollow = cube.copy()
    hollow[4, 4, 4] = False
    distances = surface_distances(hollow, cube, spacing_mm=(1, 1, 1))
    assert distances.assd_mm == pytest.approx(6 / (98 + 104))
    assert distances.hausdorff95_mm == pytest.approx(0.85)


def test_outside_the_array_is_background():
    """A full 3^3 array: 26 surface voxels around the one in the middle."""
    full = np.ones((3, 3, 3), dtype=bool)
    middle = box((3, 3, 3), low=(1, 1, 1), high=(2, 2, 2))
    total = 6 * 1 + 12 * math.sqrt(2) + 8 * math.sqrt(3) + 1
    distances = surface_distances(full, middle, spacing_mm=(1, 1, 1))
    assert distances.assd_mm == pytest.approx(total / 27)


def surface_points(mask, spacing_mm):
    padded = np.pad(mask, 1)
    inside = padded.copy()
    for axis in range(mask.ndim):
        inside &= np.roll(padded, 1, axis) & np.roll(padded, -1, axis)
    return (np.argwhere(padded & ~inside) - 1) * spacing_mm


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("shape", "spacing_mm"), [((5, 9, 8), (3, 0.8, 1.1)), ((12, 10), (1, 2))])
def test_equals_all_pairs(shape, spacing_mm, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, *shape)) < 0.5
    pairs = cdist(surface_points(first, spacing_mm), surface_points(second, spacing_mm))
    forth, back = pairs.min(axis=1), pairs.min(axis=0)
    distances = surface_distances(first, second, spacing_mm=spacing_mm)
    largest = max(np.percentile(forth, 95), np.percentile(back, 95))
    assert distances.hausdorff95_mm == pytest.approx(largest, abs=1e-12)
    assert distances.assd_mm == pytest.approx(np.concatenate([forth, back]).mean(), abs=1e-12)


def test_place_in_the_array_does_not_matter():
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 4, 5, 6)) < 0.5
    spacing_mm = (2, 1, 0.5)
    around = ((3, 7), (0, 4), (5, 1))
    assert surface_distances(first, second, spacing_mm=spacing_mm) == surface_distances(
        np.pad(first, around), np.pad(second, around), spacing_mm=spacing_mm
    )


def test_mask_against_itself():
    mask = np.random.default_rng(4).random((4, 5, 6)) < 0.5
    distances = surface_distances(mask, mask, spacing_mm=(2, 1, 0.5))
    assert (distances.hausdorff95_mm, distances.assd_mm) == (0, 0)
    assert dice(mask, mask) == jaccard(mask, mask) == 1


def test_empty_masks():
    empty, full = np.zeros((2, 3, 4)), np.ones((2, 3, 4))
    assert math.isnan(dice(empty, empty))
    assert math.isnan(jaccard(empty, empty))
    assert dice(empty, full) == dice(full, empty) == jaccard(empty, full) == 0
    assert math.isnan(relative_volume_difference(full, empty))
    assert math.isnan(relative_volume_difference(empty, empty))
    assert relative_volume_difference(empty, full) == -1
    for pair in ((empty, empty), (empty, full), (full, empty)):
        distances = surface_distances(*pair, spacing_mm=(1, 1, 1))
        assert math.isnan(distances.hausdorff95_mm)
        assert math.isnan(distances.assd_mm)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="differ"):
        dice(np.zeros((2, 3)), np.zeros((3, 2)))
    for spacing_mm in ((1, 1), (1, 1, 0), (1, 1, math.nan)):
        with pytest.raises(ValueError, match="positive spacings"):
            surface_distances(np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), spacing_mm=spacing_mm)


def test_score_case_by_hand():
    prediction, reference = np.zeros((2, 6, 8, 8), dtype=np.int16)
    first, second = two_boxes()
    prediction[first], reference[second] = 2, 2
    prediction[5, 0, 0] = 3
    reference[5, 7, 7] = 4
    labels = {"brain": 2, "false": 3, "missed": 4, "absent": 9}
    rows = score_case(prediction, reference, labels=labels, spacing_mm=(2, 1, 0.5))
    assert [row["label"] for row in rows] == list(labels)
    assert [row["status"] for row in rows] == [
        "ok",
        "reference empty",
        "prediction empty",
        "both empty",
    ]
    brain, false, missed, absent = rows
    distances = surface_distances(first, second, spacing_mm=(2, 1, 0.5))
    assert brain == {
        "label": "brain",
        "dice": 0.75,
        "jaccard": 0.6,
        "volume_ml": 0.032,
        "reference_ml": 0.032,
        "volume_difference_ml": 0.0,
        "relative_volume_difference": 0.0,
        "hd95_mm": distances.hausdorff95_mm,
        "assd_mm": distances.assd_mm,
        "nsd_2mm": distances.within,
        "status": "ok",
    }
    # Boxes 2 slices deep are surface throughout: 8 of 32 voxels lie 1 row (1 mm) beyond.
    assert brain["hd95_mm"] == pytest.approx(1)
    assert brain["assd_mm"] == pytest.approx(16 / 64)
    assert (false["dice"], missed["dice"], false["volume_ml"], missed["reference_ml"]) == (
        0,
        0,
        0.001,
        0.001,
    )
    assert missed["relative_volume_difference"] == -1
    undefined = [absent["dice"], absent["jaccard"], false["relative_volume_difference"]]
    undefined += [row[key] for row in rows[1:] for key in ("hd95_mm", "assd_mm")]
    assert all(math.isnan(value) for value in undefined)


def test_score_case_refuses_other_shapes():
    with pytest.raises(ValueError, match="differ"):
        score_case(np.zeros((2, 3)), np.zeros((2, 4)), labels={"a": 1}, spacing_mm=(1, 1))


def test_summary_by_hand():
    """Student's t for 4 degrees of freedom is 2.776445; the variance of 1 to 5 is 2.5."""
    summary = summarise([4, math.nan, 1, 2, 3, 5])
    assert (summary["n"], summary["n_undefined"]) == (5, 1)
    assert summary["mean"] == summary["median"] == 3
    assert summary["sd"] == pytest.approx(math.sqrt(2.5))
    assert (summary["min"], summary["max"], summary["values"]) == (1, 5, [])
    half = 2.776445 * math.sqrt(2.5 / 5)
    assert summary["ci95_low"] == pytest.approx(3 - half, abs=1e-6)
    assert summary["ci95_high"] == pytest.approx(3 + half, abs=1e-6)


def test_of_few_cases_the_values_stand_for_an_interval():
    summary = summarise([0.3, 0.1, math.nan, 0.2, 0.4])
    assert summary["values"] == [0.1, 0.2, 0.3, 0.4]
    assert (summary["n"], summary["mean"]) == (4, pytest.approx(0.25))
    assert math.isnan(summary["ci95_low"])
    assert math.isnan(summary["ci95_high"])


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("draw", ["normal", "skewed"])
def test_the_interval_holds_the_mean_as_often_as_it_says(n, draw):
    """Of 4000 samples; Beta(8, 1.5) has the skew of Dice, whose intervals hold a little less."""
    generator = np.random.default_rng(n)
    shape = (4000, n)
    samples = generator.normal(size=shape) if draw == "normal" else generator.beta(8, 1.5, shape)
    mean = 0.0 if draw == "normal" else 8 / 9.5
    held = [s["ci95_low"] <= mean <= s["ci95_high"] for s in map(summarise, samples)]
    least = 0.94 if draw == "normal" else 0.90
    assert least < np.mean(held) < 0.965


def test_summary_of_too_few_values():
    none = summarise([math.nan, math.nan])
    assert (none.pop("n"), none.pop("n_undefined"), none.pop("values")) == (0, 2, [])
    assert all(math.isnan(value) for value in none.values())
    one = summarise([0.5])
    assert (one["n"], one["mean"], one["median"], one["min"]) == (1, 0.5, 0.5, 0.5)
    assert all(math.isnan(one[key]) for key in ("sd", "ci95_low", "ci95_high"))


def test_surface_dice_by_hand():
    """Of two rods of 4 and 9 voxels from one end, 1 mm apart: the shorter lies on the longer; of
    the longer, 4 + 2 voxels are within 2 mm of the shorter."""
    short, long = np.zeros(12, bool), np.zeros(12, bool)
    short[1:5], long[1:10] = True, True
    rods = [np.tile(rod, (1, 1, 1)) for rod in (short, long)]
    (row,) = score_case(*rods, labels={"x": 1}, spacing_mm=(1, 1, 1))
    assert row["nsd_2mm"] == pytest.approx((4 + 6) / (4 + 9))
    (row,) = score_case(rods[0], 0 * rods[1], labels={"x": 1}, spacing_mm=(1, 1, 1))
    assert row["nsd_2mm"] == 0
    (row,) = score_case(0 * rods[0], 0 * rods[1], labels={"x": 1}, spacing_mm=(1, 1, 1))
    assert math.isnan(row["nsd_2mm"])
