"""What the original was recorded with, and one whole passage through the commands."""

import csv
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import commands
import pytest


@pytest.fixture(scope="session")
def golden(golden):
    """Recorded arrays by file name: `golden("layers")["pool_even_in"]`."""
    return golden("fetal_brain")


@pytest.fixture(scope="session")
def recipe(recipe):
    """The module `recipes/fetal_brain.py`."""
    return recipe("fetal_brain")


@dataclass(frozen=True)
class Work:
    """One whole passage through the commands; later tests read it and leave it as it is."""

    folder: Path

    NETWORK = ("--filters", "4,4,8", "--kernels", "3,3,1", "--patch_shape", "3,32,32")
    """Three scales are enough to pool and to enlarge once, and compile quickly."""
    PREPARED = ("--preset", "quick", *NETWORK)
    SMALL = (*PREPARED, "--max_steps", "4", "--steps_per_evaluation", "2", "--batch_size", "2",
             "--held_out_cases", "2")  # fmt: skip
    SHAPE = (5, 64, 64)

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

    @cached_property
    def said(self) -> dict[str, commands.Done]:
        """How each command ended."""
        stored = json.loads((self.folder / "said.json").read_text())
        return {verb: commands.Done(**done) for verb, done in stored.items()}

    def rows(self) -> list[list[str]]:
        """Return the rows of the list with absolute paths."""
        with self.csv.open(newline="") as stream:
            rows = list(csv.reader(stream))[1:]
        return [[row[0], *(str(self.csv.parent / cell) for cell in row[1:])] for row in rows]

    def fill(self, words) -> list:
        """Return the words of a command with the names of files and options filled in."""
        known = {"LIST": [self.csv], "RUN": [self.run], "SMALL": self.SMALL,
                 "PREPARED": self.PREPARED}  # fmt: skip
        return [word for name in words for word in known.get(name, [name])]


def make_work(folder):
    """phantom, prepare, train, predict, evaluate, export and compare, as a user runs them."""
    work, said = Work(folder), {}
    for how, *words in (
        (commands.run, "phantom", "--out", work.csv.parent, "--cases", 5, "--shape", "5,64,64"),
        (commands.run, "prepare", "--train_csv", work.csv, *work.PREPARED, "--out", work.prepared),
        (commands.run_alone, "train", "--train_csv", work.csv, *work.SMALL, "--run", work.run,
         "--prepared", work.prepared, "--deterministic", "true"),
        (commands.run, "predict", "--run", work.run),
        (commands.run, "evaluate", "--run", work.run),
        (commands.run, "export", "--run", work.run, "--to", folder / "models"),
        (commands.run, "compare", "--run", work.run, "--out", folder / "compared.json"),
    ):  # fmt: skip
        done = how("fetal_brain", *words)
        done.ok()
        said[words[0]] = asdict(done)
    (folder / "said.json").write_text(json.dumps(said))


@pytest.fixture(scope="session")
def work(made_once):
    """One whole passage through the commands on tiny phantoms."""
    return Work(made_once("fetal_brain", make_work))


@pytest.fixture(scope="session")
def initialisation(golden_dir):
    """Shape, largest value and deviation of each of the original's 82 variables at its start."""
    return json.loads((golden_dir / "fetal_brain" / "init.json").read_text())


@pytest.fixture(scope="session")
def recipe_weights(golden, initialisation, recipe):
    """{original variable name: array} of the recorded network."""
    import tensorflow as tf

    # On a GPU, TF32 convolutions round far outside the tolerances of a recorded comparison.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    kernels = golden("layers")
    up_kernels = {kernels[key].shape: kernels[key] for key in ("upkernel_1x1x1", "upkernel_1x2x2")}
    return recipe.make_weights({n: v["shape"] for n, v in initialisation.items()}, up_kernels)


@pytest.fixture(scope="session")
def original_checkpoint(shared):
    """Folder with a real checkpoint and a real export of the original."""
    return shared / "golden" / "fetal_brain" / "model_dir"
