"""`python -m common verify`: what it accepts, what it finds, what it refuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from common.__main__ import main
from common.export.checks import verify
from common.export.parity import PARITY
from common.export.passport import PASSPORT, hash_files, read_passport
from common.export.saved_model import foreign_operations
from common.files import write_json

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
VARIABLES = "variables/variables.data-00000-of-00001"


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of an exported model that a test may spoil."""
    return shutil.copytree(exported("vertebra").folder, tmp_path / "vertebra" / "1")


def failures(folder):
    """Return {check: detail} of what failed; no check that runs the graph may have been tried."""
    checks = verify(folder)
    return {check.what: check.detail for check in checks if check.result == "FAILED"}


def restate(folder, **changes):
    """Write the passport again with the true sums of the files, as a forger would."""
    passport = read_passport(folder)
    write_json(folder / PASSPORT, {**passport, "files": hash_files(folder), **changes})


def run(*words):
    """Run the command as a user does, where Keras cannot be imported; return status and text."""
    done = subprocess.run(
        [sys.executable, "-m", "common", "verify", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_a_whole_model_is_as_its_passport_says(exported):
    folder = exported("fetal_brain").folder
    status, said, _ = run(folder)
    assert status == 0, said
    rows = [line.split()[:2] for line in said.splitlines()]
    assert ["volume/probabilities", "ok"] in rows
    assert said.splitlines()[-1] == f"{folder}: as its passport says"
    assert len({line.index(" ok ") for line in said.splitlines()[1:-1]}) == 1  # columns


@pytest.mark.parametrize("paper", ["dhcp_fetal", "raseg", "sarcoma", "vertebra"])
def test_the_other_papers(exported, paper):
    checks = verify(exported(paper).folder)
    assert {check.result for check in checks} == {"ok"}, checks
    tried = {check.what for check in checks}
    assert read_passport(exported(paper).folder)["parity"].keys() <= tried


class TestFindings:
    def test_a_changed_byte(self, copy):
        path = copy / VARIABLES
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        checks = verify(copy)
        found = {check.what: check for check in checks}
        assert f"{VARIABLES} was changed: sha256 " in found["file"].detail
        assert found["recorded case"].result == "not tried"
        status, said, _ = run(copy)
        assert status == 1
        assert "FAILED: file, signatures" in said.splitlines()[-1]

    def test_missing_and_extra_files(self, copy):
        (copy / VARIABLES).unlink()
        (copy / "notes.txt").write_text("mine")
        details = [check.detail for check in verify(copy) if check.what == "file"]
        assert details == [f"{VARIABLES} is missing", "notes.txt is not in the passport"]

    @pytest.mark.parametrize(
        "text", ["{", '{"schema": 1}', '{"schema": 9}', '{"schema": 1, "name": 3}']
    )
    def test_a_passport_that_is_none(self, copy, text):
        (copy / PASSPORT).write_text(text)
        assert list(failures(copy)) == ["passport"]

    def test_a_model_without_passport(self, copy):
        (copy / PASSPORT).unlink()
        assert "expected passport.json" in failures(copy)["passport"]

    def test_another_output_than_recorded(self, copy):
        """The sums are right: only the graph can tell."""
        with np.load(copy / PARITY) as arrays:
            changed = dict(arrays)
        changed["serving_default/output:mask"][0, 0, 0] -= 0.01
        np.savez_compressed(copy / PARITY, **changed)
        restate(copy)
        found = failures(copy)
        assert list(found) == ["serving_default/mask"]
        assert found["serving_default/mask"].startswith("1.0e-02 of at most 1e-05; ")

    def test_other_signatures_than_stated(self, copy):
        signatures = read_passport(copy)["signatures"]
        signatures["serving_default"]["inputs"]["image"]["dtype"] = "float64"
        restate(copy, signatures=signatures)
        assert "serving_default: found " in failures(copy)["signatures"]

    def test_a_graph_that_writes_files_is_not_run(self, exported, tmp_path):
        """A forger's passport agrees with his graph; only its operations tell."""
        folder, victim = tmp_path / "x" / "1", tmp_path / "victim"
        shutil.copytree(exported("vertebra").folder, folder)
        loaded = tf.saved_model.load(str(folder))
        honest = loaded.signatures["serving_default"]

        class Forged(tf.Module):
            @tf.function
            def serve(self, image, memory):
                tf.raw_ops.WriteFile(filename=str(victim), contents="x")
                return self.honest(image=image, memory=memory)

        module = Forged()
        module.model, module.honest = loaded, honest
        specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name)
                 for name, spec in honest.structured_input_signature[1].items()}  # fmt: skip
        forged = module.serve.get_concrete_function(**specs)
        passport, parity = (folder / PASSPORT).read_bytes(), (folder / PARITY).read_bytes()
        extra = shutil.copytree(folder / "assets.extra", tmp_path / "extra")
        shutil.rmtree(folder)
        tf.saved_model.save(module, str(folder), {"serving_default": forged})
        shutil.copytree(extra, folder / "assets.extra")
        (folder / PASSPORT).write_bytes(passport)
        (folder / PARITY).write_bytes(parity)
        restate(folder)
        assert foreign_operations(folder) == ["WriteFile"]
        checks = {check.what: check for check in verify(folder)}
        assert checks["operations"] == ("operations", "FAILED", "not of this suite: WriteFile")
        assert checks["recorded case"].result == "not tried"
        assert not victim.exists()
        assert "operations" not in {check.what for check in verify(folder, trust=True)}
        assert victim.read_text() == "x"

    def test_a_damaged_graph(self, copy):
        (copy / "saved_model.pb").write_bytes(b"\xff" * 40)
        restate(copy)
        assert "is damaged" in failures(copy)["signatures"]
        assert "recorded case" in failures(copy)


class TestMistakes:
    def test_no_model(self, tmp_path, capsys):
        assert main(["verify", str(tmp_path)]) == 2
        assert capsys.readouterr().err == (
            f"common verify: {tmp_path} is not an exported model; expected passport.json\n"
        )

    def test_no_folder(self, tmp_path, capsys):
        assert main(["verify", str(tmp_path / "none")]) == 2
        assert "expected models/<name>/<version>" in capsys.readouterr().err

    def test_the_model_instead_of_a_version(self, exported, capsys):
        folder = exported("vertebra").folder
        assert main(["verify", str(folder.parent)]) == 2
        assert f"expected one of its versions, such as {folder}" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["verify"], "the following arguments are required: MODELS/NAME/VERSION"),
            (["verify", "a", "b"], "unrecognized arguments: b"),
            (["check", "a"], "unknown command 'check'; expected one of: reproduce,"),
        ],
    )
    def test_other_words(self, words, said, capsys):
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"common {words[0]}: {said}")

    def test_no_words(self, capsys):
        assert main([]) == 2
        assert "  verify       verify an exported model" in capsys.readouterr().out
