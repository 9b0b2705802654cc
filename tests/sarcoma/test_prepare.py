"""What is stored, reused and refused; the original's arrays of patches; memory."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from common.errors import DataError
from sarcoma.config import CODE, PORT
from sarcoma.data import find_patients, split_patients
from sarcoma.prepare import prepare
from sarcoma.prepared import INDEX, prepare_cases

BOTH = replace(CODE, modalities=("ct", "pet"))


@pytest.fixture(scope="module")
def patches(golden_dir, tmp_path_factory):
    """The original's arrays, written for the recorded file."""
    folder = tmp_path_factory.mktemp("arrays")
    prepare(
        golden_dir / "sarcoma" / "synthetic_petct.h5", folder / "prepared", config=BOTH,
        patches=folder / "patches",
    )  # fmt: skip
    return folder / "patches"


class TestStore:
    def test_arrays(self, petct, tmp_path):
        patient = find_patients(petct, BOTH)["STS_002"]
        (case,) = prepare_cases([patient], tmp_path, BOTH)
        assert case.arrays["image"].shape == (175, 20, 16, 2)
        assert case.arrays["image"].dtype == np.float32
        assert set(np.unique(case.arrays["label"])) == {0, 1}
        assert case.arrays["window"].tolist() == [53, 63]
        entry = json.loads((tmp_path / INDEX).read_text())["patients"]["STS_002"]
        assert entry["lesion_voxels"] == int(case.arrays["label"].sum())

    def test_by_patient(self, petct, tmp_path):
        """[S30] One mean and deviation for the volume: the height of an uptake is kept."""
        config = replace(BOTH, standardise="patient")
        patient = find_patients(petct, config)["STS_002"]
        (case,) = prepare_cases([patient], tmp_path, config)
        image = np.asarray(case.arrays["image"], np.float64)
        np.testing.assert_allclose(image.mean((0, 1, 2)), 0, atol=1e-4)
        np.testing.assert_allclose(image.std((0, 1, 2)), 1, atol=1e-4)
        with h5py.File(petct) as file:
            raw = file["pet_data/STS_002"][()].astype(np.float64)
        order = np.argsort(raw.ravel())[::500]
        assert (np.diff(image[..., 1].ravel()[order]) >= -1e-6).all()
        by_slice = prepare_cases([patient], tmp_path / "slices", BOTH)[0].arrays["image"]
        deviations = np.asarray(by_slice, np.float64).std((1, 2))
        assert np.allclose(deviations[deviations > 0.5], 1, atol=1e-4)

    def test_reused_while_nothing_changes(self, petct, tmp_path):
        patients = list(find_patients(petct, BOTH).values())[:2]
        prepare_cases(patients, tmp_path, BOTH)
        before = (tmp_path / "STS_002" / "image.npy").stat().st_ino
        prepare_cases(patients, tmp_path, BOTH)
        assert (tmp_path / "STS_002" / "image.npy").stat().st_ino == before
        prepare_cases(patients, tmp_path, replace(BOTH, modalities=("pet",)))
        assert np.load(tmp_path / "STS_002" / "image.npy").shape[-1] == 1

    def test_half_written_patient(self, petct, tmp_path):
        patient = find_patients(petct, BOTH)["STS_002"]
        prepare_cases([patient], tmp_path, BOTH)
        (tmp_path / "STS_002" / "label.npy").write_bytes(b"")
        (case,) = prepare_cases([patient], tmp_path, BOTH)
        assert case.arrays["label"].sum() > 0

    def test_foreign_folder(self, petct, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(DataError, match=r"holds notes.txt but no prepared.json"):
            prepare_cases([find_patients(petct, BOTH)["STS_002"]], tmp_path, BOTH)

    def test_damaged_index(self, petct, tmp_path):
        (tmp_path / INDEX).write_text("{")
        with pytest.raises(DataError, match=r"prepared.json is damaged"):
            prepare_cases([find_patients(petct, BOTH)["STS_002"]], tmp_path, BOTH)

    def test_only_the_table_gives_no_note(self, petct, tmp_path, capsys):
        prepare_cases([find_patients(petct, BOTH)["STS_002"]], tmp_path, BOTH)
        assert "not in the table" not in capsys.readouterr().err


class TestOriginalArrays:
    def test_names_and_shapes(self, patches):
        """[S6] Train and test have names of their own; [S5] the labels exist."""
        shapes = {path.stem: np.load(path, mmap_mode="r") for path in patches.glob("*.npy")}
        count = len(shapes["y_test"])
        assert count == 1708
        for subset in ("train", "test"):
            p = len(shapes[f"y_{subset}"])
            assert shapes[f"ct_{subset}"].shape == (p, 56, 56, 1)
            assert shapes[f"pet_{subset}"].shape == (p, 56, 56, 1)
            assert shapes[f"y_patches_{subset}"].shape == (p, 28, 28, 1)
            assert shapes[f"y_patches_{subset}"].dtype == np.int32
            assert shapes[f"y_{subset}"].mean() == 0.5
        assert len(shapes["y_train"]) > count

    def test_content(self, patches):
        """Label patches go with their image patches: the class is one voxel of them."""
        y, masks = np.load(patches / "y_test.npy"), np.load(patches / "y_patches_test.npy")
        np.testing.assert_array_equal(masks[:, 14, 14, 0], y)


class TestMemory:
    def test_under_a_gibibyte(self, tmp_path):
        """[S19] 163 slices of 100 x 100, both modalities: the original needs 61 GB.

        In a process of its own: pool, order and a hundred patches of a stack of true size.
        """
        script = """
import sys
from pathlib import Path
import numpy as np
from common.data.prepared_store import write_prepared_case
from dataclasses import replace
from sarcoma.config import CODE
from common.cost.memory import peak_memory
from sarcoma.prepare import describe_memory
from sarcoma.sampling import PatchSampler, Stack, make_pool
rng = np.random.default_rng(0)
arrays = {"image": rng.normal(size=(163, 100, 100, 2)).astype("f4"),
          "label": (rng.random((163, 100, 100)) < 0.0126).astype("u1"), "window": [0, 163]}
case = write_prepared_case(Path(sys.argv[1]), "A", arrays)
config = replace(CODE, modalities=("ct", "pet"))
stack = Stack([case], config, slices="window")
sampler = PatchSampler(stack, make_pool(stack, config), config, seed=0)
[sampler(i) for i in range(100)]
print(describe_memory([case], config))
print(peak_memory())
"""
        root = Path(__file__).resolve().parents[2]
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)], cwd=root, text=True, check=True,
            capture_output=True,
        )  # fmt: skip
        said, peak = done.stdout.splitlines()
        assert "all 1630000 patches at once, as in the original, take 61.3 GB" in said
        assert 2**25 < int(peak) < 2**30


def test_small_slices_are_refused(petct, tmp_path):
    """[S26] Before anything is written."""
    with pytest.raises(DataError, match="smaller than the patch"):
        prepare(petct, tmp_path / "out", config=PORT)
    assert not (tmp_path / "out").exists()


def test_split_of_the_port_is_prepared(petct, tmp_path, capsys):
    config = replace(PORT, pad_small_slices=True)
    prepare(petct, tmp_path / "out", config=config)
    out = tmp_path / "out"
    said = f"Prepared patients: 7 in {out}; train uses them with --prepared {out}\n"
    assert said in capsys.readouterr().out
    assert len(split_patients(find_patients(petct, config), config)["training"]) == 4
