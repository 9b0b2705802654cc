"""The original's normalisation script, dtype by dtype."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from common.errors import OptionError
from dhcp_fetal.config import CODE, PORT
from dhcp_fetal.normalised_files import normalise_file
from dhcp_fetal.prepare import prepare

KINDS = ("f32", "f64", "four", "i16", "u8")


def save(path, array):
    image = nibabel.Nifti1Image(array, np.diag([0.8, 0.8, 0.8, 1.0]))
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_normalised_files_equal_the_original(golden, tmp_path, kind):
    """[G25] The type of the input stays: 6e-5 for int16, 256 levels for uint8, else 1e-6."""
    recorded = golden("normalise_t2w")
    facts = json.loads(str(recorded["meta_json"]))[kind]
    source = save(tmp_path / "in.nii.gz", recorded[f"{kind}_in"])
    normalise_file(source, tmp_path / "out.nii.gz", CODE)
    written = nibabel.load(tmp_path / "out.nii.gz")
    assert str(written.header.get_data_dtype()) == facts["out_dtype"]
    assert list(written.shape) == facts["out_shape"]
    assert int(written.header["sform_code"]) == facts["sform"]
    assert int(written.header["qform_code"]) == facts["qform"]
    assert written.header.get_zooms() == pytest.approx(facts["out_zooms"])
    tolerance = 6e-5 if kind == "i16" else 1e-6
    np.testing.assert_allclose(written.get_fdata(), recorded[f"{kind}_out"], atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_the_port_writes_floats(golden, tmp_path, kind):
    """[G25] Unquantised: levels of uint8 do not round a second time."""
    recorded = golden("normalise_t2w")
    values = recorded[f"{kind}_in"].astype(float)
    values = values[..., 0] if values.ndim == 4 else values
    source = save(tmp_path / "in.nii.gz", recorded[f"{kind}_in"])
    normalise_file(source, tmp_path / "out.nii.gz", PORT)
    written = nibabel.load(tmp_path / "out.nii.gz")
    assert written.header.get_data_dtype() == np.float32
    expected = (values - values.mean()) / values.std()
    np.testing.assert_allclose(written.get_fdata(), expected, atol=1e-6)


def test_over_the_brain_and_a_constant_scan(tmp_path):
    array = np.random.default_rng(0).normal(500, 80, (6, 6, 6)).astype(np.float32)
    scans, masks = tmp_path / "scans", tmp_path / "masks"
    scans.mkdir(), masks.mkdir()
    inside = np.zeros((6, 6, 6), np.uint8)
    inside[1:4, 1:4, 1:4] = 1
    for name, values in (("a", array), ("flat", np.full_like(array, 3))):
        save(scans / f"{name}.nii.gz", values)
        save(masks / f"{name}.nii.gz", inside)
    out = tmp_path / "out"
    prepare(scans, out, config=PORT, over="brain", masks=masks)
    brain = nibabel.load(out / "a.nii.gz").get_fdata()[inside > 0]
    assert (brain.mean(), brain.std()) == pytest.approx((0, 1), abs=1e-5)
    assert not nibabel.load(out / "flat.nii.gz").get_fdata().any()
    with pytest.raises(OptionError, match="another folder"):
        prepare(scans, scans, config=PORT)
    with pytest.raises(OptionError, match="--masks"):
        prepare(scans, out, config=replace(CODE), over="brain")


def test_two_scans_of_one_name_are_refused_before_anything_is_written(tmp_path):
    """Cases with names of their own were written to one file, and two were reported."""
    rows = ["channel_t2w,prediction_filename"]
    for number in (1, 2):
        (tmp_path / f"sub-0{number}").mkdir()
        array = np.random.default_rng(number).normal(500, 80, (6, 6, 6)).astype(np.float32)
        save(tmp_path / f"sub-0{number}" / "t2w.nii.gz", array)
        rows.append(f"sub-0{number}/t2w.nii.gz,sub-0{number}")
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(
        OptionError, match=r"sub-01/t2w\.nii\.gz and .*sub-02/t2w.* both be written to t2w\.nii\.gz"
    ):
        prepare(tmp_path / "cases.csv", tmp_path / "out", config=PORT)
    assert not (tmp_path / "out").exists()
