"""VerSe's layout: the same spines, laid and labelled as that data set does, prepare alike."""

import numpy as np
import pytest
import SimpleITK

from common.cli import main
from common.data.geometry import Geometry, Volume
from common.data.volumes import read_volume
from common.errors import DataError
from vertebra.config import QUICK
from vertebra.inspection import inspect_dataset
from vertebra.phantom import phantom
from vertebra.verse import UPWARDS, find_verse_cases, label_upwards

NAMES = ("sub-gl003_dir-ax", "sub-verse004", "sub-verse401_split-verse253")


def lay_as_verse(spines, root):
    """Write phantoms as VerSe lays them: two trees, labels downwards, axes P, I, R."""
    for number, name in enumerate(NAMES, start=1):
        scan = SimpleITK.ReadImage(str(spines / f"case{number}.mhd"))
        labels = SimpleITK.ReadImage(str(spines / f"case{number}_label.mhd"))
        array = SimpleITK.GetArrayFromImage(labels) // 100  # 1 is the lowest
        table = np.array([0, *UPWARDS[1:]], np.uint8)  # from L5 on
        array = table[array]
        array[0, :3] = 26
        mask = SimpleITK.GetImageFromArray(array)
        mask.CopyInformation(labels)
        subject = name.partition("_")[0]
        for kind, image, ending in (
            ("rawdata", scan, "ct"), ("derivatives", mask, "seg-vert_msk"),
        ):  # fmt: skip
            folder = root / "dataset-verse19training" / kind / subject
            folder.mkdir(parents=True)
            turned = SimpleITK.DICOMOrient(image, "PIR")
            SimpleITK.WriteImage(turned, str(folder / f"{name}_{ending}.nii.gz"))


@pytest.fixture
def spines(tmp_path):
    phantom(tmp_path / "spines", cases=3, shape=(40, 60, 50), spacing_mm=(2.0, 2.0, 2.0))
    lay_as_verse(tmp_path / "spines", tmp_path / "verse")
    return tmp_path


def test_verse_prepares_as_csi(spines, monkeypatch):
    monkeypatch.chdir(spines)
    words = ["prepare", "--preset", "quick", "--output_isotropic"]
    assert main("vertebra", argv=[*words, "i1", "--output_crop", "a", "--dataset", "spines"]) == 0
    verse = ["--dataset", "verse", "--layout", "verse"]
    assert main("vertebra", argv=[*words, "i2", "--output_crop", "b", *verse]) == 0
    for number, name in enumerate(NAMES, start=1):
        subset = "test" if number == 3 else "train"
        pairs = [
            [read_volume(spines / tree / subset / kind / f"{stem}{ending}.mhd").array
             for tree, stem in (("a", f"case{number}"), ("b", f"case{number}_{name}"))]
            for kind, ending in (("img", ""), ("seg", "_label"))
        ]  # fmt: skip
        (image, turned), (labels, renumbered) = pairs
        # Interpolated along reordered axes, an intensity may be rounded the other way.
        assert np.abs(image.astype(int) - turned).max() <= 1
        assert np.array_equal(labels // 100, np.maximum(renumbered.astype(int) - 1, 0))


def test_missing_masks_and_foreign_labels_are_found_together(spines):
    base = spines / "verse" / "dataset-verse19training" / "derivatives"
    (base / "sub-gl003" / "sub-gl003_dir-ax_seg-vert_msk.nii.gz").unlink()
    path = base / "sub-verse004" / "sub-verse004_seg-vert_msk.nii.gz"
    image = SimpleITK.ReadImage(str(path))
    image[1, 1, 1] = 99
    SimpleITK.WriteImage(image, str(path))
    inspection = inspect_dataset(spines / "verse", QUICK, spines, layout="verse")
    first, second, third = inspection.entries
    assert "has no labels; expected" in first.faults[0]
    assert first.facts["size (z, y, x)"] == "50 x 40 x 60"
    assert "found the label 99; expected VerSe's, 1 to 28" in second.faults[0]
    assert third.verdict == "ok"
    with pytest.raises(DataError, match="has no labels"):
        find_verse_cases(spines / "verse")


def test_order_of_the_labels():
    """C1 is the highest, T13 lies between T12 and L1, the sacrum is none."""
    c1, t12, t13, l1, sacrum = 1, 19, 28, 20, 26
    labels = np.array([[[0, sacrum, l1, t13, t12, c1]]], np.int16)
    renumbered = label_upwards(Volume(labels, Geometry((1.0, 1.0, 1.0))), "mask").array
    assert renumbered.tolist() == [[[0, 0, 6, 7, 8, 26]]]
