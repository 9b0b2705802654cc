"""Synthetic heads: their anatomy grows and folds with age, and their folder can be trained on."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from common.data.phantoms import read_marker
from common.data.rng import rng_for
from common.errors import OptionError
from dhcp_fetal.config import PORT
from dhcp_fetal.data import find_cases, is_phantom, load_case
from dhcp_fetal.phantom import phantom
from dhcp_fetal.phantom_head import RIBBON_MM, make_head

SPACING = 2.0


@pytest.fixture(scope="module")
def heads():
    return {
        age: make_head(rng_for(0, 1), age_weeks=age, shape=(60, 70, 60), spacing_mm=SPACING)
        for age in (22.0, 37.0)
    }


def surface_of(mask):
    """Area of a mask relative to that of a ball of its volume: faces between inside and outside."""
    faces = sum(np.abs(np.diff(mask.astype(np.int8), axis=axis)).sum() for axis in range(3))
    return faces / mask.sum() ** (2 / 3)


def test_size_and_folding_grow_with_age(heads):
    young, old = heads[22.0], heads[37.0]
    assert old.brain.sum() > 3 * young.brain.sum()
    inside = {age: (h.brain > 0) & (h.image < 750) | (h.cortex > 0) for age, h in heads.items()}
    assert surface_of(inside[37.0]) > 1.1 * surface_of(inside[22.0])


def test_the_ribbon_lies_inside_and_is_thin_and_dark(heads):
    for head in heads.values():
        cortex = head.cortex > 0
        assert not cortex[head.brain == 0].any()
        depth = distance_transform_edt(cortex) * SPACING
        assert depth.max() <= RIBBON_MM + SPACING
        white = (head.brain > 0) & (distance_transform_edt(head.brain) * SPACING > 14)
        assert np.median(head.image[cortex]) < 0.8 * np.median(head.image[white])


def test_the_same_seed_gives_the_same_head(heads):
    again = make_head(rng_for(0, 1), age_weeks=22.0, shape=(60, 70, 60), spacing_mm=SPACING)
    np.testing.assert_array_equal(again.image, heads[22.0].image)


def test_the_folder_can_be_trained_on(tmp_path):
    out = tmp_path / "phantom"
    phantom(out, cases=2, shape=(40, 44, 40), spacing_mm=3.0)
    assert read_marker(out)["generator"] == "dhcp_fetal.phantom"
    for table, masked in (("brain", False), ("cortex", True)):
        cases = find_cases(out / f"{table}.csv")
        assert is_phantom(cases)
        case = load_case(cases[1], PORT)
        assert case.name == "PHANTOM0001"
        assert case.labels.any()
        assert (case.mask is not None) == masked
    ages = (out / "ages.csv").read_text().splitlines()[1:]
    assert all(21 <= float(line.split(",")[1]) <= 38 for line in ages)
    (out / "foreign.txt").write_text("mine")
    with pytest.raises(OptionError, match=r"foreign\.txt"):
        phantom(out, cases=1)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"cases": 0}, "--cases"), ({"seed": -1}, "--seed"), ({"shape": (9, 40, 40)}, "--shape")],
)
def test_impossible_options_are_refused(tmp_path, options, named):
    with pytest.raises(OptionError, match=named):
        phantom(tmp_path / "phantom", **options)
    assert not (tmp_path / "phantom").exists()
