"""Model cards say what a passport says, on which data, and that phantoms are phantoms."""

import copy

import pytest
import yaml

from common.__main__ import main
from common.export.card import make_card
from common.files import write_json
from common.report.page import PHANTOM_NOTICE

pytest.importorskip("huggingface_hub", reason="huggingface_hub (the extra `hub`) is not installed")
SUMMARY = {"mean": 0.8123456789, "n": 7, "sd": 0.02, "ci95_low": 0.79, "ci95_high": 0.83,
           "values": []}  # fmt: skip
PASSPORT = {
    "schema": 1, "paper": "fetal_brain", "name": "fetal_brain", "version": 3,
    "code": {"commit": "abc", "tensorflow": "2.21.0", "keras": "3.15.1"},
    "data": {"kind": "own files", "files": 4, "sha256": "12ab"},
    "inputs": {"image": {"modality": "T2w stack", "axes": "ZYX", "channels": ["t2w"],
                         "orientation": "LPS", "intensities": "any"}},
    "labels": {"0": "background", "2": "brain"}, "limits": ["One fetus."],
    "intended_use": ["Research and teaching."],
    "metrics": {"data": {"kind": "stand-in"},
                "labels": {"brain": {"dice": SUMMARY, "hd95_mm": {"mean": None, "n": 0}}}},
}  # fmt: skip


def test_metadata_are_those_of_the_hub():
    card = make_card(PASSPORT)
    _, head, text = card.split("---\n", 2)
    (model,) = yaml.safe_load(head)["model-index"]
    assert model["name"] == "fetal_brain-3"
    (result,) = model["results"]
    assert result["dataset"] == {"name": "stand-in patients", "type": "stand-in"}
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("dice", 0.812346)
    assert "dice of brain, stand-in patients: 0.812 ± 0.020 (n = 7; 95% interval 0.790" in text
    assert "One fetus." in text
    assert PHANTOM_NOTICE not in text


def test_a_phantom_is_named_in_the_metadata_and_in_the_text():
    passport = copy.deepcopy(PASSPORT)
    passport["data"]["kind"] = "phantom"
    _, head, text = make_card(passport).split("---\n", 2)
    assert yaml.safe_load(head)["model-index"][0]["results"][0]["dataset"]["name"] == "phantoms"
    assert PHANTOM_NOTICE in text


def test_the_command_writes_beside_the_version_and_never_into_it(tmp_path, capsys):
    version = tmp_path / "fetal_brain" / "3"
    version.mkdir(parents=True)
    write_json(version / "passport.json", PASSPORT)
    assert main(["publish-card", str(version)]) == 0
    assert "nothing was sent" in capsys.readouterr().out
    assert (tmp_path / "fetal_brain" / "README.md").read_text() == make_card(PASSPORT)
    assert main(["publish-card", str(version), "--to", str(version / "README.md")]) == 2
    assert "expected a place outside the version" in capsys.readouterr().err
    assert [path.name for path in version.iterdir()] == ["passport.json"]
    assert main(["publish-card", str(tmp_path)]) == 2
