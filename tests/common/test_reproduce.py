"""The main job: papers are found, a failing stage stops its paper and no other."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.reproduce import ROOT, Stage, StageError, find_papers, run_stages

VERBS = """
import sys
from pathlib import Path

with open("calls.txt", "a") as calls:
    calls.write(" ".join([Path(__file__).parent.name, *sys.argv[1:]]) + "\\n")
print("said by", sys.argv[1])
sys.exit(3 if "--fail" in sys.argv or Path(__file__).with_name("broken").exists() else 0)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two papers, a folder that is none, and our own module that runs them."""
    (tmp_path / "common").mkdir()
    for name in ("reproduce.py", "errors.py", "__init__.py"):
        shutil.copy(ROOT / "common" / name, tmp_path / "common")
    for paper in ("alpha", "beta"):
        (tmp_path / paper).mkdir()
        for name in ("__init__.py", "config.py", "reproduce.py"):
            (tmp_path / paper / name).write_text("")
        (tmp_path / paper / "__main__.py").write_text(VERBS)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "reproduce.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calls(project) -> list[str]:
    path = project / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


def main(project, *words):
    return subprocess.run(
        [sys.executable, "-m", "common.reproduce", *words],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )


class TestPapers:
    def test_papers_of_this_project_are_found(self):
        papers = find_papers()
        assert "fetal_brain" in papers
        assert papers == sorted(papers)
        assert not {"common", "tests"} & set(papers)
        assert all((ROOT / paper / "config.py").is_file() for paper in papers)

    def test_all_are_run_in_order(self, project):
        done = main(project)
        assert done.returncode == 0, done.stderr
        expected = ["alpha reproduce --preset quick", "beta reproduce --preset quick"]
        assert calls(project) == expected
        assert done.stdout == "said by reproduce\n" * 2

    def test_options_are_passed_on(self, project):
        main(project, "--paper", "beta", "--preset", "code", "--data", "my scans")
        assert calls(project) == ["beta reproduce --preset code --data my scans"]
        main(project, "--bench")
        assert calls(project)[1:] == ["alpha bench", "beta bench"]

    def test_the_others_go_on_after_one_failed(self, project):
        (project / "alpha" / "broken").write_text("")
        done = main(project)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == "failed: alpha"
        assert [call.split()[0] for call in calls(project)] == ["alpha", "beta"]

    def test_an_unknown_paper_is_refused(self, project):
        done = main(project, "--paper", "gamma")
        assert done.returncode == 2
        assert "--paper gamma: expected one of alpha, beta" in done.stderr.splitlines()[-1]
        assert calls(project) == []


class TestStages:
    def test_each_is_a_command_of_its_own(self, project, capfd):
        run_stages("alpha", [Stage("one", ["--to", Path("a b"), 3]), Stage("two", [])])
        assert calls(project) == ["alpha one --to a b 3", "alpha two"]
        said = capfd.readouterr()
        assert said.out == "said by one\nsaid by two\n"
        assert said.err.startswith("[alpha 1/2] python -m alpha one --to a b 3\n[alpha 1/2] one: ")
        assert len(said.err.splitlines()) == 4

    def test_a_failing_one_is_named_and_ends_the_job(self, project):
        stages = [Stage("one", []), Stage("two", ["--fail"]), Stage("three", [])]
        with pytest.raises(StageError, match=r"^two failed with status 3$"):
            run_stages("alpha", stages)
        assert calls(project) == ["alpha one", "alpha two --fail"]
