"""The case in three planes: small, in place, and the viewer that shows it unchanged."""

import base64
import gzip
import hashlib
import re

import nibabel
import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.volumes import read_volume, write_volume
from common.errors import RunError
from common.evaluation.claims_reader import ROOT
from common.report.viewer import embed
from common.report.viewer.embed import (
    ViewedCase,
    as_grey,
    as_labels,
    choose_steps,
    read_case,
    write_case,
)

AFFINE = np.array([[0, -2.0, 0, 5], [3.0, 0, 0, -7], [0, 0, 4.0, 1], [0, 0, 0, 1]])


def make_case(shape=(4, 5, 6), **changes):
    rng = np.random.default_rng(0)
    reference, prediction = (rng.integers(0, 3, shape).astype(np.int32) for _ in range(2))
    facts = {"reference": reference, "prediction": prediction, "affine": AFFINE, **changes}
    return ViewedCase("a", rng.normal(size=shape), **facts)


def load(text):
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_labels_and_place_survive(tmp_path):
    case = make_case(oriented=False)
    write_case(tmp_path, case, phantom=True)
    found = read_case(tmp_path)
    assert (found.id, found.shape, found.steps) == ("a", (4, 5, 6), (1, 1, 1))
    assert (found.oriented, found.phantom) == (False, True)
    for name in ("reference", "prediction"):
        image = load(found.volumes[name])
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), getattr(case, name))
        np.testing.assert_array_equal(image.affine, AFFINE)
    assert load(found.volumes["scan"]).get_data_dtype() == np.uint8


def test_arrays_in_the_order_of_simpleitk_lie_where_simpleitk_puts_them(tmp_path):
    """The same volume written by both ways is one file to nibabel."""
    geometry = Geometry((1.0, 2.0, 3.0), (4.0, 5.0, 6.0), (0, 1, 0, 1, 0, 0, 0, 0, -1))
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    write_volume(tmp_path / "a.nii.gz", array, geometry)
    assert read_volume(tmp_path / "a.nii.gz").geometry.spacing_mm == (1.0, 2.0, 3.0)
    expected = nibabel.load(tmp_path / "a.nii.gz")
    case = ViewedCase.from_zyx("a", (array, array, array), geometry)
    np.testing.assert_allclose(case.affine, expected.affine, atol=1e-6)
    np.testing.assert_array_equal(case.reference, np.asanyarray(expected.dataobj))


def test_large_volumes_are_thinned_and_stay_in_place(tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "MOST_VOXELS", 20)
    write_case(tmp_path, make_case((4, 6, 3)), phantom=False)
    found = read_case(tmp_path)
    # Voxels of 3 x 2 x 4 mm: y first (4 x 3 x 3 = 36), then x (2 x 3 x 3 = 18).
    assert found.steps == (2, 2, 1)
    image = load(found.volumes["reference"])
    assert image.shape == (2, 3, 3)
    np.testing.assert_array_equal(image.affine, AFFINE @ np.diag([2, 2, 1, 1]))


def test_steps_by_hand():
    assert choose_steps((100, 100, 100), (1, 1, 1)) == (1, 1, 1)
    assert choose_steps((512, 512, 20), (0.3, 0.3, 3.0)) == (2, 1, 1)


def test_grey_levels_by_hand():
    """Two of 1000 voxels beyond the percentiles are clipped; a constant scan is black."""
    scan = np.linspace(0, 1000, 1001)
    grey = as_grey(scan)
    assert (grey[0], grey[5], grey[995], grey[1000]) == (0, 0, 255, 255)
    assert grey[500] in (127, 128)
    assert not as_grey(np.full(5, 7.0)).any()


def test_labels_that_do_not_fit_are_renumbered():
    np.testing.assert_array_equal(as_labels(np.array([0, 3, 200])), [0, 3, 200])
    np.testing.assert_array_equal(as_labels(np.array([-1, 0, 300, 500])), [0, 0, 1, 2])


def test_the_same_case_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_case(tmp_path / name, make_case(), phantom=True)
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_volumes_of_different_shapes_are_a_bug():
    with pytest.raises(ValueError, match="one shape"):
        write_case(None, make_case(prediction=np.zeros((4, 5, 7), int)), phantom=False)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_case_is_one_line(damage, tmp_path):
    write_case(tmp_path, make_case(), phantom=False)
    path = tmp_path / "prediction.nii.gz"
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[:-20])
    with pytest.raises(RunError, match="holds no viewable case"):
        read_case(tmp_path)


def test_the_viewer_is_the_version_that_is_stated():
    folder = ROOT / "common" / "report" / "viewer"
    stated = re.search(
        r"NiiVue (\S+),.*sha256 `([0-9a-f]{64})`", (folder / "README.md").read_text()
    )
    script = (folder / "niivue.umd.js").read_bytes()
    assert hashlib.sha256(script).hexdigest() == stated[2]
    assert f'"{stated[1]}"'.encode() in script
    assert "Copyright (c) 2021, Niivue" in (folder / "LICENSE.niivue").read_text()
