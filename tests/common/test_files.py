"""Files and folders are whole, or not there."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from common import files
from common.data.geometry import Geometry
from common.data.volumes import write_volume
from common.errors import DataError, RunError
from common.files import (
    read_json,
    remove_leftovers,
    sha256_of,
    write_folder_atomically,
    write_json,
)


def test_json_holds_what_json_can_hold(tmp_path):
    write_json(tmp_path / "a.json", {"nan": np.float32("nan"), 3: (np.int64(1), Path("/x"), True)})
    assert json.loads((tmp_path / "a.json").read_text()) == {"nan": None, "3": [1, "/x", True]}
    with pytest.raises(TypeError, match="object cannot be stored"):
        write_json(tmp_path / "b.json", {"a": object()})
    assert not (tmp_path / "b.json").exists()
    assert sha256_of(Path(os.devnull)).startswith("e3b0c44298fc1c14")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "export"

    def fail_half_way():
        with write_folder_atomically(target) as folder:
            (folder / "half.txt").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []
    with write_folder_atomically(target) as folder:
        (folder / "a.txt").write_text("first")
        assert not target.exists()
    with (
        pytest.raises(DataError, match="exists already"),
        write_folder_atomically(target, error=DataError),
    ):
        pytest.fail("a folder with content was opened for writing")
    with write_folder_atomically(target, replace=True) as folder:
        (folder / "b.txt").write_text("second")
    assert [path.name for path in target.iterdir()] == ["b.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_only_what_the_dead_left_is_removed(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".log.csv.{ended.pid}.tmp").write_text("half")
    (tmp_path / f".case.{ended.pid}.old.tmp").mkdir()
    kept = {f".case.{os.getppid()}.tmp", ".mine.tmp", f"log.csv.{ended.pid}.tmp", "log.csv"}
    for name in kept:
        (tmp_path / name).write_text("kept")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_what_another_machine_writes_is_left_alone_for_a_day(tmp_path, ended):
    """On a shared disk its process number says nothing here: it may be no process, or ours."""
    theirs = [tmp_path / f".{name}.{ended}-0badcafe.tmp" for name in ("now.csv", "last_week.csv")]
    for path in theirs:
        path.write_text("half")
    os.utime(theirs[1], (0, 0))
    with files.atomic_file(tmp_path / "now.csv"):
        (ours,) = tmp_path.glob(f".now.csv.{os.getpid()}-*.tmp")
    assert not ours.exists()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"now.csv", theirs[0].name}


@pytest.fixture
def ended():
    """The number of a process that runs no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def replace_folder(path, text):
    with write_folder_atomically(path, replace=True) as folder:
        (folder / "a.txt").write_text(text)


def test_a_folder_is_exchanged_in_one_step(tmp_path, monkeypatch):
    """At no moment is there no report: two renames of which a kill could fall between."""
    replace_folder(tmp_path / "report", "old")
    monkeypatch.setattr(os, "rename", lambda *names: pytest.fail(f"renamed {names}"))
    replace_folder(tmp_path / "report", "new")
    assert (tmp_path / "report" / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["report"]


def test_a_folder_takes_the_place_of_a_file(tmp_path):
    (tmp_path / "report").write_text("old")
    replace_folder(tmp_path / "report", "new")
    assert (tmp_path / "report" / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["report"]


def test_where_names_cannot_be_exchanged_the_old_folder_steps_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda *names: False)
    replace_folder(tmp_path / "report", "old")
    replace_folder(tmp_path / "report", "new")
    assert (tmp_path / "report" / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["report"]


def test_the_next_run_finds_what_a_killed_one_left(tmp_path, ended):
    """Killed between two renames: both versions were hidden, for ever."""
    for ending, text in ((".old.tmp", "old"), (".tmp", "new")):
        hidden = tmp_path / f".report.{ended}{ending}"
        hidden.mkdir()
        (hidden / "a.txt").write_text(text)
    (tmp_path / f".other.{ended}.tmp").mkdir()
    with (
        pytest.raises(ZeroDivisionError),
        write_folder_atomically(tmp_path / "report", replace=True) as folder,
    ):
        folder.joinpath("a.txt").write_text(str(1 / 0))
    assert (tmp_path / "report" / "a.txt").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"report", f".other.{ended}.tmp"}


def test_what_a_link_names_is_written(tmp_path):
    store = tmp_path / "store"
    (store / "folder").mkdir(parents=True)
    (store / "folder" / "old.txt").write_text("old")
    (store / "log.json").write_text("old")
    for name in ("folder", "log.json", "not_there_yet"):
        (tmp_path / name).symlink_to(store / name)
    replace_folder(tmp_path / "folder", "new")
    replace_folder(tmp_path / "not_there_yet", "new")
    write_json(tmp_path / "log.json", 1)
    assert all((tmp_path / name).is_symlink() for name in ("folder", "log.json", "not_there_yet"))
    assert os.listdir(store / "folder") == os.listdir(store / "not_there_yet") == ["a.txt"]
    assert (store / "log.json").read_text() == "1\n"
    assert len(os.listdir(store)) == len(os.listdir(tmp_path)) - 1 == 3


def test_links_laid_under_a_temporary_name_are_not_followed(tmp_path):
    victim, folder = tmp_path / "victim", tmp_path / "victims"
    victim.write_text("mine")
    folder.mkdir()
    (folder / "a.txt").write_text("mine")
    (tmp_path / f".log.json.{os.getpid()}.tmp").symlink_to(victim)
    (tmp_path / f".report.{os.getpid()}.tmp").symlink_to(folder)
    write_json(tmp_path / "log.json", 1)
    replace_folder(tmp_path / "report", "new")
    (tmp_path / f".scan.nii.{os.getpid()}.tmp").symlink_to(folder)
    write_volume(tmp_path / "scan.nii", np.ones((2, 3, 4), np.int16), Geometry((1, 1, 1)))
    assert os.listdir(folder) == ["a.txt"]
    assert victim.read_text() == (folder / "a.txt").read_text() == "mine"
    assert (tmp_path / "log.json").read_text() == "1\n"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"\xff\xfe", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"[" * 100_000, "maximum recursion depth exceeded"),
        (b"{", "Expecting property name enclosed in double quotes"),
    ],
)
def test_damaged_json_is_one_line(tmp_path, content, found):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    with pytest.raises(RunError) as refusal:
        read_json(path)
    assert str(refusal.value).startswith(f"{path} cannot be read: {found}")
    assert "\n" not in str(refusal.value)


def test_a_text_is_measured_before_it_is_read(tmp_path):
    path = tmp_path / "split.json"
    with path.open("wb") as file:
        file.truncate(10**12)  # takes no space
    with pytest.raises(RunError) as refusal:
        read_json(path)
    assert str(refusal.value) == (
        f"{path} cannot be read: found 1000000000000 bytes; expected 200000000 at most"
    )


def test_names_that_are_no_text_are_written_and_read(tmp_path):
    """A file's name may hold bytes that are not UTF-8, which Python keeps as lone surrogates."""
    path = os.fsdecode(b"/data/M\xfcller.csv")
    write_json(tmp_path / "split.json", {"image": path})
    assert read_json(tmp_path / "split.json") == {"image": path}


def test_a_writer_removes_what_was_left_of_its_own_file(tmp_path, ended):
    """Killed in the midst of a large file: its half stayed for ever."""
    for name in ("a.json", "scan.nii.gz", "other.json"):
        (tmp_path / f".{name}.{ended}.tmp").write_text("half")
    write_json(tmp_path / "a.json", 1)
    write_volume(tmp_path / "scan.nii.gz", np.ones((2, 3, 4), np.int16), Geometry((1, 1, 1)))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"a.json", "scan.nii.gz", f".other.json.{ended}.tmp"}
