"""What benchmarks keep, a file per processor, and the page that shows it."""

import json

import pytest

from common.errors import RunError
from common.suite.bench_results import BESIDE, ONEDNN, keep, make_page, path_of, read, read_all
from common.suite.read_runs import read_results

XEON = "Intel(R) Xeon(R) CPU @ 2.20GHz"
MIB = 2**20


def machine(**changes):
    return {
        "processor": XEON, "instruction_set": "Intel AVX2", "native_instruction_set": "Intel AVX2",
        "onednn": True, "threads": 2, "memory_gib": 8.0, "turns": 3,
        "versions": {"tensorflow": "2.21.0", "torch": None},
        "date": "2026-01-02T03:04:05+00:00", "commit": "c0ffee", "dirty": False,
    } | changes  # fmt: skip


def timing(side, cpu_s=None, wall_s=None, mebibytes=0, **fields):
    return {
        "side": side, "options": {}, "cpu_s": cpu_s, "wall_s": wall_s, "difference": 0.0,
        "peak_bytes": mebibytes * MIB, "note": "",
    } | fields  # fmt: skip


def measured(*timings, work="training step", what="two patches", **changes):
    contests = [{"work": work, "what": what, "timings": list(timings)}]
    return machine(**changes) | {"contests": contests}


@pytest.mark.parametrize(
    ("processor", "in_force", "native", "name"),
    [
        (XEON, "Intel AVX2", "Intel AVX2", "bench-intel-xeon-cpu.json"),
        ("AMD EPYC 7763 64-Core Processor", "Intel AVX2", "Intel AVX2",
         "bench-amd-epyc-7763-64-core-processor.json"),
        (XEON, "Intel AVX2", "Intel AVX-512 with Intel DL Boost",
         "bench-intel-xeon-cpu-as-avx2.json"),
    ],
)  # fmt: skip
def test_a_file_for_each_processor(tmp_path, processor, in_force, native, name):
    facts = {"processor": processor, "instruction_set": in_force, "native_instruction_set": native}
    assert path_of(facts, tmp_path).name == name


def test_a_paper_takes_its_own_place(tmp_path):
    keep(BESIDE, "raseg", measured(timing("ours", 1.0, 1.0)), tmp_path)
    keep(BESIDE, "fetal_brain", measured(timing("ours", 2.0, 2.0)), tmp_path)
    keep(ONEDNN, "raseg", measured(*[timing(str(n), 3.0, 3.0) for n in range(3)]), tmp_path)
    path = keep(BESIDE, "raseg", measured(timing("ours", 4.0, 4.0)), tmp_path)
    content = read(path)
    assert list(content[BESIDE]) == ["fetal_brain", "raseg"]
    assert content[BESIDE]["raseg"]["contests"][0]["timings"][0]["cpu_s"] == 4.0
    assert content[ONEDNN]["raseg"]["contests"][0]["timings"][0]["cpu_s"] == 3.0
    assert list(read_all(tmp_path)) == [path.name]
    assert read_results(tmp_path) == []


def test_the_page_tells_ratios():
    """3 of 2 processor seconds, 1.2 of 0.8 seconds by the clock."""
    found = measured(
        timing("ours", 2.0, 0.8, 100),
        timing("PyTorch", 3.0, 1.2, 250, options={"layout": "channels last"}),
        timing("the code's way", 1.0, 0.4, 50),
    )
    page = make_page({"bench-x.json": {BESIDE: {"raseg": found}}})
    assert "2 cores" in page
    assert "oneDNN on; tensorflow 2.21.0. Best of 3 turns, 2026-01-02." in page
    assert (
        "| `raseg` | training step: two patches | 2 (0.8), 100 MiB "
        "| **1.50** (1.50), 250 MiB; channels last | **0.50** (0.50), 50 MiB; the code's way |"
    ) in page
    assert "[`bench-x.json`](../results/bench-x.json)" in page


def test_the_page_says_what_was_not_timed():
    found = measured(
        timing("ours", 2.0, 0.8, 100),
        timing("PyTorch", options={"layout": "contiguous"}, note="torch is not installed"),
    )
    page = make_page({"bench-x.json": {BESIDE: {"raseg": found}}})
    assert "| 2 (0.8), 100 MiB | torch is not installed | – |" in page


def test_a_processor_that_was_held_back_is_named():
    found = measured(timing("ours", 1.0, 1.0), native_instruction_set="Intel AVX-512")
    page = make_page({"bench-x.json": {BESIDE: {"raseg": found}}})
    assert "Intel AVX2, to which it was limited (it has Intel AVX-512)" in page


def test_onednn_by_its_ratio():
    ways = [timing(name, seconds, seconds) for name, seconds in
            (("with", 0.5), ("without", 2.0), ("as AVX2", 0.75))]  # fmt: skip
    page = make_page({"bench-x.json": {ONEDNN: {"raseg": measured(*ways)}}})
    assert (
        "| paper | work | with, CPU s | without, CPU s | as AVX2, CPU s | without / with |" in page
    )
    assert "| `raseg` | training step | 0.5 | 2 | 0.75 | 4.00 |" in page


@pytest.mark.parametrize("content", [{}, {"schema": 2}, {"schema": 1, BESIDE: {"raseg": {}}}])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "bench-x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"bench-x\.json is damaged"):
        read_all(tmp_path)


def test_without_files_the_page_says_so(tmp_path):
    assert make_page(read_all(tmp_path)) == "Nothing was measured yet."
