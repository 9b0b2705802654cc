"""Reading, standardising and windows against the original's; and every way a file can be wrong."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import tensorflow as tf

from common.errors import DataError, OptionError
from sarcoma.config import CODE, PORT, POSITIVE_SLICES
from sarcoma.data import (
    LoadedPatient,
    Patient,
    find_patients,
    find_window,
    load_patient,
    prepare_patient,
    split_patients,
    standardise,
    standardise_slices,
)
from sarcoma.inference import standardise as standardise_in_graph
from sarcoma.inspection import inspect_file

SHAPE = (4, 60, 58)


def write_file(path, *, leave_out=(), shapes=None, patients=("A", "B")):
    """A small valid file, less some of its datasets, with other shapes where named."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for group in ("ct_data", "pet_data", "label_data"):
            if group in leave_out:
                continue
            file.create_group(group)
            for patient in patients:
                name = f"{group}/{patient}"
                if name not in leave_out:
                    volume = rng.normal(size=(shapes or {}).get(name, SHAPE))
                    if group == "label_data":
                        volume = 2 * (volume > 2)
                    file[name] = volume
    return path


class TestGolden:
    def test_slices(self, petct, golden):
        """163 and 43 slices, in the patients' order."""
        recorded, patients = golden("preprocess"), find_patients(petct, CODE)
        split = split_patients(patients, CODE)
        for subset, name in (("training", "train"), ("test", "test")):
            index = []
            for patient in split[subset]:
                window = find_window(patient, load_patient(patient, ()).label)
                index += [[patient.id, str(z)] for z in range(*window)]
            assert index == recorded[f"{name}_index"].tolist()

    @pytest.mark.parametrize("modality", ["ct", "pet"])
    @pytest.mark.parametrize("subset", ["training", "test"])
    def test_standardised(self, petct, golden, modality, subset):
        """2.4e-7 was measured."""
        recorded = golden("preprocess")
        slices = []
        for patient in split_patients(find_patients(petct, CODE), CODE)[subset]:
            loaded = load_patient(patient, (modality,))
            start, stop = find_window(patient, loaded.label)
            slices.append(standardise_slices(loaded.images[modality])[start:stop])
        stacked = np.concatenate(slices)
        key = f"norm/{modality}_{'train' if subset == 'training' else 'test'}"
        np.testing.assert_allclose(
            stacked[recorded[f"{key}/idx"]][..., None], recorded[f"{key}/val"], atol=1e-5
        )
        means = stacked.astype(np.float64).mean((1, 2))
        np.testing.assert_allclose(means, recorded[f"{key}/mean"], atol=1e-5)
        deviations = stacked.astype(np.float64).std((1, 2))
        np.testing.assert_allclose(deviations, recorded[f"{key}/std"], atol=1e-5)

    @pytest.mark.parametrize(
        "case",
        ["const_5", "zeros", "tiny_std", "one_hot", "ct_like", "normal", "offset", "int_like"],
    )
    def test_standardising(self, golden, case):
        """At most 9.5e-7 was measured, 2.6e-5 for data with a large offset."""
        recorded = golden("preprocess")
        found = standardise_slices(recorded[f"std/{case}/in"][None, ..., 0])[0]
        atol = 1e-3 if case == "offset" else 1e-5
        np.testing.assert_allclose(found, recorded[f"std/{case}/out"][..., 0], atol=atol)

    def test_windows_are_the_slices_with_labels(self, petct):
        for patient in find_patients(petct, CODE).values():
            label = load_patient(patient, ()).label
            found = np.flatnonzero(label.any(axis=(1, 2)))
            assert (found[0], found[-1] + 1) == POSITIVE_SLICES[patient.id]


class TestLabels:
    def test_any_positive_value_is_lesion(self, tmp_path):
        """[S29] The true labels are probably 0 and 2, with 1 at edges."""
        path = write_file(tmp_path / "a.h5", patients=("A",))
        with h5py.File(path, "a") as file:
            del file["label_data/A"]
            file["label_data/A"] = np.zeros(SHAPE, "f4")
            file["label_data/A"][1, 2, 3:6] = [1, 2, 0.5]
        label = load_patient(find_patients(path, PORT)["A"], ()).label
        assert label.sum() == 3
        assert label.dtype == bool

    @pytest.mark.parametrize("dtype", ["i2", "u1", "f4", "f8", "?"])
    def test_any_number_type(self, tmp_path, dtype):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            for group in ("ct_data", "pet_data", "label_data"):
                file[f"{group}/A"] = np.ones(SHAPE, dtype)
        loaded = load_patient(find_patients(path, PORT)["A"], ("ct", "pet"))
        assert not standardise_slices(loaded.images["ct"]).any()

    def test_window_of_an_unknown_patient(self, tmp_path, capsys):
        """Computed from the labels, and said so."""
        label = np.zeros(SHAPE, bool)
        label[1:3, 4, 4] = True
        patient = Patient("STS_999", tmp_path / "a.h5", SHAPE)
        assert find_window(patient, label) == (1, 3)
        said = capsys.readouterr().err
        assert "STS_999 is not in the table of windows" in said
        assert "slices 1 to 2 were computed from its labels" in said

    def test_unknown_patient_without_lesion(self, tmp_path):
        patient = Patient("STS_999", tmp_path / "a.h5", SHAPE)
        with pytest.raises(DataError, match=r"STS_999 .* no lesion voxels"):
            find_window(patient, np.zeros(SHAPE, bool))

    def test_the_table_is_of_the_papers_slices_alone(self, tmp_path, capsys):
        """Another file of the same patient, cropped or reversed, has its lesion elsewhere."""
        label = np.zeros((70, 60, 58), bool)
        label[5:30, 4, 4] = True
        patient = Patient("STS_002", tmp_path / "a.h5", label.shape)
        assert find_window(patient, label) == (5, 30)
        said = capsys.readouterr().err
        assert "STS_002 has its lesion in other slices than the paper's (53 to 62)" in said
        assert "slices 5 to 29 were computed from its labels" in said
        label[:] = False
        label[53:63, 4, 4] = True
        assert find_window(patient, label) == (53, 63)
        assert not capsys.readouterr().err

    def test_uptake_in_small_units(self):
        """Of a whole patient, any unit has deviation 1; slices keep the original's floor."""
        pet = np.random.default_rng(0).gamma(2.0, 1.0, SHAPE)
        loaded = LoadedPatient({"pet": pet * 1e-6}, None)
        config = replace(PORT, modalities=("pet",))
        found = prepare_patient(loaded, config)
        assert found.std() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(found[..., 0], standardise(pet), atol=1e-5)
        in_graph = standardise_in_graph(tf.constant(pet[..., None] * 1e-6, tf.float32), config)
        np.testing.assert_allclose(in_graph, found, atol=1e-5)
        by_slice = prepare_patient(loaded, replace(config, standardise="slice"))
        expected = (pet[0] - pet[0].mean()) * 1e-6 * np.sqrt(pet[0].size)
        np.testing.assert_allclose(by_slice[0, ..., 0], expected, atol=1e-6)


@pytest.mark.parametrize("place", ["", "ct_data/"])
def test_names_that_are_no_text_are_refused(tmp_path, place):
    """HDF5 gives them as bytes, which cannot be sorted among texts."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for group in ("ct_data", "pet_data"):
            file[f"{group}/A"] = np.zeros((2, 60, 60))
        file[place.encode() + b"label_da\xff\xff"] = np.zeros((2, 60, 60))
    with pytest.raises(DataError, match=r"a\.h5(: id 'label_da| has no group label_data)"):
        find_patients(path, PORT, labels_required=not place)


class TestBadInput:
    @pytest.mark.parametrize("group", ["ct_data", "pet_data", "label_data"])
    def test_missing_group(self, tmp_path, group):
        path = write_file(tmp_path / "a.h5", leave_out=(group,))
        with pytest.raises(DataError, match=f"a.h5 has no group {group}; found") as refusal:
            find_patients(path, PORT)
        assert "\n" not in str(refusal.value)

    def test_unused_group_may_be_missing(self, tmp_path):
        path = write_file(tmp_path / "a.h5", leave_out=("pet_data",))
        assert list(find_patients(path, replace(PORT, modalities=("ct",)))) == ["A", "B"]

    def test_labels_may_be_missing_at_prediction(self, tmp_path):
        path = write_file(tmp_path / "a.h5", leave_out=("label_data",))
        patients = find_patients(path, PORT, labels_required=False)
        assert load_patient(patients["A"], ("ct",)).label is None

    @pytest.mark.parametrize("group", ["ct_data", "pet_data", "label_data"])
    def test_patient_missing_in_one_group(self, tmp_path, group):
        path = write_file(tmp_path / "a.h5", leave_out=(f"{group}/B",))
        with pytest.raises(DataError, match=f"patient B is missing in the group {group}"):
            find_patients(path, PORT)

    @pytest.mark.parametrize("group", ["pet_data", "label_data"])
    def test_shapes_differ(self, tmp_path, group):
        path = write_file(tmp_path / "a.h5", shapes={f"{group}/A": (5, 60, 58)})
        with pytest.raises(DataError, match=rf"patient A has \(5, 60, 58\) voxels in {group} but"):
            find_patients(path, PORT)

    def test_no_hdf5_file(self, tmp_path):
        path = tmp_path / "a.h5"
        path.write_text("no HDF5")
        with pytest.raises(DataError, match=r"a\.h5 cannot be read; expected an HDF5 file"):
            find_patients(path, PORT)

    def test_truncated_file(self, tmp_path):
        path = write_file(tmp_path / "a.h5")
        path.write_bytes(path.read_bytes()[:9000])
        with pytest.raises(DataError, match=r"a\.h5 cannot be read; expected an HDF5 file"):
            find_patients(path, PORT)

    def test_damaged_tree_of_groups(self, tmp_path):
        """The library says RuntimeError, where it meets the damage."""
        path = write_file(tmp_path / "a.h5")
        path.write_bytes(path.read_bytes().replace(b"SNOD", b"snod"))
        with pytest.raises(DataError, match=r"a\.h5 is damaged: Unable to"):
            find_patients(path, PORT)

    @pytest.mark.parametrize(
        ("kind", "said"),
        [
            ("link", "/ct_data/A is a link to another file"),
            ("detour", "/ct_data/A is a link to another file"),
            ("group", r"a\.h5: /ct_data is a link to another file; expected the data"),
            ("external", "/ct_data/A reads other files"),
            ("virtual", "/ct_data/A reads other files"),
            ("huge", r"/ct_data/A has shape \(100000, 100000, 100000\), but hardly any data"),
        ],
    )
    def test_data_outside_the_file(self, tmp_path, kind, said):
        """Nothing of another file comes back as voxels, and no header takes memory."""
        path, shape = write_file(tmp_path / "a.h5"), (5, 60, 60)
        listed = find_patients(path, PORT)["A"]
        (tmp_path / "secret").write_bytes(b"x" * 5 * 60 * 60)
        with h5py.File(path, "r+") as file:
            del file["ct_data/A"]
            group = file["ct_data"]
            if kind == "link":
                group["A"] = h5py.ExternalLink(str(path), "/pet_data/A")
            elif kind in ("detour", "group"):
                other = write_file(tmp_path / "other.h5")
                file["other"] = h5py.ExternalLink(str(other), "/ct_data")
                group["A"] = h5py.SoftLink("/other/A")
                if kind == "group":
                    del file["ct_data"]
                    file.move("other", "ct_data")
            elif kind == "external":
                raw = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
                group.create_dataset("A", shape, "u1", external=raw)
            elif kind == "virtual":
                layout = h5py.VirtualLayout(shape, "f4")
                layout[:] = h5py.VirtualSource(str(path), "pet_data/A", shape)
                group.create_virtual_dataset("A", layout)
            else:
                group.create_dataset("A", (100_000,) * 3, "f4", chunks=(8, 8, 8))
        with pytest.raises(DataError, match=said):
            find_patients(path, PORT)
        with pytest.raises(DataError, match=said):
            load_patient(listed, ("ct",))

    def test_absent_file(self, tmp_path):
        with pytest.raises(DataError, match="does not exist"):
            find_patients(tmp_path / "a.h5", PORT)

    def test_empty_group(self, tmp_path):
        path = write_file(tmp_path / "a.h5", patients=())
        with pytest.raises(DataError, match="the group ct_data is empty"):
            find_patients(path, PORT)

    def test_not_a_volume(self, tmp_path):
        path = write_file(tmp_path / "a.h5", shapes={"ct_data/A": (60, 58)})
        with pytest.raises(DataError, match="ct_data/A is no volume"):
            find_patients(path, PORT)

    def test_not_a_number(self, tmp_path):
        path = write_file(tmp_path / "a.h5")
        with h5py.File(path, "a") as file:
            file["ct_data/A"][0, 0, 0] = np.nan
        with pytest.raises(DataError, match="ct_data/A holds NaN"):
            load_patient(find_patients(path, PORT)["A"], ("ct",))

    def test_patch_larger_than_the_slice(self, petct):
        """[S26] Refused by the port; the code surrounds small slices with zeros."""
        with pytest.raises(DataError, match="are 20 x 16 pixels, smaller than the patch of 56"):
            find_patients(petct, PORT)
        assert len(find_patients(petct, replace(PORT, pad_small_slices=True))) == 7

    @pytest.mark.parametrize("modalities", [(), ("mr",), ("ct", "ct")])
    def test_modalities(self, petct, modalities):
        with pytest.raises(OptionError, match="expected ct, pet or both"):
            find_patients(petct, replace(CODE, modalities=modalities))


class TestSplit:
    def test_presets(self, petct):
        """[S2] The code trains on all but the test patients; the port holds one back."""
        patients = find_patients(petct, CODE)
        assert [p.id for p in split_patients(patients, CODE)["training"]] == [
            "STS_002", "STS_005", "STS_021", "STS_023", "STS_031",
        ]  # fmt: skip
        split = split_patients(patients, PORT)
        assert [p.id for p in split["validation"]] == ["STS_031"]
        ids = [p.id for cases in split.values() for p in cases]
        assert sorted(ids) == sorted(POSITIVE_SLICES)

    def test_a_patient_twice(self, petct):
        wrong = replace(CODE, validation_patients=("STS_002",))
        with pytest.raises(OptionError, match="training_patients and validation_patients"):
            split_patients(find_patients(petct, CODE), wrong)

    def test_a_patient_that_is_not_there(self, petct):
        with pytest.raises(DataError, match="STS_777 of test_patients is not in the file"):
            split_patients(find_patients(petct, CODE), replace(CODE, test_patients=("STS_777",)))

    def test_nobody_to_train_on(self, petct):
        with pytest.raises(OptionError, match="training_patients is empty"):
            split_patients(find_patients(petct, CODE), replace(CODE, training_patients=()))


@pytest.mark.parametrize("name", ["a\nb", ".a", "a" * 201])
def test_an_id_that_cannot_name_a_file_is_refused(tmp_path, name):
    """It would name label maps and folders; `prepare --check` says the same."""
    path = write_file(tmp_path / "data.h5", patients=("A", name))
    with pytest.raises(DataError, match="cannot name a file") as refusal:
        find_patients(path, PORT)
    (faulty,) = (e for e in inspect_file(path, PORT, tmp_path).entries if e.faults)
    assert faulty.faults == [str(refusal.value)]


def test_noise_in_labels_is_no_lesion_and_nan_is_refused(tmp_path):
    """1e-12 beside the lesion made the whole volume a lesion; NaN passed `prepare` unseen."""
    path = write_file(tmp_path / "data.h5")
    with h5py.File(path, "a") as file:
        label = file["label_data/A"][()].astype(float)
        del file["label_data/A"]
        file["label_data/A"] = label + 1e-12
    patient = find_patients(path, PORT)["A"]
    np.testing.assert_array_equal(load_patient(patient, ("ct",)).label, label > 0)
    assert 0 < (label > 0).mean() < 0.1
    with h5py.File(path, "a") as file:
        file["label_data/A"][0, 0, 0] = np.nan
    with pytest.raises(DataError, match="label_data/A: found NaN or infinite voxels") as refusal:
        load_patient(patient, ("ct",))
    (faulty,) = (e for e in inspect_file(path, PORT, tmp_path).entries if e.faults)
    assert faulty.faults == [str(refusal.value)]
