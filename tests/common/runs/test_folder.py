"""The run folder: who may write it, what it remembers, what survives a failure."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import yaml
from jsonargparse import ArgumentParser

from common.data.geometry import Geometry
from common.data.volumes import write_volume
from common.errors import RunError
from common.files import write_text_atomically
from common.runs.folder import load_config, load_run, open_run
from common.runs.log import read_log
from common.runs.provenance import git_state

SHA256_OF_48_ZEROS = "17b0761f87b081d5cf10757ccc89f12be355c70e2e29df288b65b30710dcbcd1"
SHA256_OF_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2


@dataclass(frozen=True)
class Config:
    """Every kind of field that a paper's configuration has."""

    label_ids: tuple[int | tuple[int, ...], ...] = (0, (1, 2))
    patch_shape: tuple[int, int, int] = (3, 128, 128)
    learning_rate: float = 1e-5
    training_cases: int | None = None
    validation: Literal["patch_batch", "volumes"] = "volumes"
    shuffle: bool = True


def open_example(path, *, config=Config(), seed=42, overwrite=False, paper="example", **options):
    options = {"data": Path("/data/list.csv"), "preset": "port", **options}
    return open_run(
        path, paper=paper, options=options, config=config, seed=seed, overwrite=overwrite
    )


def break_off(path, work=lambda run: None, failure=ZeroDivisionError, **other):
    """Open a run, do some work and fail."""
    with open_example(path, **other) as run:
        work(run)
        raise failure


def leave_unfinished(path, work=lambda run: None):
    with pytest.raises(ZeroDivisionError):
        break_off(path, work)


@contextmanager
def small_files_only(limit):
    """A disk on which no file grows beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def manifest_of(path):
    return json.loads((path / "manifest.json").read_text())


def test_a_finished_run_tells_how_it_was_made(tmp_path):
    path = tmp_path / "deep" / "run"
    scan = tmp_path / "scan.nii"
    scan.write_bytes(b"abc")
    with open_example(path) as run:
        assert manifest_of(path)["status"] == "running"
        assert not run.resumed
        run.record(runtime={"threads": np.int64(2)}, phantom=True)
        run.record_files([scan])
        run.write_split({"training": [{"id": "a", "image": scan}], "test": []})
    manifest = manifest_of(path)
    assert manifest["status"] == "finished"
    assert manifest["paper"] == "example"
    assert manifest["seed"] == 42
    assert manifest["runtime"] == {"threads": 2}
    assert manifest["data_files"] == {str(scan): {"bytes": 3, "sha256": SHA256_OF_ABC}}
    assert manifest["packages"]["numpy"] == np.__version__
    assert manifest["cores"] == len(os.sched_getaffinity(0))
    assert manifest["started"] <= manifest["finished"]
    assert manifest["started"].endswith("+00:00")
    read = load_run(path)
    assert (read.status, read.paper, read.path) == ("finished", "example", path)
    assert read.read_split() == {"training": [{"id": "a", "image": str(scan)}], "test": []}
    with pytest.raises(ValueError, match="opened for reading"):
        read.record(phantom=False)


def test_configuration_is_safe_yaml_that_gives_the_configuration_back(tmp_path):
    config = Config(training_cases=30, validation="patch_batch")
    with open_example(tmp_path / "run", config=config, tag=None):
        pass
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored["label_ids"] == [0, [1, 2]]
    assert stored["data"] == "/data/list.csv"
    assert stored["tag"] is None
    assert (stored["learning_rate"], stored["seed"]) == (1e-5, 42)
    assert load_config(tmp_path / "run", Config) == config


def test_configuration_replays_on_a_command_line(tmp_path):
    def train(data: Path, tag: str | None = None, preset: str = "paper", seed: int = 0):
        """Stand for a paper's verb."""

    config = Config(label_ids=(0, 5), training_cases=3, shuffle=False)
    with open_example(tmp_path / "run", config=config, seed=7, tag="x", overwrite=True):
        pass
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_function_arguments(train, as_group=False, as_positional=False)
    parser.add_class_arguments(Config, as_group=True)
    values = parser.parse_args(["--config", str(tmp_path / "run" / "config.yaml")])
    assert (str(values.data), values.tag, values.preset, values.seed) == (
        "/data/list.csv", "x", "port", 7,
    )  # fmt: skip
    assert values.label_ids == (0, 5)
    assert (values.training_cases, values.shuffle) == (3, False)


def test_a_hand_edited_configuration_is_checked(tmp_path):
    with open_example(tmp_path / "run"):
        pass
    file = tmp_path / "run" / "config.yaml"
    file.write_text(file.read_text().replace("training_cases: null", "training_cases: many"))
    with pytest.raises(RunError, match=r"config\.yaml: .*training_cases.*many") as caught:
        load_config(tmp_path / "run", Config)
    assert "\n" not in str(caught.value)


def test_a_finished_run_is_refused(tmp_path):
    with open_example(tmp_path / "run"):
        pass
    with pytest.raises(RunError, match=r"run is finished.*--overwrite"):
        open_example(tmp_path / "run").__enter__()


def test_overwriting_removes_what_a_run_makes_and_nothing_else(tmp_path):
    path, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious.nii.gz").write_text("kept")
    with open_example(path) as run:
        run.write_split({"training": []})
        (path / "model.keras").write_text("old")
        (path / "report").mkdir()
        (path / "report" / "index.html").write_text("old")
        (path / "predictions").symlink_to(elsewhere, target_is_directory=True)
    (path / "notes.txt").write_text("mine")
    (path / ".hidden.tmp").write_text("mine")
    with open_example(path, config=Config(learning_rate=0.1), overwrite=True) as run:
        assert not run.resumed
        assert len(run.manifest["attempts"]) == 1
        left = sorted(entry.name for entry in path.iterdir())
    assert left == sorted(
        [".hidden.tmp", ".lock", "checkpoints", "config.yaml", "manifest.json", "notes.txt"]
    )
    assert (elsewhere / "precious.nii.gz").read_text() == "kept"
    assert load_config(path, Config).learning_rate == 0.1


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_run_is_never_touched(tmp_path, overwrite):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match=r"not a run folder: it holds report but no manifest\.json"):
        open_example(tmp_path, overwrite=overwrite).__enter__()
    assert (tmp_path / "report" / "thesis.tex").read_text() == "years of work"


def test_foreign_files_are_no_hindrance(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with open_example(tmp_path):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"config": Config(learning_rate=0.1)}, "has learning_rate 1e-05, but 0.1 is asked for"),
        ({"config": Config(label_ids=(0, (1, 3)))}, r"has label_ids\[1\]\[1\] 2, but 3"),
        ({"config": Config(training_cases=3)}, "has training_cases null, but 3"),
        ({"seed": 1}, "has seed 42, but 1"),
        ({"paper": "other"}, 'has paper "example", but "other"'),
        ({"data": Path("/x.csv")}, 'has data "/data/list.csv", but "/x.csv"'),
    ],
)
def test_an_unfinished_run_of_another_configuration_is_refused(tmp_path, change, expected):
    leave_unfinished(tmp_path / "run")
    with pytest.raises(RunError, match=expected) as caught:
        open_example(tmp_path / "run", **change).__enter__()
    assert str(tmp_path / "run") in str(caught.value)
    assert manifest_of(tmp_path / "run")["status"] == "failed"


def test_an_unfinished_run_goes_on(tmp_path):
    path = tmp_path / "run"
    leave_unfinished(path)
    assert manifest_of(path)["error"] == "ZeroDivisionError"
    resumed = []
    with pytest.raises(KeyboardInterrupt):
        break_off(path, lambda run: resumed.append(run.resumed), KeyboardInterrupt, preset="other")
    assert resumed == [True]
    assert manifest_of(path)["status"] == "interrupted"
    with open_example(path) as run:
        assert run.resumed
    manifest = manifest_of(path)
    assert manifest["status"] == "finished"
    assert "error" not in manifest
    statuses = [attempt["status"] for attempt in manifest["attempts"]]
    assert statuses == ["failed", "interrupted", "finished"]


def test_going_on_under_another_runtime_is_said(tmp_path, capsys):
    leave_unfinished(
        tmp_path / "run", lambda run: run.record(runtime={"intra_op_threads": 8, "seed": 1})
    )
    with open_example(tmp_path / "run") as run:
        run.record(runtime={"intra_op_threads": 2, "seed": 1})
    assert "began with runtime.intra_op_threads 8, now 2" in capsys.readouterr().err
    changed = manifest_of(tmp_path / "run")["attempts"][1]["changed"]
    assert changed == {"runtime.intra_op_threads": [8, 2]}


def test_changed_data_are_refused_when_a_run_goes_on(tmp_path):
    path, scan = tmp_path / "run", tmp_path / "scan.nii"
    scan.write_bytes(b"abc")
    leave_unfinished(path, lambda run: run.record_files([scan]))
    leave_unfinished(path, lambda run: run.write_split({"training": [{"id": "a"}]}))
    scan.write_bytes(b"abd")
    with pytest.raises(RunError, match=f"{scan} has changed.*ba7816bf8f01 then, "):
        break_off(path, lambda run: run.record_files([scan]))
    with pytest.raises(RunError, match=r'training\[0\].id was "a", now "b"'):
        break_off(path, lambda run: run.write_split({"training": [{"id": "b"}]}))
    assert load_run(path).read_split() == {"training": [{"id": "a"}]}
    with pytest.raises(RunError, match=r"absent\.nii cannot be read"):
        break_off(path, lambda run: run.record_files([tmp_path / "absent.nii"]))


def test_data_files_are_all_that_are_read(tmp_path):
    """The voxels of a .mhd lie in another file, which may change alone."""
    path, scan = tmp_path / "run", tmp_path / "scan.mhd"
    write_volume(scan, np.zeros((2, 3, 4), np.int16), Geometry((1, 1, 1)))
    leave_unfinished(path, lambda run: run.record_files([scan]))
    files = manifest_of(path)["data_files"]
    assert list(files) == [str(scan), str(tmp_path / "scan.raw")]
    assert files[str(tmp_path / "scan.raw")] == {"bytes": 48, "sha256": SHA256_OF_48_ZEROS}
    (tmp_path / "scan.raw").write_bytes(b"abcd" * 12)
    with pytest.raises(RunError, match=r"scan\.raw has changed since the run"):
        break_off(path, lambda run: run.record_files([scan]))


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("manifest.json", b"[]", "manifest.json is damaged at paper, status; expected the mani"),
        ("manifest.json", b'{"paper": "p"}', "manifest.json is damaged at status; expected"),
        ("manifest.json", b'{"paper": "p", "status": "running", "attempts": 7}', "at attempts;"),
        (
            "manifest.json",
            b'{"paper": "p", "status": "running", "data_files": {"/a": 3}}',
            "manifest.json is damaged at data_files; expected the manifest of a run",
        ),
        ("split.json", b"[1]", "split.json is damaged; expected the cases by subset"),
        ("split.json", b'{"training": ["a"]}', "split.json is damaged; expected the cases by"),
        (
            "config.yaml",
            b"\xff",
            "config.yaml cannot be read: 'utf-8' codec can't decode byte 0xff",
        ),
        ("config.yaml", b"seed: 2001-01-01", "date cannot be stored in a configuration or report"),
        ("config.yaml", b"a: &a [1]\nb: *a", "found an alias (*name); expected every value spelt"),
        ("config.yaml", b"[" * 10**6, "config.yaml cannot be read: found more than 20 levels"),
        ("config.yaml", b"a: {b: " * 3000, "config.yaml cannot be read: found more than 20 levels"),
        (
            "config.yaml",
            b"seed: [1",
            "config.yaml cannot be read: it is not YAML (while parsing a flow",
        ),
        ("log.csv", b"\xff", "log.csv cannot be read: 'utf-8' codec can't decode byte 0xff"),
        ("log.csv", b"epoch,step\n1,x", "log.csv is not a training log: invalid literal for int"),
        ("log.csv", b"epoch,step\n1,2,3", "log.csv is not a training log: "),
        ("log.csv", b"epoch,loss\n1,2", "log.csv is not a training log: found a row without epoch"),
    ],
)
def test_damaged_records_are_one_line(tmp_path, name, content, found):
    path = tmp_path / "run"
    leave_unfinished(path, lambda run: run.write_split({"training": [{"id": "a"}]}))
    (path / name).write_bytes(content)

    def read_all():
        load_run(path).read_split()
        read_log(path)

    with pytest.raises(RunError) as refusal:
        read_all()
    assert found in str(refusal.value)
    assert str(refusal.value).startswith(str(path / name))
    assert "\n" not in str(refusal.value)


HOSTILE = (
    "001", "1e5", "1E5", "0x1F", "0o17", "1_000", "12:30", "2001-01-01", "null", "~", "yes", "on",
    ".inf", ".nan", "1.", "- a", "a: b", "a #b", "#x", "&a", "*a", "!t", "%d", "@x", "`x`", "{a}",
    "[a]", "'", '"', "a\nb", " a ", "", "=", "<<", "?", "-", "---", "...", "a\tb", "\x7f", "é",
    "a\x85b", "\u2028", "\ufeff", "\U0001f600", "x" * 300 + " y" * 100,
)  # fmt: skip


@dataclass(frozen=True)
class TextConfig:
    """Fields that hold text."""

    ids: tuple[str, ...] = ()
    name: str = ""


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text(tmp_path, text):
    """An id 1e5 came back from a run's own configuration as a number."""
    path, config = tmp_path / "run", TextConfig(ids=(text, "b"), name=text)
    with open_example(path, config=config, tag=text) as run:
        run.write_split({"training": [{"id": text}]})
    read = load_run(path)
    assert load_config(path, TextConfig) == config
    assert (read.config["tag"], read.read_split()) == (text, {"training": [{"id": text}]})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    for name in ("data", "preset", "tag", "seed"):
        parser.add_argument(f"--{name}", type=str | int)
    parser.add_class_arguments(TextConfig, as_group=True)
    values = parser.parse_args(["--config", str(path / "config.yaml")])
    assert (values.ids, values.name) == (config.ids, config.name)


HOLDER = """
import sys, time
from common.runs.folder import open_run
with open_run(sys.argv[1], paper="example", options={}, config={}, seed=0):
    print("open", flush=True)
    time.sleep(600)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
    path = tmp_path / "run"
    root = Path(__file__).resolve().parents[3]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    try:
        assert holder.stdout.readline() == "open\n"
        begin = time.monotonic()
        for overwrite in (False, True):
            with pytest.raises(RunError, match=f"{path} is in use by process {holder.pid} on "):
                open_example(path, overwrite=overwrite).__enter__()
        assert time.monotonic() - begin < 1
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    assert manifest_of(path)["status"] == "running"
    with open_run(path, paper="example", options={}, config={}, seed=0) as run:
        assert run.resumed
    assert manifest_of(path)["status"] == "finished"


def test_folders_that_cannot_be_made_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(RunError, match=f"{path}.*cannot be (made|written)") as caught:
            open_example(path).__enter__()
        assert "\n" not in str(caught.value)


def test_a_full_disk_is_one_line_and_spares_the_old_file(tmp_path):
    file = tmp_path / "file.txt"
    write_text_atomically(file, "old")
    with small_files_only(1000), pytest.raises(RunError, match=r"file\.txt.*[Ff]ile too large"):
        write_text_atomically(file, "new" * 1000)
    with pytest.raises(RunError, match="cannot be written"), open_example(tmp_path / "run") as run:
        with small_files_only(1000):
            run.record(much="x" * 10_000)
    assert file.read_text() == "old"
    assert manifest_of(tmp_path / "run")["status"] == "failed"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


def test_load_run_wants_a_run_folder(tmp_path):
    with pytest.raises(RunError, match=r"not a run folder: expected manifest\.json"):
        load_run(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(RunError, match=r"config\.yaml cannot be read") as caught:
        load_run(tmp_path)
    assert "\n" not in str(caught.value)


def test_git_state_is_that_of_the_checkout_itself(tmp_path):
    def git(*arguments):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)

    assert git_state(tmp_path) == {"commit": None, "dirty": None}
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-m", "m")
    clean = git_state(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {**clean, "dirty": True}
    (tmp_path / "inside").mkdir()
    assert git_state(tmp_path / "inside") == {"commit": None, "dirty": None}
