"""Cases among workers: what one of them does harms no other, and nothing is lost or done twice."""

import csv
import os
import sys
from functools import partial

import cohort_work
import pytest
from distributed import LocalCluster

from common.cohort import cluster as cluster_module
from common.cohort.work import HERE, Item, Workers, work_through
from common.errors import CohortError, DataError, OptionError
from common.runs.failures import Failures

TWO = Workers(workers=2)


def go_through(cases, log, *, on=TWO, out=None, word="", outputs=None):
    """Return what a work gives by case, and the failures."""
    items = [Item(f"{n} {case.split()[0]}", case, (outputs or {}).get(case, ()))
             for n, case in enumerate(cases)]  # fmt: skip
    failures = Failures(len(items), "scan")
    begin = partial(cohort_work.begin, str(log), word)
    found = dict(work_through(items, begin, failures=failures, on=on, out=out, tensorflow=False))
    return found, failures


def rows_of(out):
    with open(out / "cohort.csv", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_every_case_ends_in_one_way(tmp_path, capfd):
    """Refused, broken, killing its worker each time or once, hanging: the others are done."""
    flag = tmp_path / "flag"
    cases = ["a", "refuse", "break", "kill", f"kill_once {flag}", "hang", "b"]
    on = Workers(workers=2, scan_timeout_s=4)
    found, failures = go_through(cases, tmp_path / "log", on=on, out=tmp_path)
    assert found == {"0 a": "A", "6 b": "B", "4 kill_once": f"KILL_ONCE {flag}".upper()}
    assert sorted(failures.names) == ["1 refuse", "2 break", "3 kill", "5 hang"]
    rows = rows_of(tmp_path)
    assert list(rows) == [row["id"] for row in rows.values()]
    assert {id_: row["status"] for id_, row in rows.items()} == {
        f"{n} {case.split()[0]}": "done" if f"{n} {case.split()[0]}" in found else "failed"
        for n, case in enumerate(cases)
    }
    assert rows["1 refuse"]["message"] == "the scan has no voxels"
    assert rows["2 break"]["message"] == "ZeroDivisionError: a bug"
    assert rows["3 kill"]["message"].startswith("its worker ended while it had it")
    assert rows["5 hang"]["message"] == "given up after 4 s (--scan_timeout_s)"
    assert int(rows["0 a"]["peak_memory_mib"]) > 10
    with pytest.raises(CohortError, match=r"4 of 7 scans: .*; the others are done") as refusal:
        failures.conclude()
    assert refusal.value.exit_status == 1
    assert "cohort: 2 workers here, 1 thread each" in capfd.readouterr().err


def test_what_is_done_is_not_done_again(tmp_path, capfd):
    """Unless its file is gone, or network, options or scan are others."""
    kept, gone = tmp_path / "kept.txt", tmp_path / "gone.txt"
    cases = [f"write {kept}", f"write {gone}", "refuse"]
    outputs = {cases[0]: (kept,), cases[1]: (gone,)}
    go = partial(go_through, cases, tmp_path / "log", out=tmp_path, outputs=outputs)
    go(word="one")
    gone.unlink()
    kept.write_text("kept")
    # A row that was being written when the machine went down.
    with open(tmp_path / "cohort.csv", "a") as file:
        file.write("3 half,do")
    found, failures = go(word="one")
    assert list(found) == ["1 write"]
    assert failures.names == ["2 refuse"]
    assert (kept.read_text(), gone.read_text()) == ("kept", "one")
    assert "1 of 3 scans were done before" in capfd.readouterr().err
    found, _ = go(word="two")
    assert sorted(found) == ["0 write", "1 write"]
    assert kept.read_text() == "two"
    assert sorted(rows_of(tmp_path)) == ["0 write", "1 write", "2 refuse"]


def test_a_worker_loads_once(tmp_path):
    log = tmp_path / "log"
    go_through([f"case{n}" for n in range(12)], log)
    loads = log.read_text().split()
    assert len(loads) == len(set(loads)) <= 2
    assert str(os.getpid()) not in loads


def test_what_no_case_can_mend_ends_the_work(tmp_path):
    with pytest.raises(OptionError, match="--run: no such network"):
        go_through(["a", "end_all", "b"], tmp_path / "log")


def test_a_cluster_that_runs_is_used_and_left_running(tmp_path, monkeypatch):
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        on = Workers(scheduler=cluster.scheduler_address)
        first, _ = go_through(["a"], tmp_path / "log", on=on)
        second, _ = go_through(["a"], tmp_path / "log", on=on, word="!")
        assert (first, second) == ({"0 a": "A"}, {"0 a": "A!"})
    monkeypatch.setattr(cluster_module, "SECONDS_TO_CONNECT", 1)
    with pytest.raises(OptionError, match="no Dask scheduler answers"):
        go_through(["a"], tmp_path / "log", on=Workers(scheduler="tcp://127.0.0.1:9"))


def test_this_process_works_in_order_and_fails_as_before(tmp_path):
    found, failures = go_through(["a", "refuse", "b"], tmp_path / "log", on=HERE)
    assert list(found) == ["0 a", "2 b"]
    with pytest.raises(DataError, match="1 of 3 scans: 1 refuse") as refusal:
        failures.conclude()
    assert refusal.value.exit_status == 2
    with pytest.raises(ZeroDivisionError):
        go_through(["break"], tmp_path / "log", on=HERE)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"workers": 0}, "--workers: found 0"),
        ({"workers": 2, "scheduler": "tcp://a:1"}, "--scheduler has its workers already"),
        ({"workers": 2, "cluster": "slurm"}, "--cluster and --cluster_config"),
        ({"scan_timeout_s": 5.0}, "--scan_timeout_s needs --workers"),
        ({"workers": 2, "scan_timeout_s": -1.0}, "--scan_timeout_s: found -1.0"),
    ],
)
def test_options_that_contradict_one_another_are_refused(tmp_path, options, told):
    with pytest.raises(OptionError, match=told):
        go_through(["a"], tmp_path / "log", on=Workers(**options))
    assert not (tmp_path / "log").exists()


def test_without_dask_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "common.cohort.shared", raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(OptionError, match=r"package distributed is not installed; expected .pip"):
        go_through(["a"], tmp_path / "log")
