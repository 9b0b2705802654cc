"""Flips, ensembles, entropy and clean-up, by hand."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from common.errors import OptionError
from common.inference.extras import (
    NONE,
    Extras,
    averaged,
    axes_of,
    check_alike,
    clean_up,
    entropy_of,
)


def first_voxel(image, memory=None):
    """Certain of the first voxel of every axis, whatever it is shown; and of a number."""
    found = np.zeros(image.shape, np.float32)
    found[0, 0, 0] = 1
    return {"mask": found, "number": 0.25}


def test_the_mean_over_flips_is_what_each_corner_gets():
    mean = averaged([first_voxel], (0, 2))
    found = mean(np.zeros((2, 3, 4)), None)
    expected = np.zeros((2, 3, 4))
    for z in (0, 1):
        for x in (0, 3):
            expected[z, 0, x] = 0.25
    np.testing.assert_array_equal(found["mask"], expected)
    assert found["mask"].dtype == np.float32
    assert found["number"] == 0.25


def test_an_answer_that_follows_the_scan_is_unchanged_by_flips():
    """And class probabilities, one more axis, are flipped back like the scan."""
    scan = np.random.default_rng(0).random((3, 4, 5, 2)).astype(np.float32)
    mean = averaged([lambda image, mask: {"p": image * mask[..., None]}], (0, 1, 2))
    mask = np.arange(60).reshape(3, 4, 5) % 2
    np.testing.assert_array_equal(mean(scan, mask)["p"], scan * mask[..., None])


def test_an_ensemble_is_the_mean_of_its_networks():
    mean = averaged([lambda image: {"p": image}, lambda image: {"p": 3 * image}], ())
    np.testing.assert_array_equal(mean(np.ones((1, 2, 2)))["p"], 2 * np.ones((1, 2, 2)))


def test_doubt_in_bits():
    binary = entropy_of(np.array([0.0, 0.5, 1.0, 0.25], np.float32), binary=True)
    np.testing.assert_allclose(binary, [0, 1, 0, 0.811278], atol=1e-6)
    classes = np.array([[0.25] * 4, [1, 0, 0, 0], [0.5, 0.5, 0, 0]], np.float32)
    np.testing.assert_allclose(entropy_of(classes, binary=False), [2, 0, 1], atol=1e-6)


@pytest.fixture
def labels():
    """Of label 1 parts of 8, 2 (at a corner of the first) and 1 voxels; of label 3 parts of 1."""
    array = np.zeros((4, 4, 9), np.uint8)
    array[:2, :2, :2] = 1
    array[2, 2, 2:4] = 1
    array[0, 0, 6] = 1
    array[3, 3, 8] = array[3, 0, 0] = 3
    return array


def test_the_largest_part_of_each_label_is_kept(labels):
    found = clean_up(labels, Extras(largest_component=True), None)
    assert (found == 1).sum() == 10
    assert (found == 3).sum() == 1
    assert not found[0, 0, 6]
    assert labels[0, 0, 6] == 1
    assert clean_up(labels, NONE, None) is labels


def test_small_parts_go_by_their_volume(labels):
    """Voxels of 2 x 5 x 10 mm have 0.1 ml."""
    found = clean_up(labels, Extras(min_component_ml=0.15), (2, 5, 10))
    assert sorted(np.unique(found)) == [0, 1]
    assert (found == 1).sum() == 10
    np.testing.assert_array_equal(
        clean_up(labels, Extras(min_component_ml=0.1), (2, 5, 10)), labels
    )
    with pytest.raises(OptionError, match="--min_component_ml: the spacing"):
        clean_up(labels, Extras(min_component_ml=0.1), None)


def test_options_that_fit_no_network():
    assert axes_of(Extras(flips=("y", "x", "x")), "zyx") == (2, 1)
    with pytest.raises(OptionError, match="--flips: found z; expected some of x, y"):
        axes_of(Extras(flips=("z",)), "yx")

    @dataclass
    class Config:
        labels: int

    check_alike(Config(2), [(Path("b"), Config(2))], ("labels",))
    with pytest.raises(OptionError, match="--run b: found labels 3; expected 2"):
        check_alike(Config(2), [(Path("b"), Config(3))], ("labels",))


def test_what_was_on_is_recorded_and_forgotten(tmp_path):
    Extras(flips=("x",)).record(tmp_path)
    assert '"flips": [' in (tmp_path / "extras.json").read_text()
    NONE.record(tmp_path)
    assert not list(tmp_path.iterdir())
