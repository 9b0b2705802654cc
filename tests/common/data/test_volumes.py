import gzip
import hashlib
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import nibabel
import numpy as np
import pytest
import SimpleITK

from common.data.geometry import Geometry, Volume, check_same_grid
from common.data.volumes import files_of, read_geometry, read_volume, write_volume
from common.errors import DataError
from common.files import sha256_of

ROOT = Path(__file__).resolve().parents[3]
ENDINGS = [".nii", ".nii.gz", ".mha", ".mhd", ".nrrd"]
SHAPE = (6, 20, 30)
STORED_TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64"]


def turned_about_two_axes():
    """Direction cosines of an oblique stack, row-major."""
    a, b = 0.3, 0.5
    about_z = [[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]
    about_x = [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    return tuple((np.array(about_z) @ about_x).ravel().tolist())


OBLIQUE = Geometry(
    spacing_mm=(0.7, 0.8, 3.3),
    origin_mm=(-12.34567, 145.6, 7.8),
    direction=turned_about_two_axes(),
)


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def refused(*parts):
    """A DataError of one line, which holds all parts."""
    with pytest.raises(DataError) as error:
        yield
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


@pytest.mark.parametrize("ending", ENDINGS)
def test_round_trip(tmp_path, array, ending):
    """NIfTI keeps float32: measured 2.1e-8 in direction, 4.8e-8 mm in spacing, 6e-6 in origin."""
    path = tmp_path / f"case.1{ending}"
    write_volume(path, array, OBLIQUE)
    volume = read_volume(path)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, array)
    exact = not ending.startswith(".nii")
    for name in ("spacing_mm", "origin_mm", "direction"):
        np.testing.assert_allclose(
            getattr(volume.geometry, name),
            getattr(OBLIQUE, name),
            rtol=1e-15 if exact else 1e-6,
            atol=1e-15 if exact else 1e-6,
        )
    assert read_geometry(path) == (array.shape, volume.geometry)
    check_same_grid(volume, Volume(array, OBLIQUE), names=("read", "written"))
    expected = ["case.1.mhd", "case.1.raw"] if ending == ".mhd" else [path.name]
    assert names_in(tmp_path) == expected


def test_orders_of_axes(tmp_path):
    """SimpleITK's own view of the file: size and spacing (x, y, z), voxel indices [x, y, z]."""
    array = np.zeros((2, 3, 4), np.uint8)
    array[1, 2, 3] = 7
    write_volume(tmp_path / "a.nii.gz", array, Geometry(spacing_mm=(0.5, 0.6, 3.0)))
    image = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    assert image.GetSize() == (4, 3, 2)
    assert image[3, 2, 1] == 7
    assert image.GetSpacing() == pytest.approx((0.5, 0.6, 3.0))
    volume = read_volume(tmp_path / "a.nii.gz")
    assert volume.spacing_zyx_mm == pytest.approx((3.0, 0.6, 0.5))


def test_world_coordinates_seen_by_nibabel(tmp_path, array):
    """An independent reader: NIfTI has x and y with the opposite sign."""
    write_volume(tmp_path / "a.nii.gz", array, OBLIQUE)
    affine = nibabel.load(tmp_path / "a.nii.gz").affine
    turned = np.reshape(OBLIQUE.direction, (3, 3)) * OBLIQUE.spacing_mm
    expected = np.diag([-1, -1, 1]) @ np.column_stack([turned, OBLIQUE.origin_mm])
    np.testing.assert_allclose(affine[:3], expected, atol=1e-4)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", STORED_TYPES)
def test_types_are_kept(tmp_path, dtype, ending):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_volume(tmp_path / f"a{ending}", array, OBLIQUE)
    stored = read_volume(tmp_path / f"a{ending}").array
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, array)


@pytest.mark.parametrize(
    ("array", "stored"),
    [
        (np.array([[[True, False]]]), "uint8"),
        (np.array([[[-5, 2**31 - 1]]]), "int32"),
        (np.array([[[0, 2**31]]]), "int64"),
        (np.array([[[0.5, 2]]], np.float16), "float32"),
        (np.array([[[-2, 300]]], ">i2"), "int16"),
        (np.arange(24, dtype=np.int16).reshape(2, 3, 4).T[:, ::2], "int16"),
    ],
)
def test_types_that_change(tmp_path, array, stored):
    write_volume(tmp_path / "a.nii.gz", array, OBLIQUE)
    found = read_volume(tmp_path / "a.nii.gz").array
    assert found.dtype == stored
    np.testing.assert_array_equal(found, array)


def test_types_asked_for(tmp_path):
    whole, broken = np.full((2, 3, 4), 3.0, np.float32), np.full((2, 3, 4), 300.5, np.float32)
    write_volume(tmp_path / "whole.nii.gz", whole, OBLIQUE)
    write_volume(tmp_path / "broken.nii.gz", broken, OBLIQUE)
    assert read_volume(tmp_path / "whole.nii.gz", np.uint8).array.dtype == np.uint8
    assert read_volume(tmp_path / "broken.nii.gz", np.float64).array[0, 0, 0] == 300.5
    for dtype in (np.int32, np.uint8):
        with refused("broken.nii.gz", "300.5", np.dtype(dtype).name):
            read_volume(tmp_path / "broken.nii.gz", dtype)


def test_out_of_range_and_nan_are_no_integers(tmp_path):
    for name, value in {"large": 256.0, "nan": np.nan, "infinite": np.inf}.items():
        path = tmp_path / f"{name}.mha"
        write_volume(path, np.full((2, 2, 2), value, np.float32), OBLIQUE)
        with pytest.raises(DataError, match="expected integers in uint8"):
            read_volume(path, np.uint8)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".nrrd"])
def test_four_dimensions(tmp_path, array, ending):
    image = SimpleITK.GetImageFromArray(array)
    image.SetDirection(OBLIQUE.direction)
    for frames in (1, 2):
        series = SimpleITK.JoinSeries([image] * frames)
        SimpleITK.WriteImage(series, str(tmp_path / f"{frames}{ending}"))
    volume = read_volume(tmp_path / f"1{ending}")
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.geometry.direction, OBLIQUE.direction, atol=1e-6)
    for read in (read_volume, read_geometry):
        with refused(f"2{ending}", "4-D", "(30, 20, 6, 2)", "scalar 3-D"):
            read(tmp_path / f"2{ending}")


def test_vector_and_flat_images(tmp_path, array):
    image = SimpleITK.GetImageFromArray(array)
    SimpleITK.WriteImage(SimpleITK.Compose([image, image]), str(tmp_path / "vector.mha"))
    SimpleITK.WriteImage(image[:, :, 0], str(tmp_path / "flat.mha"))
    with refused("vector.mha", "2-component"):
        read_volume(tmp_path / "vector.mha")
    with refused("flat.mha", "2-D", "(30, 20)"):
        read_volume(tmp_path / "flat.mha")


def test_one_slice(tmp_path, array):
    write_volume(tmp_path / "a.nii.gz", array[:1], OBLIQUE)
    assert read_volume(tmp_path / "a.nii.gz").array.shape == (1, 20, 30)


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.1, 0.5, 0.95, -1])
@pytest.mark.parametrize("ending", ENDINGS)
def test_truncated(tmp_path, array, ending, kept, capfd):
    """SimpleITK alone returns a truncated NIfTI volume as if it were whole."""
    path = tmp_path / f"a{ending}"
    write_volume(path, array, OBLIQUE)
    data = path.with_suffix(".raw") if ending == ".mhd" else path
    content = data.read_bytes()
    data.write_bytes(content[: int(len(content) * kept) if kept >= 0 else -1])
    with refused(path, "cannot be read", f"expected a whole {ending} file"):
        read_volume(path)
    assert capfd.readouterr().err == ""


def test_damaged_within(tmp_path, capfd):
    """One bit of the compressed data: checksums tell, SimpleITK goes on for NIfTI and MetaImage."""
    array = np.random.default_rng(1).integers(0, 1000, (40, 64, 64)).astype(np.int16)
    write_volume(tmp_path / "a.nii.gz", array, OBLIQUE)
    image = SimpleITK.GetImageFromArray(array)
    for ending in (".mha", ".nrrd"):
        SimpleITK.WriteImage(image, str(tmp_path / f"a{ending}"), useCompression=True)
    for ending in (".nii.gz", ".mha", ".nrrd"):
        path = tmp_path / f"a{ending}"
        read_volume(path)
        content = bytearray(path.read_bytes())
        content[int(len(content) * 0.8)] ^= 1
        path.write_bytes(content)
        with refused(path):
            read_volume(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", ENDINGS)
def test_not_a_volume(tmp_path, ending, capfd):
    text, folder, missing = (tmp_path / f"{name}{ending}" for name in ("text", "folder", "missing"))
    text.write_text("id,image,segmentation\n" * 100)
    folder.mkdir()
    for path, found in ((text, ""), (folder, "Is a directory"), (missing, "No such file")):
        for read in (read_volume, read_geometry):
            with refused(path, found):
                read(path)
    assert capfd.readouterr().err == ""


def test_gzipped_text_lost_data_file_and_shear(tmp_path, array, capfd):
    with gzip.open(tmp_path / "text.nii.gz", "wt") as file:
        file.write("hello\n" * 200)
    write_volume(tmp_path / "a.mhd", array, OBLIQUE)
    (tmp_path / "a.raw").unlink()
    shear = np.eye(4)
    shear[0, 1] = 0.3
    nibabel.save(nibabel.Nifti1Image(array, shear), tmp_path / "shear.nii.gz")
    found = {
        "text.nii.gz": "does not begin with a NIfTI header",
        "a.mhd": "its data file a.raw is missing",
        "shear.nii.gz": "miss a right angle by 16.7 degrees",
    }
    for name, reason in found.items():
        with refused(tmp_path / name, reason):
            read_volume(tmp_path / name)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.txt", "a", "a.nii.bz2", "nii"])
def test_unknown_ending(tmp_path, array, name):
    with refused(tmp_path / name, ".nii.gz, .mha"):
        read_volume(tmp_path / name)
    with refused(tmp_path / name, ".nii.gz, .mha"):
        write_volume(tmp_path / name, array, OBLIQUE)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_folders_that_cannot_be_written(tmp_path, array, ending, capfd):
    """Permissions do not stop root; a missing folder, a file as folder and a folder as file do."""
    (tmp_path / "file").write_text("")
    (tmp_path / f"folder{ending}").mkdir()
    before = names_in(tmp_path)
    for name in (f"missing/a{ending}", f"file/a{ending}", f"folder{ending}", "x" * 255 + ending):
        with refused(tmp_path / name, "cannot be written"):
            write_volume(tmp_path / name, array, OBLIQUE)
    assert names_in(tmp_path) == before
    assert capfd.readouterr().err == ""


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from common.errors import DataError
from common.files import sha256_of
from common.data.geometry import Geometry
from common.data.volumes import write_volume

folder, size = Path(sys.argv[1]), int(sys.argv[2])
array = np.random.default_rng(0).integers(0, 9999, (8, 60, 60)).astype(np.int16)
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
for ending in sys.argv[3:]:
    try:
        write_volume(folder / f"a{ending}", array, Geometry((1, 1, 1)))
    except DataError as error:
        print(error)
"""


@pytest.mark.parametrize("size", [0, 100, 1000, 20_000])
def test_full_disk(tmp_path, size):
    """A limit on the size of files stands for a full disk. SimpleITK's NIfTI writer returns
    normally in both cases. 58 kB of data; the old files and nothing else must remain."""
    array = np.zeros((2, 3, 4), np.uint8)
    for ending in ENDINGS:
        write_volume(tmp_path / f"a{ending}", array, OBLIQUE)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), str(size), *ENDINGS]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = result.stdout.splitlines()
    assert len(lines) == len(ENDINGS)
    for ending, line in zip(ENDINGS, lines, strict=True):
        assert line.startswith(f"{tmp_path / f'a{ending}'}: cannot be written (")
    assert result.stderr == ""
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_replaces_a_pair(tmp_path, array):
    write_volume(tmp_path / "a.mhd", array, OBLIQUE)
    write_volume(tmp_path / "a.mhd", array[:3] + 1, Geometry((1, 1, 2)))
    volume = read_volume(tmp_path / "a.mhd")
    np.testing.assert_array_equal(volume.array, array[:3] + 1)
    assert volume.geometry == Geometry((1, 1, 2))
    assert names_in(tmp_path) == ["a.mhd", "a.raw"]


def test_only_three_dimensions_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"found shape \(2, 3\)"):
        write_volume(tmp_path / "a.nii.gz", np.zeros((2, 3)), OBLIQUE)


def test_stderr_survives_threads(tmp_path, array, capfd):
    """Failures in several threads at once must leave the process' stderr where it was."""
    write_volume(tmp_path / "a.mha", array, OBLIQUE)
    content = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "cut.mha").write_bytes(content[:-9])
    refused = []

    def read():
        for _ in range(20):
            try:
                read_volume(tmp_path / "cut.mha")
            except DataError:
                refused.append(1)

    threads = [Thread(target=read) for _ in range(4)]
    descriptors = len(os.listdir("/proc/self/fd"))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"still here")
    assert len(refused) == 80
    assert capfd.readouterr().err == "still here"
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_recorded_volumes(golden_dir):
    """The originals' input: oblique, unevenly spaced; image and label on one grid."""
    folder = golden_dir / "fetal_brain"
    rows = (folder / "data.csv").read_text().split()[1:]
    shapes = []
    for row in rows:
        image_path, label_path = (folder / name for name in row.split(",")[1:])
        image, label = read_volume(image_path), read_volume(label_path, np.int32)
        check_same_grid(image, label, names=(str(image_path), str(label_path)))
        assert set(np.unique(label.array)) == {0, 2, 9, 10}
        shapes.append(image.array.shape)
    assert shapes == [(5, 136, 144), (4, 150, 131)]


def moved(**changes):
    return Geometry(**{**vars(OBLIQUE), **changes})


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (moved(spacing_mm=(0.7, 0.8, 3.5)), "spacing"),
        (moved(spacing_mm=(0.71, 0.8, 3.3)), "spacing"),
        (moved(origin_mm=(-12.24, 145.6, 7.8)), "origin"),
        (moved(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)), "direction"),
        (moved(direction=tuple(-d for d in OBLIQUE.direction)), "direction"),
        (moved(origin_mm=(float("nan"), 145.6, 7.8)), "origin"),
    ],
)
def test_other_grids_are_refused(other, name):
    with refused("a.mha and b.mha", name, "mm apart"):
        check_same_grid((SHAPE, OBLIQUE), (SHAPE, other), names=("a.mha", "b.mha"))


def test_tolerance_of_the_grid():
    """A tenth of the smallest spacing, 0.7 mm, at the far corner: 29 steps of 0.0023 mm are 0.067
    mm, of 0.0025 mm 0.0725 mm."""
    near, far = (moved(spacing_mm=(x, 0.8, 3.3)) for x in (0.7023, 0.7025))
    check_same_grid((SHAPE, OBLIQUE), (SHAPE, near), names=("a", "b"))
    with refused("a and b"):
        check_same_grid((SHAPE, OBLIQUE), (SHAPE, far), names=("a", "b"))


def test_distance_of_grids_by_hand():
    """The array's x axis points along the world's y: 30 columns at 2 mm from y = -29 against 1 mm
    from y = 0 are 29 mm apart at either end."""
    direction = (0, 0, 1, 1, 0, 0, 0, 1, 0)
    first = Geometry((1, 1, 1), (0, 0, 0), direction)
    second = Geometry((2, 1, 1), (0, -29, 0), direction)
    with refused("up to 29 mm apart"):
        check_same_grid((SHAPE, first), (SHAPE, second), names=("a", "b"))


def test_other_shapes_are_refused(array):
    first, second = Volume(array, OBLIQUE), Volume(array[:, :19], OBLIQUE)
    with refused("a.mha and b.mha", "(6, 20, 30)", "(6, 19, 30)"):
        check_same_grid(first, second, names=("a.mha", "b.mha"))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_in_nifti_is_not_turned_into_zero(tmp_path, ending, dtype, bad):
    """SimpleITK returns 0 for it; a big-endian file is read in its own order."""
    import nibabel

    array = np.ones((4, 5, 6), dtype)
    array[1, 2, 3] = bad
    for order in ("<", ">"):
        path = tmp_path / f"volume{ending}"
        header = nibabel.Nifti1Header(endianness=order)
        header.set_data_dtype(dtype)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4), header), path)
        with pytest.raises(DataError, match="found 1 NaN or infinite voxels"):
            read_volume(path)
        array_ok = np.ones_like(array)
        nibabel.save(nibabel.Nifti1Image(array_ok, np.eye(4), header), path)
        np.testing.assert_array_equal(read_volume(path).array, array_ok.T)


@pytest.mark.parametrize(("name", "data"), [("scan.mhd", "scan.zraw"), ("scan.nrrd", None)])
def test_compressed_volumes_are_smaller_and_equal(tmp_path, name, data):
    array = np.zeros((20, 30, 40), np.int16)
    array[5, 6, 7] = 123
    geometry = Geometry((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    write_volume(tmp_path / name, array, geometry, compress=True)
    found = read_volume(tmp_path / name)
    np.testing.assert_array_equal(found.array, array)
    assert found.geometry == geometry
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(filter(None, (name, data)))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < array.nbytes / 10


META = {
    "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0",
    "ElementSpacing": "1 2 3", "DimSize": "4 3 2", "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}  # fmt: skip
NRRD = {
    "type": "short", "dimension": "3", "space": "left-posterior-superior", "sizes": "4 3 2",
    "space directions": "(1,0,0) (0,2,0) (0,0,3)", "endian": "little", "encoding": "raw",
    "space origin": "(0,0,0)",
}  # fmt: skip
SMALL = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
VOXELS = SMALL.tobytes()


def write_meta(path, data=VOXELS, **changes):
    fields = {**META, **changes}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # the last one of a header
    head = "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None)
    path.write_bytes(head.encode() + data)
    return path


def write_nrrd(path, data=VOXELS, more="", **changes):
    fields = {**NRRD, **changes}
    lines = "".join(f"{key}: {value}\n" for key, value in fields.items() if value is not None)
    end = "" if "LIST" in lines else "\n"
    path.write_bytes(f"NRRD0004\n{lines}{more}{end}".encode() + data)
    return path


@pytest.mark.parametrize(
    ("changes", "data"),
    [
        ({}, VOXELS),
        ({"BinaryDataByteOrderMSB": "True"}, SMALL.astype(">i2").tobytes()),
        ({"Offset": None, "Position": "0 0 0", "ElementSize": "1 2 3"}, VOXELS),
        ({"HeaderSize": "5", "ElementDataFile": "a.raw"}, b"12345" + VOXELS),
        ({"HeaderSize": "-1", "ElementDataFile": "a.raw"}, b"12345" + VOXELS),
        ({"ElementDataFile": "LIST\na.raw\nb.raw"}, VOXELS),
        ({"ElementDataFile": "s%d.raw 0 1 1"}, VOXELS),
        ({"0008|103e": "T2 " * 300}, VOXELS),
    ],
)
def test_kinds_of_metaimage(tmp_path, changes, data):
    if changes.get("ElementDataFile") is None:
        path = write_meta(tmp_path / "scan.mha", data, **changes)
    else:
        path = write_meta(tmp_path / "scan.mhd", b"", **changes)
        (tmp_path / "a.raw").write_bytes(data if "HeaderSize" in changes else data[:24])
        (tmp_path / "b.raw").write_bytes(data[24:])
        (tmp_path / "s0.raw").write_bytes(data[:24])
        (tmp_path / "s1.raw").write_bytes(data[24:])
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, SMALL)
    assert volume.geometry.spacing_mm == (1, 2, 3)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"NDims": "-1"}, "NDims '-1'"),
        ({"NDims": "100"}, "3 sizes and NDims '100'"),
        ({"NDims": "9" * 30}, "3 sizes and NDims '999999999'"),
        ({"DimSize": "-4 3 2"}, "DimSize '-4 3 2', expected integers of at least 1"),
        ({"DimSize": "4 3"}, "2 sizes and NDims '3'"),
        ({"DimSize": "40000 30000 20000"}, "truncated: found 48 of 48000000000000 bytes of data"),
        ({"DimSize": "4 3 1"}, "found 48 bytes of data, its header says 24"),
        ({"ElementType": "MET_FOO"}, "found ElementType 'MET_FOO'"),
        ({"ElementNumberOfChannels": "-1"}, "channels '-1'"),
        ({"ElementNumberOfChannels": "1000000000"}, "ElementType"),
        ({"HeaderSize": "x"}, "HeaderSize 'x', expected an integer"),
        ({"ElementDataFile": "%s%n%s.raw 1 2 1"}, "found the data files '%s%n%s.raw 1 2 1'"),
        ({"ElementDataFile": "a%d.raw 1 2 0"}, "found the data files 'a%d.raw 1 2 0'"),
        ({"ElementDataFile": "a%d.raw 1 3 1"}, "found 3 data files for 2 slices"),
        ({"ElementDataFile": "LIST\na.raw"}, "data files for 2 slices"),
        ({"k" * 300: "x"}, "found the header line 'kkkkkk"),
        ({"Comment": "x" * 30000}, "found the header line 'Comment"),
        ({"ElementSpacing": "0 1 1"}, "scan.mha"),
        ({"TransformMatrix": "0 0 0 0 0 0 0 0 0"}, "scan.mha"),
        ({"ElementDataFile": None}, "found the header line"),
    ],
)
def test_metaimage_headers_that_are_not_believed(tmp_path, changes, found):
    """NDims of -1 hung for ten minutes, of 100 ended the process."""
    path = write_meta(tmp_path / "scan.mha", **changes)
    with refused(path, found):
        read_volume(path)


@pytest.mark.parametrize(
    ("changes", "more", "found"),
    [
        ({"z" * 5000: "1"}, "", "found the header line 'zzzzz"),
        ({"foo": "1"}, "", "found the header line 'foo: 1', expected a field of NRRD"),
        ({"units": '"' + "m" * 5000 + '"'}, "", "found the header line 'units"),
        ({"dimension": "-1"}, "", "dimension '-1'"),
        ({"sizes": "4 3"}, "", "2 sizes and dimension '3'"),
        ({"sizes": "40000 30000 20000"}, "", "truncated: found 48 of 48000000000000 bytes"),
        ({"sizes": "4 3 1"}, "", "found 48 bytes of data, its header says 24"),
        ({"type": "block"}, "", "found the type 'block'"),
        ({"byte skip": "x"}, "", "byte skip 'x', expected an integer"),
        ({"data file": "%s.raw 1 2 1"}, "", "found the data files '%s.raw 1 2 1'"),
        ({"data file": "gone.raw"}, "", "its data file gone.raw is missing"),
    ],
)
def test_nrrd_headers_that_are_not_believed(tmp_path, changes, more, found):
    """A field of 5000 characters that teem does not know ended the process."""
    path = write_nrrd(tmp_path / "scan.nrrd", more=more, **changes)
    with refused(path, found):
        read_volume(path)


@pytest.mark.parametrize(
    ("write", "changes", "found"),
    [
        ("mha", {"DistanceUnits": "um"}, "found sizes in 'um'; expected mm"),
        ("nrrd", {"space units": '"mm" "mm" "cm"'}, "found sizes in 'cm'; expected mm"),
        ("nrrd", {"units": '"m" "m" "m"', "space units": None}, "found sizes in 'm'; expected mm"),
        (
            "mha",
            {"ElementToIntensityFunctionSlope": "2", "ElementToIntensityFunctionOffset": "-1024"},
            "found values to be scaled (slope '2', offset '-1024'); expected the values themselves",
        ),
    ],
)
def test_what_simpleitk_passes_over_is_refused(tmp_path, write, changes, found):
    """Micrometres were read as millimetres, and values that are to be scaled as they are stored."""
    path = (write_meta if write == "mha" else write_nrrd)(tmp_path / f"scan.{write}", **changes)
    with refused(path, found):
        read_volume(path)


def test_what_a_header_leaves_open_is_said(tmp_path):
    plain = {"ElementToIntensityFunctionSlope": "1.0", "DistanceUnits": "mm"}
    remarks = [
        read_geometry(path)[1].remarks
        for path in (
            write_meta(tmp_path / "a.mha", **plain),
            write_meta(tmp_path / "b.mha", ElementSpacing=None),
            write_nrrd(tmp_path / "c.nrrd", **{"space units": '"mm" "mm" "mm"'}),
            write_nrrd(tmp_path / "d.nrrd", space="scanner-xyz"),
            write_nrrd(
                tmp_path / "e.nrrd",
                **{"space": None, "space directions": None, "space origin": None},
            ),
        )
    ]
    directions = "it names no anatomical directions: axes as stored"
    size = "it states no spacing: voxels of 1 mm"
    assert remarks == [(), (size,), (), (directions,), (directions, size)]


@pytest.mark.parametrize("name", ["../secret.raw", "/etc/hostname", "a/../../secret.raw"])
def test_data_files_outside_the_headers_folder_are_not_read(tmp_path, name):
    """Another's file came back as voxels."""
    (tmp_path / "secret.raw").write_bytes(VOXELS)
    (tmp_path / "scans" / "a").mkdir(parents=True)
    for path in (
        write_meta(tmp_path / "scans" / "scan.mhd", b"", ElementDataFile=name),
        write_meta(tmp_path / "scans" / "list.mhd", b"", ElementDataFile=f"LIST\n{name}\n{name}"),
        write_nrrd(tmp_path / "scans" / "scan.nrrd", b"", **{"data file": name}),
    ):
        with refused(path, f"found the data file '{name}'; expected one below the header's folder"):
            read_volume(path)


def test_files_that_are_read(tmp_path):
    for name in ("a.raw", "b.raw"):
        (tmp_path / name).write_bytes(VOXELS[:24])
    pair = write_meta(tmp_path / "scan.mhd", b"", ElementDataFile="LIST\na.raw\nb.raw")
    one = write_meta(tmp_path / "scan.mha")
    assert files_of(pair) == [pair, tmp_path / "a.raw", tmp_path / "b.raw"]
    assert files_of(one) == [one]
    assert files_of(tmp_path / "list.csv") == [tmp_path / "list.csv"]
    assert sha256_of(*files_of(one)) == hashlib.sha256(one.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("changes", "more", "data"),
    [
        ({}, "# a comment\nSegment0_Tags:=" + "x" * 9000 + "\n", VOXELS),
        ({"content": "x" * 9000}, "", VOXELS),
        ({"byte skip": "5"}, "", b"12345" + VOXELS),
        ({"byte skip": "-1"}, "", b"12345" + VOXELS),
        ({"encoding": "gzip"}, "", gzip.compress(VOXELS, mtime=0)),
        ({"encoding": "ascii"}, "", b" ".join(b"%d" % n for n in range(24)) + b"\n"),
        ({"endian": "big"}, "", SMALL.astype(">i2").tobytes()),
        ({"data file": "a.raw"}, "", b""),
        ({"data file": "LIST\ns0.raw\ns1.raw"}, "", b""),
        ({"data file": "s%d.raw 0 1 1"}, "", b""),
    ],
)
def test_kinds_of_nrrd(tmp_path, changes, more, data):
    (tmp_path / "a.raw").write_bytes(VOXELS)
    (tmp_path / "s0.raw").write_bytes(VOXELS[:24])
    (tmp_path / "s1.raw").write_bytes(VOXELS[24:])
    volume = read_volume(write_nrrd(tmp_path / "scan.nrrd", data, more, **changes))
    np.testing.assert_array_equal(volume.array, SMALL)
    assert volume.geometry.spacing_mm == (1, 2, 3)
