"""The container recipes, as far as no daemon is needed: their steps in an empty folder.

Not run here: what asks the network for packages (apt-get, and make setup, which the tests
themselves were installed with).
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
APPTAINER = (ROOT / "apptainer.def").read_text(encoding="utf-8")
ASKS_THE_NETWORK = ("apt-get", "make setup", ".venv/bin/python -m pip install")


def steps():
    """Return instruction and argument of every step of the Dockerfile."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """What `COPY . .` takes of a checkout: all but the lines of .dockerignore."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    target = tmp_path_factory.mktemp("image") / "suite"
    caches = shutil.ignore_patterns("__pycache__", ".*_cache", "*.egg-info", ".hypothesis")

    def ignore(folder, names):
        top = Path(folder) == ROOT
        return caches(folder, names) | (set(ignored) & set(names) if top else set())

    shutil.copytree(ROOT, target, ignore=ignore)
    return target


def test_what_is_copied_is_enough_to_set_up_and_to_run(copied):
    assert not (copied / ".git").exists()
    planned = subprocess.run(
        ["make", "-n", "setup"], cwd=copied, capture_output=True, text=True, check=True
    ).stdout
    assert "--require-hashes -r requirements.lock" in planned
    words = dict(steps())
    command = [*json.loads(words["ENTRYPOINT"]), *json.loads(words["CMD"])]
    assert command[0] == "python"
    done = subprocess.run(
        [sys.executable, *command[1:]], cwd=copied, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "pool-runs" in done.stdout


def test_every_step_is_either_run_here_or_asks_the_network():
    for instruction, argument in steps():
        if instruction == "RUN":
            parts = re.split(r" && | \|\| ", argument)
            local = [part for part in parts if not part.startswith(ASKS_THE_NETWORK)]
            assert local in ([], ["rm -rf /var/lib/apt/lists/*"], ['test -z "$EXTRA"']), argument


def test_both_recipes_do_the_same():
    first = dict(steps())["FROM"]
    assert f"From: {first}" in APPTAINER
    for words in ("git make", "make setup", "/suite/.venv/bin:$PATH"):
        assert words in DOCKERFILE, words
        assert words in APPTAINER, words
