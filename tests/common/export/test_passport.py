"""What the passport of an exported model says, and that it is true."""

import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from common.errors import OptionError, RunError
from common.export.command import export
from common.export.parity import PARITY, read_parity
from common.export.passport import (
    PASSPORT,
    Description,
    describe_input,
    hash_weights,
    read_passport,
)
from common.export.warmup import WARMUP_FILE, read_warmup
from common.papers import ROOT
from common.runs.training_grid import TrainingGrid

pytestmark = pytest.mark.slow

PAPERS = ("dhcp_fetal", "fetal_brain", "raseg", "sarcoma", "vertebra")
KEYS = {
    "schema", "paper", "name", "version", "created_utc", "code", "run", "data", "weights", "files",
    "inputs", "preprocessing", "labels", "outputs", "signatures", "whole_scan", "parity", "metrics",
    "intended_use", "limits",
}  # fmt: skip
CASES = {
    "dhcp_fetal": "case scan (test)",
    "fetal_brain": "case scan (test)",
    "raseg": "case 5 (test)",
    "sarcoma": "case STS_003 (test)",
    "vertebra": "the search through case case1 (test)",
}


@pytest.mark.parametrize("paper", PAPERS)
class TestContent:
    def test_nothing_is_missing(self, exported, paper):
        passport = read_passport(exported(paper).folder)
        assert passport.keys() == KEYS
        assert (passport["schema"], passport["paper"], passport["name"]) == (1, paper, paper)
        assert passport["version"] == 1
        assert list(passport["labels"]) == ["0", "2" if paper == "fetal_brain" else "1"]
        assert all(isinstance(step["in_graph"], bool) for step in passport["preprocessing"])
        wanted = {name for sides in passport["signatures"].values() for name in sides["inputs"]}
        assert passport["inputs"].keys() <= wanted
        given = {name for sides in passport["signatures"].values() for name in sides["outputs"]}
        assert passport["outputs"].keys() == given
        for described in passport["inputs"].values():
            assert len(described["axes"].removesuffix("C")) == len(described["minimum_size"]) == 3
        signature = passport["whole_scan"]["signature"]
        assert (signature or "serving_default") in passport["signatures"]
        assert signature or f"python -m {paper} predict" in passport["whole_scan"]["command"]

    def test_it_names_no_place_of_this_machine(self, exported, paper):
        text = (exported(paper).folder / PASSPORT).read_text()
        assert not re.search(r'"[^"]*/(tmp|home|work|root)/', text)
        assert exported(paper).run.name == "run"

    def test_it_was_compared_on_a_case_of_the_run(self, exported, paper):
        passport = read_passport(exported(paper).folder)
        assert passport["parity"]
        for entry in passport["parity"].values():
            assert CASES[paper] in entry["case"]
            assert entry["largest_difference"] <= entry["tolerance"] <= 1e-4
        assert "note:" not in exported(paper).said

    def test_recorded_outputs_are_worth_comparing(self, exported, paper):
        """A constant would be equal whatever the graph does."""
        _, outputs = read_parity(exported(paper).folder / PARITY)
        spread = {key: np.ptp(array) for key, array in outputs.items() if array.size > 1}
        assert all(value > 1e-3 for key, value in spread.items() if "labels" not in key), spread

    def test_warmup_requests_are_the_recorded_case(self, exported, paper):
        folder = exported(paper).folder
        inputs, _ = read_parity(folder / PARITY)
        requests = read_warmup(folder / WARMUP_FILE)
        assert {request.signature for request in requests} == inputs.keys()
        for request in requests:
            assert request.model == paper
            for name, array in inputs[request.signature].items():
                np.testing.assert_array_equal(request.inputs[name], array, strict=True)

    def test_network_file_is_the_runs(self, exported, paper):
        model = exported(paper)
        trained = (model.run / "model.keras").read_bytes()
        assert (model.folder / "model.keras").read_bytes() == trained


def test_network_files_load_after_what_their_limits_name(exported):
    """In plain Keras those of Keras' own layers; then, in the same process, after one import each
    the others."""
    program, wanted = ["import keras"], []
    for paper in sorted(PAPERS, key=lambda name: name not in ("fetal_brain", "sarcoma")):
        passport = read_passport(exported(paper).folder)
        named = re.findall(r"`import (\w+)` comes before", " ".join(passport["limits"]))
        assert named == ([] if paper in ("fetal_brain", "sarcoma") else [paper])
        path = str(exported(paper).folder / "model.keras")
        program += [f"import {name}" for name in named]
        program.append(f"print(keras.saving.load_model({path!r}).count_params())")
        wanted.append(str(passport["weights"]["parameters"]))
    done = subprocess.run([sys.executable, "-c", "\n".join(program)], capture_output=True,
                          text=True, cwd=ROOT)  # fmt: skip
    assert done.stdout.split() == wanted, done.stderr


def test_orientation_and_voxels_are_those_of_the_training():
    """Of the whole training, along the axes of each input; without a common grid, as it was."""
    any_ = {"minimum_size": (1, 1, 1), "intensities": "any", "modality": "MRI"}
    image = describe_input(axes="ZYXC", channels=["T2"], spacing_mm=(9, 9, 9),
                           spacing_tolerance=0.1, **any_)  # fmt: skip
    mask = describe_input(axes="XYZ", channels=["mask"], **any_)
    stated = Description({"image": image, "mask": mask}, [], {}, {}, [])
    assert stated.on_grid(None) is stated
    inputs = stated.on_grid(TrainingGrid("LPS", (1.0, 1.5, 3.0))).inputs
    assert [entry["orientation"] for entry in inputs.values()] == ["LPS", "LPS"]
    assert inputs["image"]["spacing_mm"] == {"expected": [3.0, 1.5, 1.0], "tolerance": 0.1}
    assert inputs["mask"]["spacing_mm"] == {"expected": [1.0, 1.5, 3.0], "tolerance": None}


def test_weights_are_known_by_their_numbers():
    """The same for equal numbers, another for one number or one name that differs."""

    def build(name="dense"):
        x = keras.Input((2,))
        model = keras.Model(x, keras.layers.Dense(1, name=name)(x))
        model.set_weights([np.array([[1.0], [2.0]], np.float32), np.zeros(1, np.float32)])
        return model

    model = build()
    assert hash_weights(model) == hash_weights(build())
    assert hash_weights(model) != hash_weights(build("other"))
    model.set_weights([np.array([[1.0], [2.5]], np.float32), np.zeros(1, np.float32)])
    assert hash_weights(model) != hash_weights(build())


@pytest.mark.parametrize("text", ["{}", '{"schema": 2}', "[]", "no json"])
def test_a_passport_of_another_kind_is_refused(tmp_path, text):
    (tmp_path / PASSPORT).write_text(text)
    with pytest.raises(RunError, match=r"passport.json"):
        read_passport(tmp_path)


def test_data_that_moved_away_is_said(exported, tmp_path, capsys):
    """The export still works, and the passport says what it was compared on."""
    import shutil

    run = shutil.copytree(exported("fetal_brain").run, tmp_path / "run")
    split = json.loads((run / "split.json").read_text())
    split["test"][0]["image_path"] = str(tmp_path / "gone.nii.gz")
    (run / "split.json").write_text(json.dumps(split))
    export("fetal_brain", run, tmp_path / "models", name="moved")
    said = capsys.readouterr().out
    assert "note: no case of the run could be read, so seeded noise was used: " in said
    assert "gone.nii.gz" in said
    parity = read_passport(tmp_path / "models" / "moved" / "1")["parity"]
    assert {entry["case"] for entry in parity.values()} == {"seeded noise"}
    with pytest.raises(OptionError, match="exists already"):
        export("fetal_brain", run, tmp_path / "models", name="moved", version=1)


@pytest.mark.parametrize("paper", PAPERS)
def test_a_run_without_a_network_is_refused(exported, tmp_path, paper):
    import shutil

    run = shutil.copytree(exported(paper).run, tmp_path / "run")
    (run / "model.keras").unlink()
    with pytest.raises(RunError, match=r"model.keras is missing"):
        export(paper, run, tmp_path / "models")
    assert not (tmp_path / "models").exists()
