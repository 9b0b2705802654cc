"""No number stands in a README's results without a run behind it."""

import re
import shutil

import pytest

from common.errors import DataError, RunError
from common.evaluation.claims_reader import find_claims
from common.papers import ROOT
from common.suite import results as suite_results
from common.suite.read_runs import read_result
from common.suite.results import (
    BEGIN,
    END,
    README,
    front_table,
    main,
    make_pages,
    paper_table,
    put_between_marks,
    record,
)


def test_the_readmes_of_this_project_are_what_the_runs_say():
    """A number typed into a table, a claim or a result changed: each makes this fail."""
    stale = [
        str(path.relative_to(ROOT))
        for path, text in make_pages().items()
        if path.read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run python -m common results update"


def test_no_results_table_stands_outside_the_marks():
    text = (ROOT / README).read_text(encoding="utf-8")
    section = text.partition("## What was reproduced")[2].partition("\n## ")[0]
    outside = section.partition(BEGIN)[0] + section.partition(END)[2]
    assert not re.search(r"^\||\d\.\d", outside, re.MULTILINE)


@pytest.fixture
def project(tmp_path, make_run):
    """A project with the READMEs of this one and a single result."""
    for paper in find_claims():
        (tmp_path / paper).mkdir()
        for name in ("claims.yaml", README):
            shutil.copy(ROOT / paper / name, tmp_path / paper)
    shutil.copy(ROOT / README, tmp_path)
    record([make_run(tmp_path / "run")], tmp_path / "results")
    return tmp_path


def test_runs_on_patients_are_kept_beside_each_other(make_run, tmp_path):
    """With one digest over their data, and what became of their patients in the table."""
    for name in ("ct", "pet"):
        make_run(tmp_path / name, phantom=False, cohort="ucsf-wrist: at 3 mm", preset="paper")
    files = record([tmp_path / "ct", tmp_path / "pet"], tmp_path / "results")
    assert [path.name for path in files] == ["raseg-paper-ct.json", "raseg-paper-pet.json"]
    result = read_result(files[0])
    assert result.origin["data_sha256"] is None
    assert len(result.origin["trained_s"]) == 1
    (row,) = [
        line for line in front_table(find_claims(), [result]).splitlines() if "[`raseg`]" in line
    ]
    assert "the same patients, prepared otherwise (ucsf-wrist): at 3 mm" in row
    assert (
        "**same patients, other preparation**: 0.7 against 0.613 ± 0.078 (n = 10); at 3 mm" in row
    )


def test_a_table_holds_what_was_measured_and_nothing_else(project):
    result = read_result(project / "results" / "raseg-quick.json")
    lines = front_table(find_claims(), [result]).splitlines()
    row = next(line for line in lines if "[`raseg`]" in line)
    assert "Dice 0.613 ± 0.078 (n = 10)" in row
    assert "preset `quick`, phantoms, 3 cases" in row
    assert "0.700 ± 0.200 (n = 3; 0.500, 0.700, 0.900) (phantoms)" in row
    assert "**not attempted**: run on phantoms" in row
    assert all("not run | – |" in line for line in lines[2:7] if "[`raseg`]" not in line)
    assert lines[-1].startswith("**Synthetic phantom data")
    table = paper_table(find_claims()["raseg"], [result])
    assert "| foreground | hd95_mm | 1.000 ± 0.000 (n = 3; 1.000, 1.000, 1.000) |" in table


def test_typing_a_number_in_is_noticed(project, monkeypatch, capsys):
    monkeypatch.setattr(suite_results, "make_pages", lambda: make_pages(project))
    assert main(["update"]) == 0
    assert main(["update", "--check"]) == 0
    path = project / README
    path.write_text(path.read_text().replace("| 0.700", "| 0.713"))
    capsys.readouterr()
    assert main(["update", "--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{path} is not up to date: run python -m common results update"
    ]
    assert main(["update"]) == 0
    assert "| 0.700" in path.read_text()


def test_marks_are_needed_once(project):
    for text in ("no marks", f"{BEGIN} {BEGIN} {END}", f"{END} {BEGIN}"):
        with pytest.raises(DataError, match="once each"):
            put_between_marks(text, "table", source="a file")
    text = put_between_marks(f"before\n{BEGIN}\nold\n{END}\nafter", "new\n", source="a file")
    assert text == f"before\n{BEGIN}\nnew\n{END}\nafter"


def test_a_run_without_a_report_is_not_kept(make_run, tmp_path):
    run = make_run(tmp_path / "run")
    (run / "report" / "report.json").unlink()
    with pytest.raises(RunError, match="run evaluate first"):
        record([run], tmp_path / "results")
    assert not (tmp_path / "results").exists()
