"""The list of cases, its split, and what a case must be like."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.labels import join_labels
from common.data.names import subject_of
from common.data.volumes import write_volume
from common.errors import DataError, OptionError
from fetal_brain.config import CODE, PAPER, PORT, QUICK
from fetal_brain.data import (
    Case,
    case_of_image,
    find_cases,
    is_phantom,
    load_case,
    note_subjects,
    overlapping_ids,
    pad_to_patch,
    prepare_case,
    read_reference,
    split_cases,
)

GRID = Geometry(spacing_mm=(1.25, 1.25, 3.5), origin_mm=(1.0, 2.0, 3.0))
SMALL = replace(PORT, patch_shape=(3, 8, 8))


@pytest.fixture
def folder(tmp_path):
    """A folder with the files that lists of these tests name."""
    for name in ("a.nii.gz", "a_seg.nii.gz", "b.nii.gz", "b_seg.nii.gz"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def write_list(folder, *rows, header="id,image,segmentation", name="list.csv"):
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def refusal(call, *arguments, error=DataError, **options) -> str:
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# The list


def test_columns_are_taken_by_position_and_cells_as_written(folder):
    path = write_list(
        folder,
        "NA,a.nii.gz,a_seg.nii.gz,ignored",
        "",
        f'007,"{folder}/b.nii.gz",b_seg.nii.gz',
        header="anything,second,third,fourth",
    )
    assert find_cases(path) == [
        Case("NA", folder / "a.nii.gz", folder / "a_seg.nii.gz"),
        Case("007", folder / "b.nii.gz", folder / "b_seg.nii.gz"),
    ]


def test_paths_are_relative_to_the_list(folder, monkeypatch, tmp_path_factory):
    write_list(folder, "x,a.nii.gz,a_seg.nii.gz")
    monkeypatch.chdir(folder.parent)
    (case,) = find_cases(Path(folder.name) / "list.csv")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert case.image_path.is_file()


def test_a_byte_order_mark_is_no_part_of_the_list(folder):
    path = folder / "list.csv"
    path.write_bytes("\ufeffid,image,segmentation\r\nx,a.nii.gz,a_seg.nii.gz\r\n".encode())
    assert [case.id for case in find_cases(path)] == ["x"]


@pytest.mark.parametrize("row", ["x,a.nii.gz", "x,a.nii.gz,", "x,a.nii.gz,absent.nii.gz"])
def test_without_labels_the_third_column_is_not_looked_at(folder, row):
    path = write_list(folder, row)
    assert find_cases(path, labels_required=False) == [Case("x", folder / "a.nii.gz", None)]


def test_a_missing_list_is_named(folder):
    message = refusal(find_cases, folder / "absent.csv")
    assert message == f"{folder / 'absent.csv'} does not exist; expected a CSV list of cases"


def test_a_folder_is_no_list(folder):
    assert "cannot be read" in refusal(find_cases, folder)


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08\x00\xff\xfe", b'id,image,seg\n"open', b""])
def test_what_is_no_csv_is_named(folder, content):
    path = folder / "list.csv"
    path.write_bytes(content)
    message = refusal(find_cases, path)
    assert message.startswith(str(path))
    assert "expected" in message


@pytest.mark.parametrize("header", ["id|image|segmentation", "id,image"])
def test_too_few_columns_name_what_was_found(folder, header):
    message = refusal(find_cases, write_list(folder, "x,a.nii.gz", header=header))
    assert f"({header.replace(',', ', ')})" in message
    assert "expected at least 3 columns separated by commas, semicolons, tabs: id, image" in message


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_semicolons_and_tabs_are_recognised(folder, delimiter):
    row = "x,a.nii.gz,a_seg.nii.gz".replace(",", delimiter)
    path = write_list(folder, row, header=f"id{delimiter}image{delimiter}segmentation")
    assert find_cases(path) == [Case("x", folder / "a.nii.gz", folder / "a_seg.nii.gz")]
    mixed = write_list(folder, "x,a.nii.gz,a_seg.nii.gz", header="id;image;segmentation")
    assert "line 2: found 1 column; expected at least 3" in refusal(find_cases, mixed)
    assert "separated by semicolons as in the header" in refusal(find_cases, mixed)


def test_a_long_row_and_another_order_are_refused(folder):
    """The original takes columns by position: names in another order would swap the files."""
    path = write_list(folder, "x,a.nii.gz,a_seg.nii.gz", "y,b.nii.gz,b_seg.nii.gz,more")
    assert f"{path}, line 3: found 4 columns; expected 3" in refusal(find_cases, path)
    swapped = write_list(folder, "x,a_seg.nii.gz,a.nii.gz", header="ID,Segmentation,Image")
    message = refusal(find_cases, swapped)
    assert "found 'Segmentation' as the name of column 2" in message
    assert "expected the order id, image, segmentation" in message


def test_ids_are_one_where_they_look_the_same(folder):
    """A letter with an accent, composed and as letter and accent; blanks around an id."""
    path = write_list(folder, "Zo\u00eb,a.nii.gz,a_seg.nii.gz", " Zoe\u0308 ,b.nii.gz,b_seg.nii.gz")
    assert "line 3: id 'Zoë' was already used in line 2" in refusal(find_cases, path)
    (case,) = find_cases(write_list(folder, " Zoe\u0308 ,a.nii.gz,a_seg.nii.gz"))
    assert case.id == "Zo\u00eb"


def test_a_short_row_names_its_line(folder):
    path = write_list(folder, "x,a.nii.gz,a_seg.nii.gz", "y,b.nii.gz")
    assert f"{path}, line 3: found 2 columns; expected at least 3" in refusal(find_cases, path)


def test_a_list_without_rows_is_refused(folder):
    assert "has a header but no rows" in refusal(find_cases, write_list(folder))


def test_a_list_without_header_is_refused_where_the_original_drops_its_first_case(folder):
    path = write_list(folder, "y,b.nii.gz,b_seg.nii.gz", header="x,a.nii.gz,a_seg.nii.gz")
    message = refusal(find_cases, path)
    assert "the first row names an existing image (a.nii.gz); expected a header" in message


def test_an_id_twice_names_both_lines(folder):
    path = write_list(folder, "x,a.nii.gz,a_seg.nii.gz", "x,b.nii.gz,b_seg.nii.gz")
    assert "line 3: id 'x' was already used in line 2" in refusal(find_cases, path)


@pytest.mark.parametrize(
    "case_id",
    ["", ".", "..", ".hidden", "../x", "/x", "a/b", "a\\b", '"a\nb"', "x\x00", "y" * 300],
)
def test_an_id_that_cannot_name_a_file_is_refused(folder, case_id):
    path = write_list(folder, f"{case_id},a.nii.gz,a_seg.nii.gz")
    assert "cannot name a file; expected" in refusal(find_cases, path)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("x,absent.nii.gz,a_seg.nii.gz", "the image of 'x' does not exist: {}/absent.nii.gz"),
        ("x,a.nii.gz,absent.nii.gz", "the segmentation of 'x' does not exist: {}/absent.nii.gz"),
        ("x,a.nii.gz,", "the segmentation of 'x' is empty; expected a path"),
        ("x,,a_seg.nii.gz", "the image of 'x' is empty; expected a path"),
        (
            "x,.,a_seg.nii.gz",
            "the image of 'x' is a folder: {}; expected a file, or a folder of DICOM",
        ),
    ],
)
def test_a_missing_file_is_named(folder, row, expected):
    message = refusal(find_cases, write_list(folder, row))
    assert f"line 2: {expected.format(folder)}" in message


def test_a_single_scan_is_a_case(folder):
    assert case_of_image(folder / "a.nii.gz") == Case("a", folder / "a.nii.gz", None)
    (folder / "scan.v2.mha").write_bytes(b"")
    assert case_of_image(folder / "scan.v2.mha").id == "scan.v2"
    assert "does not exist; expected a scan" in refusal(case_of_image, folder / "absent.nii")


def test_a_case_survives_its_runs_split_file():
    case = Case("x", Path("/data/x.nii.gz"), None)
    entry = {"id": "x", "image_path": "/data/x.nii.gz", "label_path": None}
    assert Case.from_dict(entry) == case


def test_a_list_beside_a_marker_is_a_phantom(folder):
    path = write_list(folder, "x,a.nii.gz,a_seg.nii.gz")
    assert not is_phantom(path)
    (folder / "phantom.json").write_text('{"synthetic": true}')
    assert is_phantom(path)


# The split


def rows(count):
    return [Case(str(index), Path("i"), Path("s")) for index in range(count)]


def ids(split):
    return {name: [int(case.id) for case in cases] for name, cases in split.items()}


def test_the_codes_split_tests_on_a_training_case():
    """[F12] 36 rows, as the list the original ships: 30 + 6, and 7 tested, row 29 among them."""
    split = split_cases(rows(36), CODE)
    assert ids(split) == {
        "training": list(range(30)),
        "validation": list(range(30, 36)),
        "test": list(range(29, 36)),
    }
    assert overlapping_ids(split) == ["29"]


@pytest.mark.parametrize(
    ("config", "training", "validation"), [(PORT, 26, 3), (PAPER, 29, 0), (QUICK, 32, 1)]
)
def test_other_splits_are_disjoint(config, training, validation):
    split = ids(split_cases(rows(36), config))
    assert split["training"] == list(range(training))
    assert split["validation"] == list(range(training, training + validation))
    assert split["test"] == list(range(training + validation, 36))
    assert overlapping_ids(split_cases(rows(36), config)) == []


def test_a_given_number_of_training_cases_leaves_the_rest_to_validation():
    config = replace(PORT, training_cases=4, held_out_cases=3)
    split = ids(split_cases(rows(10), config))
    assert split == {"training": [0, 1, 2, 3], "validation": [4, 5, 6], "test": [7, 8, 9]}


def test_nothing_need_be_held_out():
    split = ids(split_cases(rows(5), replace(PORT, held_out_cases=0)))
    assert split == {"training": [0, 1], "validation": [2, 3, 4], "test": []}


@pytest.mark.parametrize(
    ("config", "least"),
    [
        (CODE, 31),
        (PORT, 11),
        (PAPER, 8),
        (QUICK, 5),
        (replace(PORT, training_cases=4, held_out_cases=3), 8),
    ],
)
def test_too_few_rows_name_how_many_are_needed(config, least):
    split_cases(rows(least), config)
    for count in (least - 1, 1):
        message = refusal(split_cases, rows(count), config)
        assert f"the list has {count} rows; expected at least {least} (" in message


def test_negative_counts_are_refused():
    refusal(split_cases, rows(9), replace(PORT, held_out_cases=-1), error=OptionError)


# One case


def write_case(folder, image, label=None, label_grid=GRID, ending=".nii.gz"):
    paths = folder / f"image{ending}", folder / f"label{ending}"
    write_volume(paths[0], image, GRID)
    if label is None:
        return Case("x", paths[0], None)
    write_volume(paths[1], label, label_grid)
    return Case("x", *paths)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 900, (4, 9, 10)).astype(np.int16)


@pytest.fixture
def label():
    label = np.zeros((4, 9, 10), np.uint8)
    label[1, 2, 3:6] = (2, 9, 10)
    return label


def test_a_case_is_whitened_and_its_brain_is_class_one(tmp_path, image, label):
    loaded = load_case(write_case(tmp_path, image, label), SMALL)
    assert loaded.image.geometry.spacing_mm == pytest.approx(GRID.spacing_mm)
    np.testing.assert_array_equal(loaded.image.array, image)
    np.testing.assert_array_equal(loaded.label, label)
    whitened, classes = prepare_case(loaded, SMALL)
    assert (whitened.shape, whitened.dtype) == ((4, 9, 10, 1), np.float32)
    np.testing.assert_allclose(
        whitened[..., 0], (image - image.mean()) / image.std(), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(classes, label == 2)


def test_a_case_without_label(tmp_path, image):
    loaded = load_case(write_case(tmp_path, image), SMALL)
    assert loaded.label is None
    assert prepare_case(loaded, SMALL)[1] is None


def test_several_ids_may_be_one_class():
    found = join_labels(np.array([0, 1, 2, 3, 9, 10]), (0, (1, 3), 10))
    assert found.tolist() == [0, 1, 0, 1, 0, 2]


@pytest.mark.parametrize("label_ids", [(0,), (0, 2, 2), (0, (1, 2), 2)])
def test_impossible_label_ids_are_refused(label_ids):
    refusal(join_labels, np.zeros(3, int), label_ids, error=OptionError)


def test_float_labels_with_integer_values_are_taken(tmp_path, image, label):
    loaded = load_case(write_case(tmp_path, image, label.astype(np.float32)), SMALL)
    assert loaded.label.dtype == np.int32
    np.testing.assert_array_equal(loaded.label, label)


@pytest.mark.parametrize("ending", [".mha", ".nii.gz"])
@pytest.mark.parametrize("value", [1.5, np.nan, np.inf])
def test_label_values_that_are_no_integers_are_refused(tmp_path, image, label, value, ending):
    label = label.astype(np.float32)
    label[0, 0, 0] = value
    case = write_case(tmp_path, image, label, ending=ending)
    message = refusal(load_case, case, SMALL)
    assert message == f"{case.label_path}: found the label value {value}; expected integer ids"


def test_a_label_without_foreground_names_the_ids_found(tmp_path, image, label):
    """[F23]"""
    case = write_case(tmp_path, image, np.where(label == 2, 1, label))
    message = refusal(load_case, case, replace(SMALL, label_ids=(0, (2, 4), 7)))
    assert "found the label ids 0, 1, 9, 10; expected foreground 2 or 4, 7" in message
    assert load_case(case, SMALL, foreground_required=False).label is not None


def test_a_reference_may_be_all_background(tmp_path, image, label):
    reference = read_reference(write_case(tmp_path, image, label), SMALL)
    np.testing.assert_array_equal(reference.array, label == 2)
    assert reference.geometry.spacing_mm == pytest.approx(GRID.spacing_mm)
    empty = read_reference(write_case(tmp_path, image, 0 * label), SMALL)
    assert not empty.array.any()
    assert "has no segmentation" in refusal(read_reference, write_case(tmp_path, image), SMALL)


def test_a_label_of_another_shape_is_refused(tmp_path, image, label):
    message = refusal(load_case, write_case(tmp_path, image, label[:-1]), SMALL)
    assert "image.nii.gz" in message
    assert "label.nii.gz" in message


def test_a_label_elsewhere_in_space_is_refused(tmp_path, image, label):
    shifted = replace(GRID, origin_mm=(1.0, 2.0, 9.0))
    assert "label.nii.gz" in refusal(
        load_case, write_case(tmp_path, image, label, label_grid=shifted), SMALL
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers_are_refused(tmp_path, image, value):
    image = image.astype(np.float32)
    image[2, 2, 2] = value
    case = write_case(tmp_path, image, ending=".mha")
    assert "found 1 NaN or infinite voxels" in refusal(load_case, case, SMALL)


def test_a_constant_image_is_refused(tmp_path, image):
    message = refusal(load_case, write_case(tmp_path, 0 * image + 7), SMALL)
    assert message.endswith("image.nii.gz: every voxel is 7; expected a scan")


def test_a_file_that_is_not_three_dimensional_is_refused(tmp_path):
    import SimpleITK

    path = tmp_path / "flat.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.eye(20, dtype=np.float32)), str(path))
    assert "flat.nii.gz" in refusal(load_case, Case("x", path, None), SMALL)


def test_a_small_volume_is_refused_or_padded(tmp_path, image, label):
    """[F10]"""
    case = write_case(tmp_path, image, label)
    large = replace(SMALL, patch_shape=(5, 8, 12))
    message = refusal(load_case, case, replace(large, pad_small_volumes=False))
    assert "image.nii.gz: found 4 x 9 x 10 slices, rows, columns" in message
    assert "expected at least 5 x 8 x 12, or --pad_small_volumes true" in message

    whitened, classes = prepare_case(load_case(case, large), large)
    padded, padded_classes = pad_to_patch(whitened, classes, large)
    assert padded.shape == (5, 9, 12, 1)
    assert padded_classes.shape == (5, 9, 12)
    np.testing.assert_array_equal(padded[:4, :, :10], whitened)
    np.testing.assert_array_equal(padded_classes[:4, :, :10], classes)
    assert (padded[4] == whitened.min()).all()
    assert (padded[:, :, 10:] == whitened.min()).all()
    assert padded_classes.sum() == classes.sum() == 1


def test_a_large_volume_is_not_copied(image, label):
    whitened = image[..., None].astype(np.float32)
    assert pad_to_patch(whitened, label, SMALL)[0] is whitened


class TestSubjects:
    """Six stacks of one fetus were divided row by row."""

    def rows(self, tmp_path, header, *rows):
        for name in ("a", "b", "c", "d"):
            (tmp_path / f"{name}.nii.gz").touch()
        path = tmp_path / "list.csv"
        path.write_text("\n".join([header, *rows]) + "\n")
        return find_cases(path)

    def test_column(self, tmp_path):
        pairs = zip("abcd", "1122", strict=True)
        rows = [f"{name},{name}.nii.gz,{name}.nii.gz,{who}" for name, who in pairs]
        cases = self.rows(tmp_path, "id,image,segmentation,Subject", *rows)
        assert [case.subject for case in cases] == ["1", "1", "2", "2"]
        config = replace(PORT, held_out_cases=2, validation_cases=0, training_cases=None)
        assert [case.id for case in split_cases(cases, config)["test"]] == ["c", "d"]
        expected = "subject 2 is on two sides of the split: c in training, d in test"
        with pytest.raises(DataError, match=expected):
            split_cases(cases, replace(config, held_out_cases=1))
        overlapping = replace(config, held_out_cases=1, allow_training_cases_in_test=True)
        assert len(split_cases(cases, overlapping)["training"]) == 4  # [F12]

    def test_bids_entity_or_nothing(self, tmp_path):
        stacks = ((1, 1), (1, 2), (2, 1))
        paths = [tmp_path / f"sub-0{n}/anat/sub-0{n}_run-{run}_T2w.nii.gz" for n, run in stacks]
        assert [subject_of(path) for path in paths] == ["01", "01", "02"]
        assert subject_of(Path("mysub-01.nii")) == ""
        cases = [Case(path.name, path, None, subject_of(path)) for path in paths]
        config = replace(PORT, held_out_cases=1, validation_cases=0, training_cases=None)
        assert note_subjects(split_cases(cases, config)) == ""
        unknown = [replace(case, subject="") for case in cases]
        assert "no subjects are known" in note_subjects(split_cases(unknown, config))
