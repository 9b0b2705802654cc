"""`pip install .` into an empty folder: every file, the console scripts, verbs that run there."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PAPERS = sorted(path.parent.name for path in ROOT.glob("*/config.py"))
BUILT_FROM = ("setup.cfg", "pyproject.toml", "README.md", "common", *PAPERS)
NEVER_INSTALLED = {".pyc"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The project as pip installs it, without its dependencies, which are those of the tests."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:  # a copy: the build writes beside what it builds from
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "*.tmp")
            shutil.copytree(ROOT / name, source / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--no-compile"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def run(installed, tmp_path):
    """Run a program of the installed project from an empty folder."""

    def start(*words):
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        environment["PATH"] = f"{installed / 'bin'}{os.pathsep}{environment['PATH']}"
        return subprocess.run(
            [*map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip

    return start


def scripts():
    """Return the console scripts of setup.cfg and the packages they run."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    lines = settings["options.entry_points"]["console_scripts"].split("\n")
    entries = dict(line.split(" = ") for line in lines if line)
    return {name: place.partition(".")[0] for name, place in entries.items()}


def test_every_paper_has_its_script():
    assert {
        name.replace("-", "_"): paper for name, paper in scripts().items() if paper in PAPERS
    } == {paper: paper for paper in PAPERS}


def test_every_file_of_a_package_is_installed(installed):
    """Templates, claims, cards and notebooks, too: what is read at run time must be there."""
    missing = []
    for package in ("common", *PAPERS):
        for path in (ROOT / package).rglob("*"):
            place = path.relative_to(ROOT)
            if (
                path.is_file()
                and path.suffix not in NEVER_INSTALLED
                and "__pycache__" not in str(place)
            ):
                missing += [] if (installed / place).is_file() else [str(place)]
    assert missing == []
    assert not (installed / "tests").exists()


@pytest.mark.parametrize("script", sorted(scripts()))
def test_scripts_answer_from_an_empty_folder(run, installed, script):
    done = run(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "commands:" in done.stdout
    done = run(script, "prepare", "--help")
    assert done.returncode == 0, done.stderr
    assert "--check" in done.stdout


def test_a_command_works_where_it_is_installed(run, installed, tmp_path):
    """A phantom is written and checked; the papers are found in the installed tree alone."""
    done = run("raseg", "phantom", "--out", "datasets", "--cases", "4", "--shape", "32,32,6")
    assert done.returncode == 0, done.stderr
    done = run("raseg", "prepare", "--check")
    assert done.returncode == 0, done.stderr
    assert "4 volumes: 4 in order" in done.stdout
    code = "import common, common.papers as p; print(common.__file__, *p.find_papers())"
    where, *papers = run(sys.executable, "-c", code).stdout.split()
    assert Path(where).parents[1] == installed
    assert papers == PAPERS
    assert [path.name for path in tmp_path.iterdir()] == ["datasets"]
