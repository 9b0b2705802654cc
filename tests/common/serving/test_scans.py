"""Scans as a passport asks for them: axes, orientation, spacing, channels, and the way back."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK

from common.data.geometry import Geometry, orientation_of
from common.data.volumes import write_volume
from common.errors import DataError
from common.export.passport import describe_input
from common.serving.scans import Turn, find_turn, read_mask, read_scan

IDENTITY = Geometry((1.0, 2.0, 3.0))


def entry(**changes):
    options = {"axes": "ZYX", "channels": ["t2"], "intensities": "any", "minimum_size": (1, 1, 1)}
    return describe_input("test", **{**options, **changes})


def write(path, array, geometry=IDENTITY):
    write_volume(path, array, geometry)
    return path


@pytest.fixture
def array():
    return np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)


class TestAxes:
    def test_each_order_and_back(self, tmp_path, array):
        path = write(tmp_path / "scan.nii.gz", array)
        for axes in map("".join, permutations("ZYX")):
            scan = read_scan([path], entry(axes=axes), dtype="float32")
            assert scan.tensor.dtype == np.float32
            place = {"Z": 1, "Y": 2, "X": 3}
            index = tuple(place[letter] for letter in axes)
            assert scan.tensor[index] == array[1, 2, 3]
            np.testing.assert_array_equal(scan.back(scan.tensor), array)

    def test_channels_last_and_classes_last(self, tmp_path, array):
        paths = [write(tmp_path / "a.mha", array), write(tmp_path / "b.mha", array + 500)]
        scan = read_scan(paths, entry(axes="YXZC", channels=["ct", "pet"]), dtype="float32")
        assert scan.tensor.shape == (5, 6, 4, 2)
        assert scan.tensor[2, 3, 1].tolist() == [array[1, 2, 3], array[1, 2, 3] + 500]
        np.testing.assert_array_equal(scan.back(scan.tensor), np.stack([array, array + 500], -1))


class TestOrientation:
    def test_names_by_hand(self):
        assert orientation_of(IDENTITY) == "LPS"
        flipped = Geometry((1, 1, 1), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
        assert orientation_of(flipped) == "RAS"
        # x runs to the back, y downwards, z to the left.
        swapped = Geometry((1, 1, 1), direction=(0, 0, 1, 1, 0, 0, 0, -1, 0))
        assert orientation_of(swapped) == "PIL"
        with pytest.raises(DataError, match="three clear axes"):
            orientation_of(Geometry((1, 1, 1), direction=(1, 0.9, 0, 0.1, 0.2, 0, 0, 0.2, 1)))

    def test_every_orientation_is_turned_as_simpleitk_does_and_back(self, tmp_path, array):
        source = SimpleITK.GetImageFromArray(array)
        source.SetSpacing((1.0, 2.0, 3.0))
        for order in permutations("LPS"):
            for flips in product((False, True), repeat=3):
                opposite = {"L": "R", "P": "A", "S": "I"}
                code = "".join(opposite[a] if f else a for a, f in zip(order, flips, strict=True))
                stored = SimpleITK.DICOMOrient(source, code)
                path = tmp_path / "scan.nrrd"
                SimpleITK.WriteImage(stored, str(path))
                scan = read_scan([path], entry(orientation="LPS"), dtype="int16", reorient=True)
                np.testing.assert_array_equal(scan.tensor, array, err_msg=code)
                back = scan.back(scan.tensor)
                np.testing.assert_array_equal(back, SimpleITK.GetArrayFromImage(stored), code)

    def test_another_orientation_is_refused_unless_it_may_be_turned(self, tmp_path):
        geometry = Geometry((1, 1, 1), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
        with pytest.raises(
            DataError, match=r"found the orientation RAS; expected LPS .*--reorient"
        ):
            find_turn(tmp_path, geometry, "LPS", reorient=False)
        assert find_turn(tmp_path, geometry, "as stored", reorient=False) == Turn()

    def test_spacing_is_that_of_the_turned_axes(self, tmp_path, array):
        # Stored with x to the back: its 1 mm are the model's y.
        direction = (0, 1, 0, 1, 0, 0, 0, 0, 1)
        path = write(tmp_path / "scan.nrrd", array, Geometry((1, 2, 3), direction=direction))
        wanted = entry(orientation="LPS", spacing_mm=(3, 1, 2), spacing_tolerance=0.01)
        assert read_scan([path], wanted, dtype="float32", reorient=True).tensor.shape == (4, 6, 5)


class TestMask:
    @pytest.mark.parametrize(
        ("value", "dtype"), [(65535, "uint16"), (0.5, "float32"), (32768, "int32"), (1, "uint8")]
    )
    def test_what_is_not_zero_is_inside(self, tmp_path, array, value, dtype):
        """65535 became -1 as int16 and 0.5 nothing at all."""
        path = write(tmp_path / "scan.nii.gz", array)
        region = np.zeros(array.shape, dtype)
        region[1, 2:4, 3] = value
        mask = write(tmp_path / "roi.nii.gz", region)
        scan = read_scan([path], entry(axes="XYZ"), dtype="float32")
        found = read_mask(mask, scan, path, dtype="int16")
        expected = np.zeros((6, 5, 4), np.int16)
        expected[3, 2:4, 1] = 1
        assert found.dtype == np.int16
        np.testing.assert_array_equal(found, expected)

    def test_an_empty_mask_is_refused(self, tmp_path, array):
        path = write(tmp_path / "scan.nii.gz", array)
        scan = read_scan([path], entry(axes="XYZ"), dtype="float32")
        mask = write(tmp_path / "roi.nii.gz", np.zeros(array.shape, np.uint8))
        with pytest.raises(DataError, match="found nothing in the mask"):
            read_mask(mask, scan, path, dtype="int16")


class TestRefusals:
    def refuse(self, paths, message, **changes):
        with pytest.raises(DataError, match=message):
            read_scan(paths, entry(**changes), dtype="float32")

    def test_wrong_number_of_channels(self, tmp_path, array):
        path = write(tmp_path / "a.nii", array)
        self.refuse(
            [path], "found 1 scan; the model expects 2 scans, in this order: ct, pet",
            axes="ZYXC", channels=["ct", "pet"],
        )  # fmt: skip
        self.refuse([path, path], "found 2 scans; the model expects 1 scan: t2")

    def test_channels_on_two_grids(self, tmp_path, array):
        paths = [write(tmp_path / "a.nii", array), write(tmp_path / "b.nii", array[:-1])]
        self.refuse(paths, "expected one voxel grid", axes="ZYXC", channels=["ct", "pet"])

    def test_spacing(self, tmp_path, array):
        path = write(tmp_path / "a.nii", array)
        self.refuse(
            [path], r"found voxels of 3 x 2 x 1 mm \(z, y, x\); expected 3 x 2 x 2 mm within 5\.0%",
            spacing_mm=(3, 2, 2), spacing_tolerance=0.05,
        )  # fmt: skip

    def test_size(self, tmp_path, array):
        path = write(tmp_path / "a.nii", array)
        self.refuse([path], r"found 4 x 5 x 6 voxels \(z, y, x\); expected at least 4 x 5 x 7",
                    minimum_size=(4, 5, 7))  # fmt: skip
        self.refuse([path], "expected at most 3 x 9 x 9", maximum_size=(3, 9, 9))

    def test_intensities(self, tmp_path, array):
        path = write(tmp_path / "a.nii", array - 1)
        self.refuse([path], "found intensities from -1 to 118; expected 0 to 65535",
                    intensity_range=(0, 65535))  # fmt: skip

    def test_no_scan_at_all(self, tmp_path, array):
        self.refuse([tmp_path / "none.nii.gz"], "cannot be read")
        self.refuse([write(tmp_path / "flat.nii", np.zeros((3, 3, 3), np.int16))], "every voxel")
        broken = array.astype(np.float32)
        broken[0, 0, 0] = np.nan
        self.refuse([write(tmp_path / "nan.mha", broken)], "NaN or infinite")
        SimpleITK.WriteImage(SimpleITK.Image([5, 5], SimpleITK.sitkInt16), str(tmp_path / "d.mha"))
        self.refuse([tmp_path / "d.mha"], "2-D image .* expected a scalar 3-D volume")
