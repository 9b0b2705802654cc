"""NIfTI headers: which form counts, what is written back, and what cannot be believed."""

import gzip
import struct

import nibabel
import numpy as np
import psutil
import pytest

from common.data.geometry import Geometry, Volume, check_same_grid
from common.data.volumes import read_geometry, read_volume, write_volume
from common.errors import DataError

AFFINE = np.array([[-0.7, 0, 0, 90], [0, -0.8, 0, 60], [0, 0, 3.3, -20], [0, 0, 0, 1.0]])
ARRAY = np.random.default_rng(0).integers(0, 900, (5, 6, 7)).astype(np.int16)
BYTES = 352 + ARRAY.nbytes
# Where NIfTI-1 keeps what these tests change.
DATATYPE, BITPIX, PIXDIM, VOX_OFFSET, SLOPE, INTERCEPT = 70, 72, 76, 108, 112, 116
UNITS, INTENT, QFORM_CODE, SFORM_CODE, QUATERN_B, SROW_X, MAGIC = 123, 68, 252, 254, 256, 280, 344


def save(path, array=ARRAY, *, sform=(AFFINE, 2), qform=(AFFINE, 1), kind=nibabel.Nifti1Image):
    image = kind(array, None)
    image.set_qform(qform[0], code=qform[1])
    image.set_sform(sform[0], code=sform[1])
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return path


def edit(path, offset, layout, *values):
    content = bytearray(path.read_bytes())
    struct.pack_into(layout, content, offset, *values)
    path.write_bytes(content)
    return path


def refusal(call, *arguments, **options):
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def shifted(*mm):
    moved = AFFINE.copy()
    moved[:3, 3] += mm
    return moved


def lps(affine, index):
    """Where a voxel (x, y, z) lies by a NIfTI matrix, in the coordinates of `Geometry`."""
    return np.diag([-1, -1, 1]) @ (affine @ [*index, 1.0])[:3]


def place(geometry, index):
    direction = np.reshape(geometry.direction, (3, 3)) * geometry.spacing_mm
    return geometry.origin_mm + direction @ index


class TestForms:
    def test_the_sform_counts_where_its_code_says_so(self, tmp_path):
        """ITK prefers the qform: labels lay 47 mm off for every reader of the sform."""
        other = shifted(30, -36, 0)
        path = save(tmp_path / "a.nii.gz", sform=(other, 2), qform=(AFFINE, 1))
        volume = read_volume(path)
        found = place(volume.geometry, [4, 5, 6])
        np.testing.assert_allclose(found, lps(other, [4, 5, 6]), atol=1e-4)
        assert volume.geometry.remarks == (
            "its qform and sform are up to 46.9 mm apart; the sform counts",
        )
        by_qform = save(tmp_path / "b.nii.gz", sform=(other, 0), qform=(AFFINE, 1))
        geometry = read_geometry(by_qform)[1]
        np.testing.assert_allclose(place(geometry, [4, 5, 6]), lps(AFFINE, [4, 5, 6]), atol=1e-4)
        assert geometry.remarks == ()

    @pytest.mark.parametrize("codes", [(2, 1), (1, 0), (0, 3), (0, 0), (4, 4)])
    @pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
    def test_both_forms_are_written_back_as_they_were(self, tmp_path, kind, codes):
        path = tmp_path / "a.nii.gz"
        save(path, sform=(shifted(30, -36, 0), codes[0]), qform=(AFFINE, codes[1]), kind=kind)
        labels = (read_volume(path).array > 400).astype(np.uint8)
        write_volume(tmp_path / "labels.nii.gz", labels, read_geometry(path)[1])
        scan, written = nibabel.load(path), nibabel.load(tmp_path / "labels.nii.gz")
        np.testing.assert_array_equal(written.dataobj, ARRAY > 400)
        np.testing.assert_array_equal(written.affine, scan.affine)
        for name in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
                     "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"):  # fmt: skip
            np.testing.assert_array_equal(written.header[name], scan.header[name], name)
        np.testing.assert_array_equal(written.header["pixdim"][:4], scan.header["pixdim"][:4])
        assert written.header.get_xyzt_units()[0] == "mm"
        assert isinstance(written.header, type(scan.header))

    def test_a_geometry_that_was_changed_is_written_in_both_forms(self, tmp_path):
        geometry = read_geometry(save(tmp_path / "a.nii"))[1]
        moved = Geometry((1.0, 1.0, 1.0), geometry.origin_mm, geometry.direction, geometry.nifti)
        write_volume(tmp_path / "b.nii", ARRAY.T, moved)
        written = nibabel.load(tmp_path / "b.nii").header
        np.testing.assert_allclose(written.get_sform(), written.get_qform(), atol=1e-6)
        assert written.get_zooms() == (1.0, 1.0, 1.0)
        assert read_geometry(tmp_path / "b.nii")[1] == moved

    def test_without_a_position_axes_count_as_stored(self, tmp_path):
        path = save(tmp_path / "a.nii", sform=(AFFINE, 0), qform=(AFFINE, 0))
        shape, geometry = read_geometry(path)
        assert geometry == Geometry(tuple(np.float32([0.7, 0.8, 3.3]).astype(float).tolist()))
        assert "states no position" in geometry.remarks[0]
        check_same_grid((shape, geometry), read_geometry(path), names=("a", "a"))
        placed = read_geometry(save(tmp_path / "b.nii"))
        message = refusal(check_same_grid, placed, (shape, geometry), names=("b.nii", "a.nii"))
        assert "a.nii: it states no position (codes of sform and qform are 0)" in message

    def test_a_size_of_0_beside_an_sform(self, tmp_path):
        """It was read and written as 1 mm."""
        sform = np.diag([-1.25, -1.25, 2.5, 1.0])
        path = save(tmp_path / "a.nii", sform=(sform, 2), qform=(AFFINE, 0))
        edit(path, PIXDIM + 4, "<3f", 0, 0, 0)
        geometry = read_geometry(path)[1]
        assert geometry.spacing_mm == (1.25, 1.25, 2.5)
        write_volume(tmp_path / "b.nii", ARRAY.T, geometry)
        found = nibabel.load(tmp_path / "b.nii")
        np.testing.assert_array_equal(found.affine, sform)

    @pytest.mark.parametrize("size", [-1.25, 0.0, np.nan, np.inf])
    def test_a_size_that_the_qform_needs(self, tmp_path, size):
        """-1.25 was a RuntimeError of ITK's."""
        path = save(tmp_path / "a.nii", sform=(AFFINE, 0))
        edit(path, PIXDIM + 4, "<f", size)
        message = refusal(read_volume, path)
        assert f"found voxels of {size:.4g} x 0.8 x 3.3 (pixdim, x, y, z)" in message
        assert message.endswith("expected sizes above 0")

    def test_a_sheared_grid(self, tmp_path):
        """By 0.07 degrees: the last of 300 voxels is 0.37 of a voxel off. ITK's words meant
        nothing to the reader."""
        array = np.zeros((300, 2, 2), np.uint8)
        for angle, is_refused in ((0.07, True), (0.001, False)):
            sheared = np.eye(4)
            sheared[1, 0] = np.tan(np.radians(angle))
            path = save(tmp_path / "a.nii", array, sform=(sheared, 2), qform=(np.eye(4), 0))
            if is_refused:
                message = refusal(read_volume, path)
                assert "found axes that miss a right angle by 0.07 degrees (corners 0.1" in message
            else:
                assert read_volume(path).array.shape == (2, 2, 300)

    @pytest.mark.parametrize("row", [(0, 0, 0, 0), (np.nan, 0, 0, 0), (1e30, 0, 0, 0)])
    def test_an_sform_that_is_none(self, tmp_path, row):
        path = edit(save(tmp_path / "a.nii"), SROW_X, "<4f", *row)
        assert "a.nii: found the sform" in refusal(read_geometry, path)

    def test_a_quaternion_that_is_none(self, tmp_path):
        path = edit(save(tmp_path / "a.nii", sform=(AFFINE, 0)), QUATERN_B, "<f", 2.0)
        assert "found the qform's quaternion [2.0, " in refusal(read_geometry, path)
        edit(path, SFORM_CODE, "<h", 2)
        assert read_geometry(path)[1].remarks == ("its qform cannot be used; its sform counts",)

    def test_units_are_brought_to_mm(self, tmp_path):
        scan = read_volume(save(tmp_path / "a.nii"))
        scale = np.diag([1e-3, 1e-3, 1e-3, 1.0])
        for code, unit, factor in ((1, "metre", 1e-3), (3, "micrometre", 1e3)):
            small = scale @ AFFINE * [[factor / 1e-3]] if factor < 1 else AFFINE * factor
            small[3] = [0, 0, 0, 1]
            path = save(tmp_path / "b.nii", sform=(small, 2), qform=(small, 1))
            edit(path, UNITS, "<B", code)
            other = read_volume(path)
            check_same_grid(scan, other, names=("a", "b"))
            assert unit in other.geometry.remarks[0]
        assert "the code 5 of a spatial unit" in refusal(read_volume, edit(path, UNITS, "<B", 5))


class TestValues:
    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    def test_both_versions_and_byte_orders(self, tmp_path, version, order, ending):
        """NIfTI-2 was "bad dim[0], expected a whole .nii.gz file"."""
        kind = getattr(nibabel, f"Nifti{version}Image")
        header = kind.header_class(endianness=order)
        header.set_data_dtype(np.dtype("i2").newbyteorder(order))
        nibabel.save(kind(ARRAY, AFFINE, header), tmp_path / f"a{ending}")
        volume = read_volume(tmp_path / f"a{ending}")
        np.testing.assert_array_equal(volume.array, ARRAY.T)
        assert volume.array.dtype == np.int16
        assert volume.array.flags.writeable
        found = place(volume.geometry, [1, 2, 3])
        np.testing.assert_allclose(found, lps(AFFINE, [1, 2, 3]), atol=1e-4)

    @pytest.mark.parametrize(("slope", "used"), [(0, 1), (np.nan, 1), (np.inf, 1), (2.5, 2.5)])
    def test_slope_and_intercept(self, tmp_path, slope, used):
        path = edit(save(tmp_path / "a.nii"), SLOPE, "<2f", slope, -1024)
        expected = ARRAY.T * 2.5 - 1024 if used != 1 else ARRAY.T
        found = read_volume(path).array
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == (np.float64 if used != 1 else np.int16)
        assert "slope 2.5 and intercept nan" in refusal(
            read_volume, edit(path, SLOPE, "<2f", 2.5, np.nan)
        )

    @pytest.mark.parametrize(
        ("code", "name"),
        [(128, "RGB"), (2304, "RGBA"), (32, "complex64"), (1792, "complex128"), (1536, "float128"),
         (1, "binary"), (0, "none"), (999, "code 999")],
    )  # fmt: skip
    def test_voxels_that_are_no_real_numbers(self, tmp_path, code, name):
        """Colours and complex numbers were tracebacks."""
        path = edit(save(tmp_path / "a.nii"), DATATYPE, "<h", code)
        for read in (read_volume, read_geometry):
            assert f"found voxels of the type {name}; expected real" in refusal(read, path)

    def test_colours_of_a_file(self, tmp_path):
        colours = np.zeros((5, 6, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")])
        nibabel.save(nibabel.Nifti1Image(colours, AFFINE), tmp_path / "a.nii.gz")
        assert "found voxels of the type RGB" in refusal(read_volume, tmp_path / "a.nii.gz")

    def test_vectors_are_told_by_their_intent(self, tmp_path):
        path = edit(save(tmp_path / "a.nii"), INTENT, "<h", 1007)
        assert "found the intent 'vector'; expected intensities" in refusal(read_volume, path)
        np.testing.assert_array_equal(
            read_volume(edit(path, INTENT, "<h", 1002)).array, ARRAY.T
        )  # a label

    @pytest.mark.parametrize("offset", [0, 348, 351, 352.5, np.nan, np.inf, -352])
    def test_an_offset_into_the_header(self, tmp_path, offset):
        """With 0 the header's bytes were voxels and all labels 4 voxels off, without a word."""
        path = edit(save(tmp_path / "a.nii"), VOX_OFFSET, "<f", offset)
        assert f"found vox_offset {offset:g}; expected an integer of at least 352" in refusal(
            read_volume, path
        )

    def test_data_behind_extensions(self, tmp_path):
        image = nibabel.Nifti1Image(ARRAY, AFFINE)
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"words" * 9))
        nibabel.save(image, tmp_path / "a.nii")
        np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, ARRAY.T)
        edit(tmp_path / "a.nii", 352, "<i", 10**6)
        assert "extensions of its header are damaged" in refusal(read_volume, tmp_path / "a.nii")

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("change", [-1, 1])
    def test_a_file_of_another_length(self, tmp_path, packed, change):
        path = save(tmp_path / ("a.nii.gz" if packed else "a.nii"))
        content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
        content = content[:-1] if change < 0 else content + b"\0"
        path.write_bytes(gzip.compress(content) if packed else content)
        message = refusal(read_volume, path)
        if change < 0:
            assert f"truncated: found {BYTES - 1} of {BYTES} bytes" in message
        else:
            assert f"found more than the {BYTES} bytes that its header says" in message

    def test_kinds_of_gzip(self, tmp_path):
        """Told by content; several members and padding with zeros are allowed."""
        content = save(tmp_path / "a.nii").read_bytes()
        half = len(content) // 2
        members = gzip.compress(content[:half]) + gzip.compress(content[half:])
        for name, stored in {
            "members.nii.gz": members,
            "padded.nii.gz": gzip.compress(content) + b"\0" * 99,
            "unpacked.nii.gz": content,
            "packed.nii": gzip.compress(content),
            "CAPITALS.NII.GZ": gzip.compress(content, 9),
        }.items():
            (tmp_path / name).write_bytes(stored)
            np.testing.assert_array_equal(read_volume(tmp_path / name).array, ARRAY.T, name)

    def test_a_small_file_that_promises_much(self, tmp_path):
        """Nothing is set aside for 54 TB."""
        path = save(tmp_path / "a.nii")
        edit(path, 42, "<3h", 30000, 30000, 30000)
        assert "truncated: found 772 of 54000000000352 bytes" in refusal(read_volume, path)
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        assert "truncated" in refusal(read_volume, tmp_path / "a.nii.gz")

    @pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
    def test_more_voxels_than_memory(self, tmp_path, ending, monkeypatch):
        """A bomb: packed zeros take a thousandth of what they become."""
        path = tmp_path / f"a{ending}"
        write_volume(path, np.zeros((50, 100, 100), np.int16), Geometry((1, 1, 1)), compress=True)
        assert path.stat().st_size < 10_000
        memory = psutil.virtual_memory()._replace(total=999_999)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
        assert refusal(read_volume, path) == (
            f"{path}: found 1000000 bytes of voxels; expected what fits in memory"
        )
        assert read_geometry(path)[0] == (50, 100, 100)

    @pytest.mark.parametrize(
        ("dim", "found"),
        [
            ((0, 5, 6, 7), "found dim[0] = 0; expected the number of axes, 1 to 7"),
            ((9, 5, 6, 7), "found dim[0] = 9"),
            ((3, 5, 0, 7), "found sizes (x, y, ...) (5, 0, 7)"),
            ((3, 5, -6, 7), "found sizes (x, y, ...) (5, -6, 7)"),
            ((2, 5, 42, 1), "found a scalar 2-D image of size (x, y, ...) (5, 42), expected"),
            ((4, 5, 6, 1, 7), "found a scalar 4-D image of size (x, y, ...) (5, 6, 1, 7)"),
        ],
    )
    def test_sizes(self, tmp_path, dim, found):
        path = edit(save(tmp_path / "a.nii"), 40, f"<{len(dim)}h", *dim)
        for read in (read_volume, read_geometry):
            assert found in refusal(read, path)

    def test_flat_images_and_first_frames(self, tmp_path):
        several = np.arange(5 * 6 * 7 * 3, dtype=np.int16).reshape(5, 6, 7, 3)
        path = save(tmp_path / "four.nii.gz", several)
        np.testing.assert_array_equal(read_volume(path, frames="first").array.T, several[..., 0])
        assert "4-D" in refusal(read_volume, path)
        short = gzip.decompress(path.read_bytes())[:-1]
        path.write_bytes(gzip.compress(short))
        assert "truncated" in refusal(read_volume, path, frames="first")
        flat = save(tmp_path / "flat.nii", several[:, :, 0, 0])
        np.testing.assert_array_equal(read_volume(flat, flat=True).array[0].T, several[:, :, 0, 0])
        assert "2-D" in refusal(read_volume, flat)

    @pytest.mark.parametrize(("magic", "found"), [(b"ni1\0", "a pair"), (b"\0" * 4, "magic")])
    def test_other_kinds_of_header(self, tmp_path, magic, found):
        path = edit(save(tmp_path / "a.nii"), MAGIC, "4s", magic)
        assert found in refusal(read_volume, path)


def test_edges_beyond_version_1_are_written_in_version_2(tmp_path):
    array = np.zeros((1, 1, 40000), np.uint8)
    array[0, 0, 39999] = 7
    write_volume(tmp_path / "a.nii.gz", array, Geometry((1.0, 1.0, 1.0)))
    assert isinstance(nibabel.load(tmp_path / "a.nii.gz"), nibabel.Nifti2Image)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.gz").array, array)


def test_written_files_hold_nothing_of_the_time(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, ARRAY.T, Geometry((1.0, 2.0, 3.0)))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.geometry == Volume(ARRAY.T, Geometry((1.0, 2.0, 3.0))).geometry


@pytest.mark.shared
def test_real_files_that_readers_stumble_over(shared):
    """Colours, four axes in version 2, and a scan whose forms differ in code alone."""
    odd = shared / "data" / "odd"
    for path in sorted((odd / "rgb").glob("*.nii.gz")):
        assert "found voxels of the type RGB" in refusal(read_volume, path)
    path = odd / "nibabel" / "example_nifti2.nii.gz"
    found = read_volume(path, frames="first").array
    np.testing.assert_array_equal(found.T, nibabel.load(path).dataobj[..., 0])
    atlas = shared / "data" / "dhcp_fetal" / "spina_bifida_atlas"
    scans = sorted(atlas.rglob("*srr*.nii.gz"))
    assert scans
    for path in scans[:2]:
        for other in path.parent.glob(path.name.replace("srr", "*")):
            check_same_grid(read_volume(path), read_volume(other), names=(path.name, other.name))
