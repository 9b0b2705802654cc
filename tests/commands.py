"""How the tests run a command, in this process or in its own, and what it may leave behind."""

import contextlib
import hashlib
import importlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    package: str
    status: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """The lines on stderr but that of the cost; what a progress bar draws over is none."""
        said = [line for line in self.stderr.splitlines() if line.strip() and "%|" not in line]
        return [line for line in said if not line.startswith("measured: ")]

    def ok(self) -> str:
        """Return what was printed by a command that must have succeeded."""
        assert self.status == 0, self
        return self.stdout

    def refused(self, verb: str, *expected: str) -> None:
        """The mistake is one line that begins with the verb and holds all that is expected; of
        several cases, a line each comes before it."""
        assert self.status == 2, self
        *cases, last = self.lines
        assert not cases or "no usable result for" in last, self.stderr
        assert last.startswith(f"{self.package} {verb}: "), self.lines
        for text in expected:
            assert text in self.stderr, (text, self.stderr)


def run(package: str, *words, cwd: Path | None = None) -> Done:
    """Run `python -m <package> <words>` in this process, where TensorFlow is loaded once for all.

    Args:
        package: a paper, or "common".
        words: any objects; their texts are the command line.
        cwd: folder to run it in; None: where the tests run.
    """
    main = importlib.import_module(f"{package}.__main__").main
    out, err = io.StringIO(), io.StringIO()
    argv, environment, here, stderr = sys.argv, dict(os.environ), Path.cwd(), os.dup(2)
    with tempfile.TemporaryFile() as descriptor:
        # Libraries write to the descriptor, not to `sys.stderr`.
        os.dup2(descriptor.fileno(), 2)
        try:
            sys.argv = [package, *map(str, words)]
            os.chdir(cwd or here)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = main()
        except SystemExit as ended:  # the parser's own, after its help
            status = ended.code
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            os.chdir(here)
            sys.argv = argv
            os.environ.clear()
            os.environ.update(environment)
        descriptor.seek(0)
        from_libraries = descriptor.read().decode(errors="replace")
    return Done(package, status, out.getvalue(), err.getvalue() + from_libraries)


def run_alone(package: str, *words, cwd: Path = ROOT, **environment: str) -> Done:
    """Run `python -m <package> <words>` as a process of its own: the same bits each time."""
    done = subprocess.run(
        program(package, words), cwd=cwd, env=with_project(environment), text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    return Done(package, done.returncode, done.stdout, done.stderr)


def start(package: str, *words, cwd: Path = ROOT) -> subprocess.Popen:
    """Start `python -m <package> <words>` as a process of its own, to be killed or waited for."""
    return subprocess.Popen(
        program(package, words), cwd=cwd, env=with_project({}), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def program(package, words):
    return [sys.executable, "-m", package, *map(str, words)]


def with_project(environment):
    """The environment with changes; the project is found from any folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **environment}


def tree(folder: Path) -> dict[str, str]:
    """Return every file below a folder with the hash of its content."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextlib.contextmanager
def small_files_only(limit: int):
    """A disk on which no file grows beyond `limit` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_no_network(run_folder: Path) -> None:
    """The folder does not pretend to be a finished run, and nothing is left half-written."""
    assert not (run_folder / "model.keras").exists()
    if (run_folder / "manifest.json").exists():
        manifest = json.loads((run_folder / "manifest.json").read_text())
        assert manifest["status"] == "failed"
    hidden = [path.name for path in run_folder.rglob(".*")]
    assert set(hidden) <= {".lock"}
