"""What a paper's `bench` prints and keeps of its contests."""

import json
from importlib import import_module
from importlib.util import find_spec
from inspect import signature

import pytest

from common.cost.turns import Contest, Side, Timing
from common.errors import OptionError, RunError
from common.papers import find_papers
from common.suite import contests
from common.suite.contests import choose_variants, make_rows, run_contests, torch_sides

MIB = 2**20


@pytest.mark.parametrize("paper", find_papers("bench.py"))
def test_every_side_of_a_paper_is_there(paper):
    """The functions are named by texts, which nothing else would hold to the code."""
    defaults = signature(import_module(f"{paper}.bench").bench).parameters
    list_contests = import_module(f"{paper}.study.bench").list_contests
    found = list_contests(**{name: defaults[name].default
                             for name in signature(list_contests).parameters})  # fmt: skip
    assert {contests.TRAINING, contests.INFERENCE} <= {contest.work for contest in found}
    for side in [side for contest in found for side in contest.sides]:
        if all(find_spec(name) for name in side.packages):
            module, _, name = side.function.partition(":")
            assert list(signature(getattr(import_module(module), name)).parameters) == [
                "sizes", "folder",
            ]  # fmt: skip


def test_the_faster_layout_counts():
    first, second = ({"layout": layout} for layout in contests.LAYOUTS)
    timings = [
        Timing("ours", cpu_s=1.0),
        Timing("PyTorch", first, cpu_s=3.0, wall_s=1.0),
        Timing("PyTorch", second, cpu_s=2.0, wall_s=2.0),
        Timing("MONAI", first, note="not installed"),
        Timing("MONAI", second, note="not installed"),
    ]
    ours, torch, monai = choose_variants(timings)
    assert (ours.cpu_s, torch.options, monai.note) == (1.0, second, "not installed")


def test_rows():
    ours, theirs, missing = make_rows([
        Timing("ours", {}, 2.0, 1.0, 10 * MIB, 0.0),
        Timing("PyTorch", {"layout": "contiguous"}, 3.0, 1.25, 15 * MIB, 1.2e-6),
        Timing("other", note="not installed"),
    ])  # fmt: skip
    assert theirs == {
        "side": "PyTorch (contiguous)", "CPU s": "3.000", "wall s": "1.250", "peak MiB": "15",
        "CPU ratio": "1.50", "wall ratio": "1.25", "differs by": "1.2e-06",
    }  # fmt: skip
    assert ours["CPU ratio"] == "1.00"
    assert missing["differs by"] == "not installed"
    assert not missing["CPU s"]


def test_pytorch_is_tried_in_both_layouts_without_tensorflow():
    sides = torch_sides("module:function", name="PyTorch, MONAI", monai=True)
    assert [side.options["layout"] for side in sides] == list(contests.LAYOUTS)
    assert {side.environment["KERAS_BACKEND"] for side in sides} == {"torch"}
    assert {side.packages for side in sides} == {("torch", "monai")}


@pytest.fixture
def contest(tmp_path, monkeypatch):
    (tmp_path / "sides_of_contest.py").write_text(
        "import numpy as np\nfrom common.cost.turns import Contender\n"
        "def make(sizes, folder):\n"
        "    run = lambda: [np.array([sizes['value']])]\n"
        "    return Contender(run, run)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{contests.__file__.split('/common/')[0]}")
    function = "sides_of_contest:make"

    def of(*values):
        sides = tuple(Side(str(n), function, {"value": value}) for n, value in enumerate(values))
        missing = Side("gone", function, packages=("no_such_package",))
        return Contest("a step", "nothing", (*sides, missing))

    return of


def test_numbers_are_kept_and_a_missing_package_is_no_failure(contest, tmp_path, capsys):
    run_contests("raseg", [contest(1.0, 1.0)], turns=2, to=tmp_path / "found.json")
    said = capsys.readouterr().out
    assert said.startswith("raseg: a step, nothing\n")
    assert "no_such_package is not installed: pip install '.[bench]'" in said
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["turns"] == 2
    assert [timing["difference"] for timing in found["contests"][0]["timings"]] == [0.0, 0.0, None]
    assert {"processor", "instruction_set", "onednn", "threads", "versions", "commit"} <= set(found)


def test_a_failure_is_told_when_all_is_done(contest, tmp_path):
    with pytest.raises(RunError, match=r"a step, 1: differs by 1\.0e\+00 of the largest value"):
        run_contests("raseg", [contest(1.0, 2.0)], turns=1, to=tmp_path / "found.json")
    assert (tmp_path / "found.json").is_file()


def test_no_turns(contest):
    with pytest.raises(OptionError, match="--turns: found 0; expected 1 or more"):
        run_contests("raseg", [contest(1.0)], turns=0)
