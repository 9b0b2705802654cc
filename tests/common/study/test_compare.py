"""Parts of the compare command: by hand."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from common.errors import OptionError, RunError
from common.report.page import PHANTOM_NOTICE, Figure, read_sections
from common.study.compare import (
    PARTS,
    Table,
    compare_arrays,
    compare_parts,
    compare_presets,
    compare_ways,
    layers_table,
    presets_table,
    require_run,
    show_tables,
)


@dataclass(frozen=True)
class Config:
    same: int = 1
    rate: float = 0.5


def test_differing_fields_come_first():
    rows = compare_presets({"code": Config(), "port": Config(rate=0.1)})
    assert rows == [
        {"field": "rate", "code": 0.5, "port": 0.1, "differs": "yes"},
        {"field": "same", "code": 1, "port": 1, "differs": ""},
    ]
    table = presets_table({"code": Config(), "port": Config(rate=0.1)})
    assert table.rows == rows
    assert table.text.startswith("1 of 2 settings differ")


def test_largest_difference_by_name():
    rows = compare_arrays({"a": np.array([1.0, 2.0])}, {"a": np.array([1.5, -1.0]), "b": 0})
    assert rows == [{"variable": "a", "largest difference": 3.0}]


def test_layers_of_both_sides_with_totals():
    """One variable on both sides, one on each side alone: 12 + 5 numbers there, 12 + 2 here."""
    ours = [
        {"original": "a/w", "port": "a/kernel", "shape": "3x4", "parameters": 12, "trained": "yes"},
        {"original": "b/w", "port": "b/kernel", "shape": "2", "parameters": 2, "trained": "no"},
    ]
    table = layers_table(ours, {"a/w": [3, 4], "c/w": [5]})
    assert [(row["original"], row["its shape"], row["shape"]) for row in table.rows] == [
        ("a/w", "3x4", "3x4"),
        ("b/w", "–", "2"),
        ("c/w", "5", "–"),
    ]
    assert "2 variables, 17 numbers. Port: 2 variables, 14 numbers, 12 of them" in table.text
    assert table.text.endswith("Without a counterpart: 1 there, 1 here.")
    alone = layers_table(ours, None, why_not="Not recorded.")
    assert alone.text.endswith("12 of them trained. Not recorded.")


def test_ways_are_held_to_the_first():
    reference = np.array([1, 1, 0, 0])
    ways = {"port": lambda: np.array([1, 1, 0, 0]), "code": lambda: np.array([1, 0, 0, 0])}
    rows = compare_ways("case", ways, reference)
    assert [row["voxels unlike port"] for row in rows] == [0, 1]
    assert [row["share"] for row in rows] == ["0.000%", "25.000%"]
    assert [row["dice"] for row in rows] == [1.0, 0.6667]
    assert np.isnan(compare_ways("case", ways, None)[0]["dice"])


def test_json_holds_what_was_printed(tmp_path, capsys):
    out = tmp_path / "new" / "tables.json"
    show_tables({"layers": Table("layers", [{"name": "h0"}], "One layer.", phantom=True)}, out)
    assert capsys.readouterr().out == f"layers\nname\nh0\nOne layer.\n{PHANTOM_NOTICE}\n\n"
    assert json.loads(out.read_text()) == {"layers": [{"name": "h0"}]}


def makers():
    """Two quick parts and one that needs computation, with a picture."""
    picture = Figure(b"png", "A picture.")
    return {
        "presets": lambda: Table("presets", [{"field": "rate", "code": 0.12345678901}]),
        "layers": lambda: Table("layers", [{"name": "h0"}]),
        "effects": lambda: Table("effects", [{"switch": "rate"}], "Text.", [picture], phantom=True),
    }


def test_without_a_page_only_quick_parts_are_made(tmp_path, capsys):
    out = tmp_path / "tables.json"
    compare_parts("paper", makers(), parts=None, out=out, to=None)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "presets"
    assert said[-2:] == ["Not shown: effects (--parts all, or --to FOLDER for the page)",
                         f"JSON: {out}"]  # fmt: skip
    assert set(json.loads(out.read_text())) == {"presets", "layers"}


def test_a_page_has_every_part(tmp_path, capsys):
    to = tmp_path / "report" / "compare"
    compare_parts("paper", makers(), parts=None, out=None, to=to)
    stored = json.loads((to / "compare.json").read_text())
    assert (stored["paper"], stored["phantom"]) == ("paper", True)
    assert list(stored["parts"]) == ["presets", "layers", "effects"]
    assert stored["parts"]["presets"]["rows"] == [{"field": "rate", "code": 0.12345678901}]
    sections = read_sections(to / "sections.json")
    assert [section.title for section in sections] == ["presets", "layers", "effects"]
    assert sections[0].rows == (("rate", "0.1235"),)
    assert sections[2].figures[0].png == b"png"
    assert sections[2].text.endswith(PHANTOM_NOTICE)
    assert PHANTOM_NOTICE not in sections[0].text
    page = (to / "index.html").read_text()
    assert "paper: original and port" in page
    assert PHANTOM_NOTICE in page
    assert f"Page: {to / 'index.html'}" in capsys.readouterr().out


def test_parts_can_be_chosen(capsys):
    compare_parts("paper", makers(), parts=("effects",), out=None, to=None)
    said = capsys.readouterr().out
    assert said.startswith("effects\nswitch\nrate\n")
    assert "presets" not in said
    compare_parts("paper", makers(), parts=("all",), out=None, to=None)
    assert "presets" in capsys.readouterr().out
    with pytest.raises(OptionError, match=r"--parts: found 'colours'; expected all, or some of"):
        compare_parts("paper", makers(), parts=("colours",), out=None, to=None)
    with pytest.raises(OptionError, match=r"--parts weights needs more options; possible now: pre"):
        compare_parts("paper", makers(), parts=("weights",), out=None, to=None)


def test_a_file_that_cannot_be_written_is_all_that_is_said(tmp_path, capsys):
    (tmp_path / "compare.json").mkdir()
    with pytest.raises(RunError, match=r"compare\.json cannot be written"):
        compare_parts("paper", makers(), parts=None, out=None, to=tmp_path)
    assert capsys.readouterr().out == ""


def test_a_checkpoint_needs_a_run():
    require_run(None, None)
    with pytest.raises(OptionError, match="--original needs --run; expected the run to compare"):
        require_run(None, "model.ckpt")


def test_every_part_has_a_place():
    assert len(set(PARTS)) == len(PARTS) == 10
