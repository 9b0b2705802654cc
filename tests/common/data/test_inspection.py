"""The table of `prepare --check`: every fault kept, every line said, nothing written."""

from collections import namedtuple
from pathlib import Path

import pytest

from common.data import inspection as room
from common.data.inspection import (
    Inspection,
    free_bytes,
    listed,
    note_differing,
    note_twins,
    numbers,
    size_in_words,
)
from common.errors import DataError, OptionError


def refuse(message, kind=DataError):
    raise kind(message)


def test_every_mistake_of_a_case_is_kept_once():
    entry = Inspection(Path("list.csv")).entry("a")
    assert entry.attempt(lambda x: x + 1, 2) == 3
    assert entry.verdict == "ok"
    assert entry.attempt(refuse, "too small") is None
    assert entry.attempt(refuse, "wrong option", kind=OptionError) is None
    entry.attempt(refuse, "too  small")
    entry.attempt(Path("nowhere/at/all").read_bytes)
    assert entry.faults == [
        "too small",
        "wrong option",
        "nowhere/at/all: No such file or directory",
    ]
    assert entry.verdict == "FAULT"


def test_a_mistake_of_ours_is_not_taken_for_one_of_the_users():
    with pytest.raises(ZeroDivisionError):
        Inspection(Path("list.csv")).entry("a").attempt(lambda: 1 / 0)


def test_the_table_has_a_line_per_case_and_shows_paths_from_its_folder(tmp_path):
    inspection = Inspection(tmp_path / "list.csv")
    first, second = inspection.entry("one"), inspection.entry("twenty-one")
    first.facts["size"] = "3 x 4 x 5"
    second.fault(f"{tmp_path}/a.nii: cannot be read")
    second.note("thick")
    inspection.general("list").facts["rows"] = "2"
    assert inspection.render().splitlines() == [
        f"Checked: {tmp_path}/list.csv",
        "",
        "case        verdict  size       findings",
        "one         ok       3 x 4 x 5",
        "twenty-one  FAULT    -          a.nii: cannot be read; note: thick",
        "",
        "list  ok     2 rows",
        "",
        "2 cases: 1 in order, 0 with a note, 1 with a fault",
    ]


def test_notes_alone_do_not_refuse_the_data(capsys):
    inspection = Inspection(Path("list.csv"), unit="volume")
    inspection.entry("0").note("empty")
    inspection.conclude()
    assert "1 volume: 0 in order, 1 with a note, 0 with a fault" in capsys.readouterr().out


def test_faults_refuse_the_data_and_say_where(capsys):
    inspection = Inspection(Path("list.csv"))
    inspection.entry("a").fault("torn")
    inspection.entry("b")
    inspection.general("split").fault("too few rows")
    with pytest.raises(DataError, match=r"faults in 1 of 2 cases and in split; the table"):
        inspection.conclude()
    assert "also a fault: split" in capsys.readouterr().out


def test_room_on_the_disk_is_compared_with_what_is_needed(tmp_path, monkeypatch):
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: usage(9e9, 8e9, 1_000_000_000))
    inspection = Inspection(tmp_path)
    inspection.check_space(tmp_path / "not" / "yet", 999_999_999)
    assert inspection.faulty == []
    assert inspection.whole[0].facts == {"needed": "1e+03 MB", "free": "1 GB"}
    inspection.check_space(tmp_path, 1_000_000_001)
    (full,) = inspection.faulty
    assert "found 1 GB free; expected at least 1 GB" in full.faults[0]


def test_room_is_looked_up_where_the_folder_will_be(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") > 0
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (31_457_280, "31.5 MB"),
     (5e15, "5e+03 TB")],
)  # fmt: skip
def test_sizes_in_words(size, words):
    assert size_in_words(size) == words


def test_lists_and_numbers_are_short():
    assert listed(range(3)) == "0, 1, 2"
    assert listed(range(12)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
    assert numbers((3.5, 1.25, 1.0000001)) == "3.5 x 1.25 x 1"


def test_twins_and_odd_ones_out_are_noted(tmp_path):
    inspection = Inspection(tmp_path)
    entries = {name: inspection.entry(name) for name in "abc"}
    (tmp_path / "scan").touch()
    (tmp_path / "link").symlink_to(tmp_path / "scan")
    note_twins(entries, {"a": tmp_path / "scan", "b": tmp_path / "other", "c": tmp_path / "link"})
    assert [entries[name].notes for name in "abc"] == [[], [], ["same image as a"]]
    note_differing(entries, {"a": "1", "b": "2", "c": "1"}, what="voxels of", why="so what")
    assert entries["b"].notes == ["voxels of 2, most have 1: so what"]
    assert inspection.faulty == []
