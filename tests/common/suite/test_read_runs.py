"""Runs and the small files kept of them: what is read is what was measured, and by whom."""

import json

import pytest

from common.errors import RunError
from common.evaluation.claims import DataKind
from common.suite.read_runs import (
    STAGES,
    find_run,
    read_result,
    read_result_of_run,
    read_stages,
    write_result,
)

TIMES = [["prepare", 1.5], ["train", 60.0]]


def write_stages(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    state = {"paper": "raseg", "preset": "quick", "run": "run", "status": "finished"}
    state |= {"failure": "", "seconds": TIMES, **changes}
    (folder / STAGES).write_text(json.dumps(state))


def test_a_result_survives_its_file(make_run, tmp_path):
    result = read_result_of_run(make_run(tmp_path / "run"), [("train", 60.04)])
    write_result(tmp_path / "raseg-quick.json", result)
    again = read_result(tmp_path / "raseg-quick.json")
    assert again.outcome.measures["foreground"]["dice"]["mean"] == pytest.approx(0.7)
    assert again.outcome.measures["foreground"]["dice"]["n"] == 3
    assert (again.paper, again.preset, again.cases) == ("raseg", "quick", 3)
    assert again.outcome.data.kind is DataKind.PHANTOM
    assert again.date == result.date
    assert again.origin == result.origin
    assert again.seconds == (("train", 60.0),)
    text = (tmp_path / "raseg-quick.json").read_text()
    assert len(text) < 6000
    assert str(tmp_path) not in text


@pytest.mark.parametrize("place", ["report", "manifest"])
def test_a_mark_of_a_phantom_anywhere_outweighs_what_the_user_says(place, make_run, tmp_path):
    run = make_run(tmp_path / "run", phantom=False, cohort="ucsf-wrist", preset="paper")
    assert read_result_of_run(run).outcome.data.kind is DataKind.ORIGINAL
    path = run / "report" / "report.json" if place == "report" else run / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "phantom": True}))
    assert read_result_of_run(run).outcome.data.kind is DataKind.PHANTOM


def test_own_data_without_a_name_are_a_stand_in(make_run, tmp_path):
    run = make_run(tmp_path / "run", phantom=False)
    assert read_result_of_run(run).outcome.data.kind is DataKind.STAND_IN


def test_a_run_is_found_by_itself_or_by_what_reproduce_left(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    assert find_run(run) == (run, None)
    write_stages(tmp_path)
    stages = read_stages(tmp_path / STAGES)
    assert find_run(run) == find_run(tmp_path) == (run, stages)
    assert stages.seconds == (("prepare", 1.5), ("train", 60.0))


class TestMistakes:
    """Each is one line that names the file."""

    def test_no_run(self, tmp_path):
        with pytest.raises(RunError, match="nowhere: no such folder; expected a run folder"):
            find_run(tmp_path / "nowhere")
        with pytest.raises(RunError, match=r"not a run folder: expected manifest\.json or repro"):
            find_run(tmp_path)

    def test_no_report(self, make_run, tmp_path):
        run = make_run(tmp_path / "run")
        (run / "report" / "report.json").unlink()
        with pytest.raises(RunError, match=r"has no report .* run evaluate first"):
            read_result_of_run(run)

    @pytest.mark.parametrize(
        "text", ["{", "[]", '{"paper": "raseg"}', '{"labels": 3, "phantom": true}']
    )
    def test_a_damaged_report(self, text, make_run, tmp_path):
        run = make_run(tmp_path / "run")
        (run / "report" / "report.json").write_text(text)
        with pytest.raises(RunError, match=r"report\.json") as failure:
            read_result_of_run(run)
        assert "\n" not in str(failure.value)

    @pytest.mark.parametrize(
        "change",
        [{"schema": 2}, {"origin": {}}, {"measures": {"a": 3}}, {"data": {"kind": "real"}}],
    )
    def test_a_damaged_result(self, change, make_run, tmp_path):
        """A number without a run's hashes behind it is damage, too."""
        path = tmp_path / "result.json"
        write_result(path, read_result_of_run(make_run(tmp_path / "run")))
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(RunError, match=r"result\.json is damaged"):
            read_result(path)

    def test_hashes_are_whole(self, make_run, tmp_path):
        path = tmp_path / "result.json"
        write_result(path, read_result_of_run(make_run(tmp_path / "run")))
        content = json.loads(path.read_text())
        content["origin"]["report_sha256"] = content["origin"]["report_sha256"][:-2]
        path.write_text(json.dumps(content))
        with pytest.raises(RunError, match="expected 64 hex digits"):
            read_result(path)

    def test_damaged_stages(self, tmp_path):
        write_stages(tmp_path, seconds=[["train", "long"]])
        with pytest.raises(RunError, match=r"reproduce\.json is damaged"):
            find_run(tmp_path)
