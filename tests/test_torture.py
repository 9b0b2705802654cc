"""The campaign of kills in short, and that it sees what it looks for; whole: `make torture`."""

import pytest
from torture import half_written, leftovers, torture, tree


@pytest.mark.slow
@pytest.mark.parametrize("paper", ["fetal_brain", "vertebra"])
def test_killed_preparations_leave_what_unbroken_ones_leave(tmp_path, paper, capsys):
    """Killed trainings are tests of each paper's own."""
    assert torture(paper, 4, 1, tmp_path, only=2) == []
    assert "0 faults" in capsys.readouterr().out


def test_what_a_kill_may_not_leave_is_seen(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    before = tree(tmp_path)
    (tmp_path / "a.txt").write_text("new")
    after = tree(tmp_path)
    assert half_written(tmp_path, before, after, ()) == []
    (tmp_path / "a.txt").write_text("ne")
    (tmp_path / "log.csv").write_text("step,loss")
    (tmp_path / "manifest.json").write_text('{"status": ')
    found = half_written(tmp_path, before, after, ())
    assert [line.partition(" ")[0] for line in found] == ["a.txt", "manifest.json"]
    (tmp_path / ".a.txt.1.tmp").touch()
    (tmp_path / ".lock").touch()
    assert leftovers(tmp_path) == [".a.txt.1.tmp"]
