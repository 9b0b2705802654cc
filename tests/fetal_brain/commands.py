"""What the tests of the commands share: how a command is run and what it may leave behind."""

import contextlib
import csv
import hashlib
import io
import json
import os
import resource
import runpy
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ("--filters", "4,4,8", "--kernels", "3,3,1", "--patch_shape", "3,32,32")
"""Three scales are enough to pool and to enlarge once, and compile quickly."""
PREPARED = ("--preset", "quick", *NETWORK)
SMALL = (*PREPARED, "--max_steps", "4", "--steps_per_evaluation", "2", "--batch_size", "2",
         "--held_out_cases", "2")  # fmt: skip
SHAPE = (5, 64, 64)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """The lines on stderr but the plan's; what a progress bar draws over again is none."""
        said = [line for line in self.stderr.splitlines() if line.strip() and "%|" not in line]
        return [line for line in said if not line.startswith("plan: ")]

    def assert_succeeded(self) -> "Done":
        assert self.status == 0, self
        return self

    def assert_refused(self, verb: str, *expected: str) -> None:
        assert self.status == 2, self
        assert len(self.lines) == 1, self.stderr
        assert self.lines[0].startswith(f"fetal_brain {verb}: "), self.lines
        for text in expected:
            assert text in self.lines[0], (text, self.lines[0])


def run(*words) -> Done:
    """Run `python -m fetal_brain` within this process, where TensorFlow is loaded once for all."""
    out, err = io.StringIO(), io.StringIO()
    argv, environment, stderr = sys.argv, dict(os.environ), os.dup(2)
    sys.argv = ["fetal_brain", *map(str, words)]
    with tempfile.TemporaryFile() as descriptor:
        os.dup2(descriptor.fileno(), 2)
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                with pytest.raises(SystemExit) as ended:
                    runpy.run_module("fetal_brain", run_name="__main__")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            sys.argv = argv
            os.environ.clear()
            os.environ.update(environment)
        descriptor.seek(0)
        from_libraries = descriptor.read().decode(errors="replace")
    return Done(ended.value.code, out.getvalue(), err.getvalue() + from_libraries)


def run_alone(*words) -> Done:
    """Run `python -m fetal_brain` as a process of its own: the same bits at every repetition."""
    done = subprocess.run(
        [sys.executable, "-m", "fetal_brain", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def fill(words, work) -> list:
    """Return the words of a command with the names of a passage's files and options filled in."""
    known = {"LIST": [work.csv], "RUN": [work.run], "SMALL": SMALL, "PREPARED": PREPARED}
    return [word for name in words for word in known.get(name, [name])]


def tree(folder: Path) -> dict[str, str]:
    """Return every file below a folder with the hash of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_no_network(run_folder: Path) -> None:
    """The folder does not pretend to be a finished run, and nothing is left half-written."""
    assert not (run_folder / "model.keras").exists()
    if (run_folder / "manifest.json").exists():
        manifest = json.loads((run_folder / "manifest.json").read_text())
        assert manifest["status"] == "failed"
    hidden = [path.name for path in run_folder.rglob(".*")]
    assert set(hidden) <= {".lock"}


@contextlib.contextmanager
def small_files_only(limit: int):
    """A disk on which no file grows beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@dataclass(frozen=True)
class Work:
    """One whole passage through the commands; later tests read it and leave it as it is."""

    folder: Path
    said: dict[str, Done] = field(default_factory=dict)

    @property
    def csv(self) -> Path:
        """The list of five phantoms."""
        return self.folder / "phantom" / "phantom.csv"

    @property
    def prepared(self) -> Path:
        return self.folder / "prepared"

    @property
    def run(self) -> Path:
        """The run folder: two cases trained on, one watched, two held out."""
        return self.folder / "run"

    def rows(self) -> list[list[str]]:
        """Return the rows of the list with absolute paths."""
        with self.csv.open(newline="") as stream:
            rows = list(csv.reader(stream))[1:]
        return [[row[0], *(str(self.csv.parent / cell) for cell in row[1:])] for row in rows]


def make_work(folder: Path) -> Work:
    """Run phantom, prepare, train, predict, evaluate, export and compare, as a user does."""
    work = Work(folder)
    for how, *words in (
        (run, "phantom", "--out", work.csv.parent, "--cases", 5, "--shape", "5,64,64"),
        (run, "prepare", "--train_csv", work.csv, *PREPARED, "--out", work.prepared),
        (run_alone, "train", "--train_csv", work.csv, *SMALL, "--run", work.run,
         "--prepared", work.prepared, "--deterministic", "true"),
        (run, "predict", "--run", work.run),
        (run, "evaluate", "--run", work.run),
        (run, "export", "--run", work.run, "--to", folder / "models"),
        (run, "compare", "--run", work.run, "--out", folder / "compared.json"),
    ):  # fmt: skip
        work.said[words[0]] = how(*words).assert_succeeded()
    return work
