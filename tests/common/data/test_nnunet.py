"""Data sets in nnU-Net's layout: read once, and taken by every paper's `prepare`."""

import json

import h5py
import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.nnunet import read_dataset
from common.data.volumes import write_volume
from common.errors import DataError
from dhcp_fetal.config import PORT as DHCP
from dhcp_fetal.data import find_cases as find_dhcp_cases
from dhcp_fetal.prepare import prepare as prepare_dhcp
from fetal_brain.config import PORT as FETAL
from fetal_brain.data import find_cases as find_fetal_cases
from fetal_brain.prepare import prepare as prepare_fetal
from raseg.config import PORT as RASEG
from raseg.data import open_volumes
from raseg.prepare import prepare as prepare_raseg
from sarcoma.config import PORT as SARCOMA
from sarcoma.data import find_patients, load_patient
from sarcoma.prepare import prepare as prepare_sarcoma
from vertebra.config import PORT as VERTEBRA
from vertebra.data import find_nnunet_cases
from vertebra.inspection import inspect_dataset

SHAPE = (6, 60, 64)
LABELS = {"background": 0, "lesion": 1}


def voxels(number):
    return np.random.default_rng(number).integers(0, 900, SHAPE).astype(np.int16)


def label_of(number):
    label = np.zeros(SHAPE, np.uint8)
    label[1:5, 10 : 20 + number, 30:40] = 1
    return label


def make(folder, *channels, training=("b", "a"), test=("c",), spacing=(5.0, 5.0, 5.0), **more):
    """A data set whose numbers tell case and channel: case n, channel k has voxels(10 n + k)."""
    grid = Geometry(spacing, (1.0, 2.0, 3.0))
    for part, ids in (("Tr", training), ("Ts", test)):
        for kind in ("images", "labels"):
            (folder / f"{kind}{part}").mkdir(parents=True, exist_ok=True)
        for case_id in ids:
            number = ord(case_id)
            for channel in range(len(channels)):
                path = folder / f"images{part}" / f"{case_id}_{channel:04d}.nii.gz"
                write_volume(path, voxels(10 * number + channel), grid)
            path = folder / f"labels{part}" / f"{case_id}.nii.gz"
            write_volume(path, label_of(number % 3), grid)
    description = {
        "channel_names": {str(n): name for n, name in enumerate(channels)},
        "labels": LABELS, "numTraining": len(training), "file_ending": ".nii.gz", **more,
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def test_cases_channels_and_labels(tmp_path):
    dataset = read_dataset(make(tmp_path, "CT", "PET"))
    assert (dataset.channels, dict(dataset.labels)) == (("CT", "PET"), LABELS)
    assert [case.id for case in dataset.training] == ["a", "b"]
    assert [path.name for path in dataset.training[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert [case.label.parent.name for case in dataset.test] == ["labelsTs"]


def test_the_decathlon_has_other_words(tmp_path):
    make(tmp_path, "T2", modality={"0": "MRI"}, labels={"0": "background", "1": "hippocampus"})
    for path in list(tmp_path.glob("images*/*")):
        path.rename(path.with_name(path.name.replace("_0000", "")))
    stored = json.loads((tmp_path / "dataset.json").read_text())
    del stored["channel_names"]
    (tmp_path / "dataset.json").write_text(json.dumps(stored))
    dataset = read_dataset(tmp_path, channels=1)
    assert dataset.channels == ("MRI",)
    assert dataset.labels == {"background": 0, "hippocampus": 1}
    assert [case.images[0].name for case in dataset.training] == ["a.nii.gz", "b.nii.gz"]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.json .*; expected the description of an nnU-N"):
        read_dataset(tmp_path)
    make(tmp_path, "CT", "PET")
    with pytest.raises(DataError, match="found the channels CT, PET; expected 1"):
        read_dataset(tmp_path, channels=1)
    (tmp_path / "imagesTr" / "a_0001.nii.gz").unlink()
    with pytest.raises(DataError, match="found a with _0000; expected a file for each of the"):
        read_dataset(tmp_path)
    make(tmp_path, "CT", "PET")
    (tmp_path / "labelsTr" / "b.nii.gz").unlink()
    with pytest.raises(DataError, match="found no labels of b"):
        read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"labels": 3}')
    with pytest.raises(DataError, match="not understood"):
        read_dataset(tmp_path)


def test_fetal_brain_makes_a_list(tmp_path, capsys):
    out = tmp_path / "list.csv"
    prepare_fetal(make(tmp_path / "set", "T2"), out, config=FETAL, layout="nnunet")
    assert "2 to train on, then 1 to test; channels T2; labels 0 back" in capsys.readouterr().out
    cases = find_fetal_cases(out)
    assert [case.id for case in cases] == ["a", "b", "c"]
    assert cases[2].label_path.parent.name == "labelsTs"


def test_dhcp_fetal_makes_a_table(tmp_path):
    out = tmp_path / "table.csv"
    prepare_dhcp(make(tmp_path / "set", "T2w", "T1 map"), out, config=DHCP, layout="nnunet")
    assert out.read_text().startswith("channel_0_t2w,channel_1_t1_map,ground_truth,prediction_fil")
    cases = find_dhcp_cases(out)
    assert [case.name for case in cases] == ["a", "b", "c"]
    assert [path.name for path in cases[0].channels] == ["a_0000.nii.gz", "a_0001.nii.gz"]


def test_vertebra_numbers_the_cases(tmp_path):
    folder = make(tmp_path, "CT")
    cases = find_nnunet_cases(folder)
    assert [(case.id, case.number) for case in cases] == [
        ("case1_a", 1), ("case2_b", 2), ("case3_c", 3),
    ]  # fmt: skip
    entries = inspect_dataset(folder, VERTEBRA, tmp_path / "out", layout="nnunet").entries
    assert [entry.name for entry in entries] == ["case1_a", "case2_b", "case3_c"]


def test_sarcoma_makes_a_file(tmp_path):
    out = tmp_path / "made" / "sts.h5"
    prepare_sarcoma(make(tmp_path / "set", "PT", "CT"), out, config=SARCOMA, layout="nnunet")
    patients = find_patients(out, SARCOMA)
    assert list(patients) == ["a", "b", "c"]
    loaded = load_patient(patients["b"], ("ct", "pet"))
    np.testing.assert_array_equal(loaded.images["ct"], voxels(10 * ord("b") + 1))
    np.testing.assert_array_equal(loaded.images["pet"], voxels(10 * ord("b")))
    np.testing.assert_array_equal(loaded.label, label_of(ord("b") % 3) > 0)
    with h5py.File(out) as file:
        assert "crop_margin_mm" not in file.attrs


def test_sarcoma_refuses_another_grid_and_other_channels(tmp_path):
    folder = make(tmp_path / "set", "CT", "PET", spacing=(4.0, 5.0, 5.0))
    with pytest.raises(DataError, match="no usable result for 3 of 3 cases"):
        prepare_sarcoma(folder, tmp_path / "sts.h5", config=SARCOMA, layout="nnunet")
    folder = make(tmp_path / "other", "CT", "T2")
    with pytest.raises(DataError, match="found the channels CT, T2; expected CT and PET"):
        prepare_sarcoma(folder, tmp_path / "sts.h5", config=SARCOMA, layout="nnunet")
    assert not (tmp_path / "sts.h5").exists()


def test_raseg_makes_arrays(tmp_path):
    out = tmp_path / "datasets"
    folder = make(tmp_path / "set", "after", "before", spacing=(1.0, 2.0, 3.0))
    prepare_raseg(config=RASEG, data=folder, layout="nnunet", out=out)
    volumes = open_volumes(out, RASEG)
    assert volumes.spacing_mm == (2.0, 1.0, 3.0)
    for number, case in enumerate("abc"):
        image = volumes.image(number)
        for channel in range(2):
            expected = voxels(10 * ord(case) + channel).transpose(1, 2, 0)
            np.testing.assert_array_equal(image[..., channel], expected)
        expected = label_of(ord(case) % 3).transpose(1, 2, 0)
        np.testing.assert_array_equal(volumes.label(number), expected)
    assert json.loads((out / "patients.json").read_text())["patients"] == ["a", "b", "c"]
