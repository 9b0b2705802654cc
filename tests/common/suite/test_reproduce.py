"""The main job: papers are found, a failing stage stops its paper and no other, a page is made."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from common.errors import OptionError
from common.papers import ROOT, find_papers
from common.suite.reproduce import RUNS, Stage, StageError, begin, run_stages

VERBS = """
import sys
from pathlib import Path

paper = Path(__file__).parent.name
with open("calls.txt", "a") as calls:
    calls.write(" ".join([paper, *sys.argv[1:]]) + "\\n")
print("said by", sys.argv[1])
sys.exit(3 if "--fail" in sys.argv or Path(__file__).with_name("broken").exists() else 0)
"""

STAGED = """
import sys
from pathlib import Path

from common.suite.reproduce import Stage, StageError, run_stages

if sys.argv[1] == "reproduce":
    out = Path(sys.argv[sys.argv.index("--out") + 1])
    try:
        run_stages("beta", [Stage("one", []), Stage("two", [])], preset="quick", out=out)
    except StageError:
        sys.exit(2)
sys.exit(5 if sys.argv[1] == "two" else 0)
"""
"""A paper whose second stage fails."""


OF_A_SEED = """
import json
import sys
from pathlib import Path

out, seed = (sys.argv[sys.argv.index(name) + 1] for name in ("--out", "--seed"))
with open("calls.txt", "a") as calls:
    calls.write(seed)
if Path(f"broken{seed}").exists():
    sys.exit("train: the disk is full")
run, paper = Path(out, "run"), Path(__file__).parent.name
(run / "report").mkdir(parents=True)
written = {
    run / "manifest.json": {
        "paper": paper, "status": "finished", "started": "2026", "phantom": True,
    },
    run / "config.yaml": {"preset": "quick"},
    run / "report" / "report.json": {
        "paper": paper, "phantom": True, "cases": 3,
        "labels": {"foreground": {"dice": {"mean": 0.5 + 0.1 * int(seed), "n": 3}}},
    },
    Path(out, "reproduce.json"): {
        "paper": paper, "preset": "quick", "run": "run", "status": "finished", "seconds": [],
    },
}
for path, content in written.items():
    path.write_text(json.dumps(content))
"""
"""A paper whose Dice is the better the larger the seed."""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two papers and their claims, a folder that is none, and our own `common`."""
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(ROOT / "common", tmp_path / "common", ignore=ignored)
    for paper in ("alpha", "beta"):
        (tmp_path / paper).mkdir()
        for name in ("__init__.py", "config.py", "reproduce.py"):
            (tmp_path / paper / name).write_text("")
        (tmp_path / paper / "__main__.py").write_text(VERBS)
        claims = (ROOT / "raseg" / "claims.yaml").read_text(encoding="utf-8")
        claims = claims.replace("paper: raseg", f"paper: {paper}")
        (tmp_path / paper / "claims.yaml").write_text(claims)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "reproduce.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calls(project) -> list[str]:
    path = project / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


def main(project, *words, command="reproduce"):
    return subprocess.run(
        [sys.executable, "-m", "common", command, *words],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )


def rows(project):
    """Return the rows of the front page as text, by paper."""
    page = (project / "report" / "index.html").read_text(encoding="utf-8")
    front = page.partition('<table class="front words">')[2].partition("</table>")[0]
    texts = [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in front.split("<tr>")[2:]]
    return {text.split()[0]: text for text in texts}


class TestPapers:
    def test_papers_of_this_project_are_found(self):
        papers = find_papers("reproduce.py")
        assert "fetal_brain" in papers
        assert papers == sorted(papers)
        assert not {"common", "tests"} & set(papers)
        assert all((ROOT / paper / "config.py").is_file() for paper in papers)

    def test_all_are_run_in_order_with_folders_of_their_own(self, project):
        done = main(project, "--to", "page")
        assert calls(project) == [
            f"{paper} reproduce --preset quick --out runs/{paper}-quick"
            for paper in ("alpha", "beta")
        ]
        assert done.stdout == "said by reproduce\n" * 2
        # These two leave no run behind, which is said in one line.
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert "the report could not be made: runs/alpha-quick: no such folder" in done.stderr

    def test_options_are_passed_on(self, project):
        main(project, "--paper", "beta", "--preset", "code", "--data", "my scans")
        main(project, "--paper", "beta", "--data", "scans", "--cohort", "ucsf-wrist")
        assert calls(project) == [
            "beta reproduce --preset code --data my scans --out runs/beta-code",
            "beta reproduce --preset quick --data scans --cohort ucsf-wrist --out runs/beta-quick",
        ]

    def test_the_benchmarks_of_all_papers_are_one_command(self, project):
        for paper in ("alpha", "beta"):
            (project / paper / "bench.py").write_text("")
        main(project, command="bench")
        said = [re.sub(r" --to \S+/measured.json$", "", call) for call in calls(project)]
        assert said == ["alpha bench --turns 3", "beta bench --turns 3"]

    @pytest.mark.slow
    def test_the_others_go_on_after_one_failed_and_the_page_says_so(self, project):
        (project / "alpha" / "broken").write_text("")
        (project / "beta" / "__main__.py").write_text(STAGED)
        done = main(project)
        assert done.returncode == 1
        assert "failed: alpha, beta" in done.stderr.splitlines()
        assert done.stdout.splitlines()[-1] == "Report of all papers: report/index.html"
        assert [call.split()[0] for call in calls(project)] == ["alpha"]
        assert "failed with status 3 before its first stage" in rows(project)["alpha"]
        assert "failed: two failed with status 5" in rows(project)["beta"]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["--paper", "gamma"], "--paper gamma: expected one of alpha, beta"),
            (["--data", "scans"], "--data requires --paper"),
            (["--paper", "beta", "--cohort", "x"], "--cohort requires --data"),
        ],
    )
    def test_a_wrong_option_is_refused_before_anything_is_run(self, words, said, project):
        done = main(project, *words)
        assert done.returncode == 2
        assert said in done.stderr.splitlines()[-1]
        assert calls(project) == []

    def test_a_cohort_is_checked_before_hours_of_work(self):
        whose = {"data": Path("x"), "cohort": "ucsf-wrist"}
        assert begin("raseg", "quick", out=None, data=None, cohort=None) == (
            RUNS / "raseg-quick", [],
        )  # fmt: skip
        assert begin("raseg", "quick", out=Path("o"), **whose) == (
            Path("o"), ["--cohort", "ucsf-wrist"],
        )  # fmt: skip
        with pytest.raises(OptionError, match="phantoms"):
            begin("raseg", "quick", out=None, **{**whose, "data": None})
        with pytest.raises(OptionError, match="expected ucsf-wrist"):
            begin("raseg", "quick", out=None, **{**whose, "cohort": "ours"})


@pytest.mark.slow
def test_seeds_go_on_and_their_spread_is_said(project):
    (project / "alpha" / "__main__.py").write_text(OF_A_SEED)
    (project / "broken2").touch()
    words = ["--seeds", "3", "--papers", "alpha", "--workers", "2"]
    done = main(project, *words)
    assert done.returncode == 1
    assert "alpha-quick-seed2: failed with status 1: train: the disk is full; runs/" in done.stderr
    assert "no usable result for 1 of 3 runs: alpha-quick-seed2" in done.stderr.splitlines()[-1]
    assert (
        "| alpha | quick | RC1 | foreground, dice | phantoms | 1, 3 | 0.700 | 0.141 |"
        in done.stdout
    )
    (project / "broken2").unlink()
    done = main(project, *words)
    assert done.returncode == 0
    assert sorted((project / "calls.txt").read_text()) == ["1", "2", "2", "3"]
    table = (project / "runs" / "seeds.md").read_text()
    assert table in done.stdout
    assert "| phantoms | 1, 2, 3 | 0.700 | 0.100 | 0.600 to 0.800 |" in table
    assert "say nothing about patients" in table


SLEEPS = """
import os
import time
from pathlib import Path

Path("child.txt").write_text(str(os.getpid()))
time.sleep(600)
"""


def test_a_run_ends_with_its_worker(project):
    """However the worker ends: a run that went on would write beside the next one's."""
    (project / "alpha" / "__main__.py").write_text(SLEEPS)
    code = (
        "from common.suite.many_runs import OneRun, carry_out\n"
        "carry_out(OneRun('alpha', 'quick', 1, 'runs'))"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=project)
    child, patience = project / "child.txt", time.monotonic() + 60
    while not (child.exists() and child.read_text()) and time.monotonic() < patience:
        time.sleep(0.05)
    run = psutil.Process(int(child.read_text()))
    worker.kill()
    worker.wait()
    psutil.wait_procs([run], timeout=30)
    assert not run.is_running()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--workers", "2"], "--workers needs --seeds"),
        (["--seeds", "0"], "--seeds: expected 1 or more"),
        (["--seeds", "2", "--paper", "alpha"], "with --papers"),
        (["--seeds", "2", "--papers", "alpha,gamma"], "gamma: expected one of alpha, beta"),
    ],
)
def test_options_of_many_runs(words, said, project):
    done = main(project, *words)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    assert calls(project) == []


class TestStages:
    def run(self, project, *stages, out=Path("out")):
        run_stages("alpha", stages, preset="quick", out=out)
        return json.loads((project / out / "reproduce.json").read_text())

    def test_each_is_a_command_of_its_own_and_timed(self, project, capfd):
        state = self.run(project, Stage("one", ["--to", Path("a b"), 3]), Stage("two", []))
        assert calls(project) == ["alpha one --to a b 3", "alpha two"]
        said = capfd.readouterr()
        assert said.out == "said by one\nsaid by two\nalpha report: out/run/report/index.html\n"
        lines = said.err.splitlines()
        assert lines[0] == "[alpha 1/2] python -m alpha one --to a b 3"
        assert re.fullmatch(r"\[alpha 1/2\] one: \d+ s \(total \d+ s\)", lines[1])
        assert lines[2] == "[alpha 2/2] python -m alpha two "
        assert re.fullmatch(r"\[alpha 2/2\] two: \d+ s \(total \d+ s\)", lines[3])
        assert len(lines) == 4
        assert (state["status"], state["run"], state["preset"]) == ("finished", "run", "quick")
        assert [verb for verb, _ in state["seconds"]] == ["one", "two"]

    def test_a_failing_one_is_named_and_ends_the_job(self, project):
        stages = [Stage("one", []), Stage("two", ["--fail"]), Stage("three", [])]
        with pytest.raises(StageError, match=r"^two failed with status 3$"):
            self.run(project, *stages)
        assert calls(project) == ["alpha one", "alpha two --fail"]
        state = json.loads((project / "out" / "reproduce.json").read_text())
        assert (state["status"], state["failure"]) == ("failed", "two failed with status 3")
        assert [verb for verb, _ in state["seconds"]] == ["one"]


@pytest.mark.slow
def test_the_whole_tree_ends_with_the_main_job(tmp_path):
    """`train` ran on when `reproduce` was terminated."""
    words = ["-m", "fetal_brain", "reproduce", "--out", str(tmp_path / "out")]
    job = subprocess.Popen(
        [sys.executable, *words], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    main, patience = psutil.Process(job.pid), time.monotonic() + 120
    while time.monotonic() < patience:
        children = main.children(recursive=True)
        if any("train" in child.cmdline() for child in children):
            break
        time.sleep(0.05)
    job.terminate()
    assert job.wait(60) == 143
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert "fetal_brain reproduce: terminated" in job.stderr.read()
