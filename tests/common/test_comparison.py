"""Tables of the compare command: by hand."""

import json
from dataclasses import dataclass

import numpy as np

from common.comparison import compare_arrays, compare_presets, format_table, show_tables


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


def test_largest_difference_by_name():
    rows = compare_arrays({"a": np.array([1.0, 2.0])}, {"a": np.array([1.5, -1.0]), "b": 0})
    assert rows == [{"variable": "a", "largest difference": 3.0}]


def test_columns_are_aligned():
    assert format_table([{"a": 1, "bb": "x"}, {"a": 222, "bb": "y"}]) == "a    bb\n1    x\n222  y"
    assert format_table([]) == "(nothing)"


def test_json_holds_what_was_printed(tmp_path, capsys):
    out = tmp_path / "new" / "tables.json"
    show_tables({"layers": [{"name": "h0"}]}, out)
    assert capsys.readouterr().out == f"layers\nname\nh0\n\nJSON: {out}\n"
    assert json.loads(out.read_text()) == {"layers": [{"name": "h0"}]}
