"""The synthetic spines: format, anatomy, and that they say what they are."""

import numpy as np
import pytest

from common.data.phantoms import read_marker
from common.data.volumes import read_volume
from common.errors import OptionError
from vertebra.data import find_source_cases, is_phantom
from vertebra.phantom import phantom
from vertebra.phantom_spine import OFFSET, make_scan, number_from_bottom

SHAPE, SPACING = (110, 90, 90), (2.0, 1.6, 1.6)


@pytest.fixture(scope="module")
def scan():
    return make_scan(SHAPE, SPACING, np.random.default_rng(3))


def test_labels_grow_cranially_without_gaps(scan):
    _, labels = scan
    present = np.unique(labels.array)
    np.testing.assert_array_equal(present, np.arange(len(present)) * 100)
    heights = [np.flatnonzero((labels.array == value).any((1, 2))).mean() for value in present[1:]]
    assert (np.diff(heights) > 0).all()
    assert len(heights) >= 7


def test_vertebrae_are_of_one_piece_and_of_human_size(scan):
    """Body, arch and processes hang together; the ends of the scan may cut a vertebra up."""
    from scipy.ndimage import label

    _, labels = scan
    voxel_ml = np.prod(SPACING) / 1000
    for value in np.unique(labels.array)[2:-1]:
        mask = labels.array == value
        pieces, count = label(mask, np.ones((3, 3, 3)))
        largest = np.bincount(pieces.ravel())[1:].max()
        assert largest > 0.97 * mask.sum(), (value, count)
        assert 12 < mask.sum() * voxel_ml < 50


def test_intensities_are_those_of_csi(scan):
    """Unsigned 12 bits, air near 0, soft tissue near 1000, bone above."""
    image, labels = scan
    assert image.array.dtype == np.int16
    assert image.array.min() >= 0
    assert image.array.max() <= 4095
    assert image.array[0, 0, 0] < 150
    bone = image.array[labels.array > 0]
    assert OFFSET + 200 < np.median(bone) < OFFSET + 650
    ribs = (image.array > OFFSET + 450) & (labels.array == 0)
    assert np.count_nonzero(ribs) > 500


def test_files(tmp_path):
    phantom(tmp_path / "data", cases=2, seed=5, shape=(50, 90, 80))
    cases = find_source_cases(tmp_path / "data")
    assert [case.id for case in cases] == ["case1", "case2"]
    first = read_volume(cases[0].image_path)
    assert first.geometry.spacing_mm == (1.4, 1.4, 2.0)
    marker = read_marker(tmp_path / "data")
    assert (marker["synthetic"], marker["seed"]) == (True, 5)
    assert is_phantom(tmp_path / "data")
    # The first cases do not depend on how many there are; an earlier phantom is replaced.
    phantom(tmp_path / "data", cases=1, seed=5, shape=(50, 90, 80))
    np.testing.assert_array_equal(read_volume(cases[0].image_path).array, first.array)
    assert len(find_source_cases(tmp_path / "data")) == 1


@pytest.mark.parametrize("options", [{"cases": 0}, {"seed": -1}, {"shape": (10, 90, 90)},
                                     {"spacing_mm": (0.0, 1.0, 1.0)}])  # fmt: skip
def test_refused(tmp_path, options):
    with pytest.raises(OptionError, match=f"--{next(iter(options))}"):
        phantom(tmp_path / "data", **options)
    assert not (tmp_path / "data").exists()


def test_numbering():
    np.testing.assert_array_equal(number_from_bottom(np.array([0, 300, 700, 300])),
                                  [0, 100, 200, 100])  # fmt: skip
