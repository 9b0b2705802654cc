"""Lists and tables as spreadsheets write them, and what is refused with its line number."""

import numpy as np
import pytest

from common.data.names import check_id, check_new, check_outputs, normal_id
from common.data.tables import check_cells, read_table, rows_by_name, rows_by_position
from common.errors import DataError, OptionError

COLUMNS = ("ground_truth", "roi_mask", "prediction_filename")
PREFIXES = ("channel_",)


def write(tmp_path, content):
    path = tmp_path / "cases.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(call, *arguments, **options):
    with pytest.raises(DataError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def by_name(path):
    return rows_by_name(read_table(path), COLUMNS, PREFIXES)


TEXT = "channel_t2w,ground_truth\nscan é.nii,labels.nii\n\nb.nii,\n"
ROWS = [
    {"channel_t2w": "scan é.nii", "ground_truth": "labels.nii"},
    {"channel_t2w": "b.nii", "ground_truth": ""},
]


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),
        TEXT.replace("\n", "\r\n").encode("utf-16-be").join([b"\xfe\xff", b""]),
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("\n", "\r"),
        TEXT.replace(",", ";"),
        TEXT.replace(",", "\t"),
        "sep=;\r\n" + TEXT.replace(",", ";"),
        TEXT.replace("scan é.nii", '"scan é.nii"').replace("ground_truth", '"ground_truth"'),
        '"channel_t2w";"ground_truth"\n"scan é.nii";"labels.nii"\n"b.nii";""\n',
        TEXT.replace(",", " , "),
        TEXT.replace("ground_truth", "Ground Truth").replace("channel_t2w", " CHANNEL_T2W "),
        TEXT.replace("ground_truth\n", "ground_truth,,\n").replace("labels.nii", "labels.nii,,"),
        TEXT + ",,\n , \n",
    ],
)
def test_what_spreadsheets_write_is_one_table(tmp_path, content):
    assert by_name(write(tmp_path, content)) == ROWS


@pytest.mark.parametrize(
    ("header", "near"),
    [
        ("channel_t2w,ground_truth,roimask", "unknown column 'roimask'; did you mean roi_mask?"),
        ("channel_t2w,groundtruth,roi_mask", "did you mean ground_truth?"),
        ("chanel_t2w,ground_truth,roi_mask", "did you mean channel_t2w?"),
        ("channel_t2w,ground_truth,mask", "'mask'; did you mean roi_mask?"),
        ("channel_t2w,ground_truth,x", "'x'; expected channel_..., ground_truth, roi_mask, pred"),
        ("channel_t2w,,roi_mask", "unknown column ''; expected"),
        ("channel_t2w,roi_mask,ROI mask", "found the column roi_mask twice"),
    ],
)
def test_an_unknown_column_names_the_nearest_known_one(tmp_path, header, near):
    """Such columns were dropped: training ran with a mask of None."""
    path = write(tmp_path, f"{header}\na.nii,b.nii,c.nii\n")
    assert near in refusal(by_name, path)


@pytest.mark.parametrize(
    ("row", "found"),
    [("a.nii", "found 1 column; expected at least 2"), ("a,b,c", "found 3 columns; expected 2")],
)
@pytest.mark.parametrize("line", [2, 4])
def test_short_and_long_rows_name_their_line(tmp_path, row, found, line):
    """A first row longer than the header was an AttributeError."""
    rows = ["a.nii,b.nii"] * 3
    rows[line - 2] = row
    path = write(tmp_path, "\n".join(["channel_t2w,ground_truth", *rows]) + "\n")
    assert f"{path}, line {line}: {found}" in refusal(by_name, path)


def test_other_encodings_are_named(tmp_path):
    latin = write(tmp_path, "id,image\na,b\nZoë,c\n".encode("latin-1"))
    message = refusal(read_table, latin)
    assert f"{latin}, line 3: found the byte 0xeb, which is not UTF-8" in message
    assert "Latin-1 or Windows-1252 anew as UTF-8" in message
    marked = "id,image\na,b\n".encode("utf-16-le")
    assert "UTF-16 without a byte order mark" in refusal(read_table, write(tmp_path, marked))
    odd = "id,image\na,b\n".encode("utf-16") + b"x"
    assert "which is not UTF-16" in refusal(read_table, write(tmp_path, odd))


def test_an_open_quote_and_too_large_a_file_are_named(tmp_path):
    path = write(tmp_path, 'id,image\na,"b\nc,d\n')
    assert "line 3: not readable as CSV" in refusal(read_table, path)
    with path.open("wb") as file:
        file.truncate(50_000_001)
    assert "found 50000001 bytes" in refusal(read_table, path)


def test_lists_by_position(tmp_path):
    table = read_table(write(tmp_path, "first;second;third\nx;a\n"))
    (row,) = rows_by_position(table, ("id", "image", "label"), 2)
    assert (row.line, row.cells) == (2, ("x", "a"))
    check_cells(table, row, ("id", "image"))
    assert "found 2 columns; expected at least 3 (id, image, label), separated by semi" in refusal(
        check_cells, table, row, ("id", "image", "label")
    )
    empty = read_table(write(tmp_path, ""))
    assert "found nothing in the first row" in refusal(rows_by_position, empty, ("id",), 1)


@pytest.mark.parametrize(
    "case_id", ["", ".", "..", ".a", "../x", "/x", "a/b", "a\\b", "a\nb", "a\x1b[0m", "a\x00",
                "a\u202eb", "\udce9", "é" * 101],
)  # fmt: skip
def test_ids_that_cannot_name_a_file(case_id):
    assert "cannot name a file" in refusal(check_id, normal_id(case_id), "list.csv, line 2")


@pytest.mark.parametrize("case_id", ["1e5", "001", "NA", "a b", "é" * 100, "x.nii", "=1+1", "患者"])
def test_ids_that_can(case_id):
    check_id(normal_id(case_id), "list.csv, line 2")


def test_an_id_is_used_once():
    check_new("b", {"a": "line 2"}, "list.csv, line 3")
    message = refusal(check_new, normal_id(" a "), {"a": "line 2"}, "list.csv, line 3")
    assert message.startswith("list.csv, line 3: id 'a' was already used in line 2")


def test_outputs_that_would_replace_each_other_or_an_input(tmp_path):
    np.save(tmp_path / "scan.npy", np.zeros(1))
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    outputs = [("a", [tmp_path / "a.nii"]), ("b", [tmp_path / "b.nii", tmp_path / "c.nii"])]
    check_outputs(outputs, [tmp_path / "scan.npy"], option="--out x")
    with pytest.raises(OptionError, match=r"--out x: a and d would both be written to a\.nii"):
        check_outputs([*outputs, ("d", [tmp_path / "link" / "a.nii"])], option="--out x")
    read = [tmp_path / "link" / "scan.npy"]
    with pytest.raises(OptionError, match=r"--out x: scan\.npy there is a file to read"):
        check_outputs([("e", [tmp_path / "scan.npy"])], read, option="--out x")


def test_a_nul_character_is_no_text(tmp_path):
    """As part of a path it was a ValueError."""
    path = tmp_path / "list.csv"
    path.write_bytes(b"id,image\na,b\0c.nii.gz\n")
    with pytest.raises(DataError, match=r"list.csv, line 2: found a NUL character; expected text"):
        rows_by_name(read_table(path), ("id", "image"))
