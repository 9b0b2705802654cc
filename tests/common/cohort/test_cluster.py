"""The workers of a scheduler, against a stand-in that speaks sbatch, squeue and scancel."""

import os
import re
import subprocess
import time
from functools import partial
from pathlib import Path

import cohort_work
import pytest
import slurm_stand_in
import yaml

from common.cohort.cluster import KEYS, SYSTEMS, make_cluster, read_keys
from common.cohort.work import Item, Workers, work_through
from common.errors import OptionError
from common.runs.failures import Failures

ROOT = Path(__file__).resolve().parents[3]
WORDS = {"slurm": "#SBATCH -p cpu", "pbs": "#PBS -q workq", "sge": "#$ -q all.q",
         "lsf": "#BSUB -q normal"}  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_example_of_each_scheduler_becomes_a_job(system):
    """And speaks of every key: as an example, or in its comments."""
    path = ROOT / "docs" / "clusters" / f"{system}.yaml"
    with make_cluster(system, read_keys(system, path), source=path) as cluster:
        script = cluster.job_script()
    assert WORDS[system] in script
    assert "--nthreads 1 --memory-limit 7.45GiB --nworkers 4" in script
    assert "source /home/me/suite/.venv/bin/activate" in script
    text = path.read_text() + (ROOT / "docs" / "clusters" / "slurm.yaml").read_text()
    assert not [key for key in KEYS | SYSTEMS[system][1] if key not in text]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("processes: 1\nmemory: 1GB\nqueu: cpu", "unknown key 'queu', did you mean queue?"),
        ("memory: 1GB", "expected processes, workers in a job, and memory"),
        ("processes: 1", "expected processes, workers in a job, and memory"),
        ("processes: 1\nmemory: much", "--cluster_config .*keys.yaml: .*much"),
    ],
)
def test_what_a_scheduler_cannot_be_told_is_refused(tmp_path, text, told):
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(OptionError, match=told):
        make_cluster("slurm", read_keys("slurm", path), source=path)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A folder in which Slurm's commands stand, and a configuration of its jobs."""
    slurm_stand_in.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    keys = {"processes": 1, "memory": "1GB", "interface": "lo", "log_directory": str(tmp_path),
            "local_directory": str(tmp_path),
            "job_script_prologue": [f"export PYTHONPATH={ROOT}:{ROOT / 'tests'}"]}  # fmt: skip
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump(keys))
    yield tmp_path
    for job in (tmp_path / "bin" / "state").iterdir():
        slurm_stand_in.end(int(job.read_text().split()[0]))


def segment_some(slurm):
    on = Workers(workers=2, cluster="slurm", cluster_config=slurm / "slurm.yaml")
    items = [Item(f"case{n}", f"case{n}") for n in range(6)]
    begin, failures = partial(cohort_work.begin, str(slurm / "log")), Failures(len(items), "scan")
    return dict(work_through(items, begin, failures=failures, on=on, out=slurm, tensorflow=False))


def is_running(job):
    try:
        os.killpg(int(job.read_text().split()[0]), 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_jobs_of_a_scheduler_do_the_work_and_end(slurm):
    found = segment_some(slurm)
    assert found == {f"case{n}": f"CASE{n}" for n in range(6)}
    jobs = sorted((slurm / "bin" / "state").iterdir())
    assert len(jobs) == 2
    assert "#SBATCH --mem=954M" in jobs[0].read_text()
    patience = time.monotonic() + 30
    while any(map(is_running, jobs)) and time.monotonic() < patience:
        time.sleep(0.2)
    assert not any(map(is_running, jobs))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (None, "sbatch: No such file or directory"),
        ("echo 'sbatch: error: Invalid account' >&2; exit 1", "sbatch: error: Invalid account"),
    ],
)
def test_a_scheduler_that_refuses(slurm, command, told):
    """In one line; by itself Dask would wait for ever for workers that nobody starts."""
    sbatch = slurm / "bin" / "sbatch"
    sbatch.unlink()
    if command:
        sbatch.write_text(f"#!/bin/sh\n{command}\n")
        sbatch.chmod(0o755)
    on = Workers(workers=2, cluster="slurm", cluster_config=slurm / "slurm.yaml")
    work = work_through([Item("a", "a"), Item("b", "b")], print, failures=Failures(2, "scan"),
                        on=on, out=slurm, tensorflow=False)  # fmt: skip
    with pytest.raises(OptionError, match=f"--cluster slurm: no job could be submitted: .*{told}"):
        next(work)


def test_the_array_job_of_the_page_goes_through_the_list(slurm, monkeypatch):
    """Each row once, each part with the header; a task again does its part again."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    (slurm / "array.sh").write_text(re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1])
    ids = [f"case{n}" for n in range(25)]
    (slurm / "list.csv").write_text("\n".join(["id,image", *(f"{id_},a.nii" for id_ in ids)]))
    python = slurm / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$*" >> calls.txt\n')
    python.chmod(0o755)
    monkeypatch.chdir(slurm)
    subprocess.run(["sbatch", "array.sh"], check=True)
    wait_for(lambda: len((slurm / "calls.txt").read_text().splitlines()) == 10, slurm / "calls.txt")
    parts = [(slurm / f"list-{n}.csv").read_text().split() for n in range(10)]
    assert {part[0] for part in parts} == {"id,image"}
    assert sorted(row.partition(",")[0] for part in parts for row in part[1:]) == sorted(ids)
    calls = (slurm / "calls.txt").read_text()
    assert "-m fetal_brain predict --run run --csv list-3.csv --all_rows --out labels" in calls
    subprocess.run(["sbatch", "--array=7", "array.sh"], check=True)
    wait_for(lambda: (slurm / "calls.txt").read_text().count("list-7.csv") == 2, slurm)
    assert subprocess.run(["squeue", "--me"], capture_output=True, check=True).stdout
    subprocess.run(["scancel", "1"], check=True)


def wait_for(is_so, path):
    patience = time.monotonic() + 30
    while not (path.exists() and is_so()):
        assert time.monotonic() < patience
        time.sleep(0.05)


@pytest.mark.slow
def test_some_jobs_are_refused(slurm, capfd):
    """As where a site limits a user's jobs: those that run do the work."""
    sbatch = slurm / "bin" / "sbatch"
    first, _, rest = sbatch.read_text().partition("\n")
    guard = f"mkdir {slurm}/taken 2>/dev/null || {{ echo 'only one job' >&2; exit 1; }}"
    sbatch.write_text(f"{first}\n{guard}\n{rest}")
    found = segment_some(slurm)
    assert len(found) == 6
    assert "note: 1 of 2 jobs were refused: only one job" in capfd.readouterr().err
