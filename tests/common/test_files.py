"""Files and folders are whole, or not there."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataError
from common.files import remove_leftovers, sha256_of, write_folder_atomically, write_json


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
