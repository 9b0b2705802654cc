"""What `python -m common bench` keeps: a file per processor in results/, shown in one page.

A file is merged paper by paper, so that one paper can be measured again alone.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.files import read_json, write_json
from common.suite.markdown import markdown_table
from common.suite.read_runs import BENCHMARKS, RESULTS, damaged

SCHEMA = 1
BESIDE, ONEDNN = "beside", "onednn"
"""Sections of a file: beside what else could be used; with oneDNN and without it."""
MIB = 2**20
MADE_BY = "what `python -m common bench` writes"


def path_of(machine: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Return the file of a processor; one limited to fewer instructions has its own."""
    words = re.sub(r"\([^)]*\)|@.*", " ", machine["processor"])
    if machine["instruction_set"] != machine["native_instruction_set"]:
        words += " as " + machine["instruction_set"].removeprefix("Intel ")
    return folder / f"{BENCHMARKS}{'-'.join(re.findall('[a-z0-9]+', words.lower()))}.json"


def keep(section: str, paper: str, measured: Mapping[str, Any], folder: Path = RESULTS) -> Path:
    """Replace what was kept of one paper in a section; return the file of this processor."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(measured, folder)
    content = read(path) if path.is_file() else {"schema": SCHEMA}
    content.setdefault(section, {})[paper] = measured
    content[section] = dict(sorted(content[section].items()))
    write_json(path, content)
    return path


def read(path: Path) -> dict[str, Any]:
    """Read a file of a processor; raise `RunError` if that cannot be done."""
    content = read_json(path)
    try:
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}, expected {SCHEMA}")
        make_page({path.name: content})
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as failure:
        raise damaged(path, failure, MADE_BY) from failure
    return content


def read_all(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Return every processor's content by the name of its file."""
    return {path.name: read(path) for path in sorted(folder.glob(f"{BENCHMARKS}*.json"))}


def make_page(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the tables of all processors in Markdown."""
    parts = []
    for name, content in files.items():
        for section, make_table in ((BESIDE, beside_table), (ONEDNN, onednn_table)):
            papers = content.get(section, {})
            if papers:
                parts += [heading(section, papers), "\n".join(make_table(papers)),
                          f"([`{name}`](../results/{name}))"]  # fmt: skip
    return "\n\n".join(parts) or "Nothing was measured yet."


def heading(section: str, papers: Mapping[str, Any]) -> str:
    """Return a title with processor, instructions and versions of the paper measured last."""
    last = max(papers.values(), key=lambda each: each["date"])
    words = last["instruction_set"]
    if words != last["native_instruction_set"]:
        words += f", to which it was limited (it has {last['native_instruction_set']})"
    versions = ", ".join(f"{name} {number}" for name, number in last["versions"].items() if number)
    title = {BESIDE: "Beside what else could be used", ONEDNN: "With oneDNN and without"}[section]
    cores = f"{last['threads']} core{'s' * (last['threads'] > 1)}"
    onednn = "on" if last["onednn"] else "off"
    return (
        f"### {title}: {last['processor']}, {cores}\n\n"
        f"{words}. oneDNN {onednn}; {versions}. Best of {last['turns']} turns, "
        f"{last['date'][:10]}."
    )


def beside_table(papers: Mapping[str, Any]) -> list[str]:
    """Return a row for each paper's work; ratios above 1 mean that the port is faster."""
    header = ("paper", "work", "port: CPU s (wall), MiB",
              "PyTorch: times the port's CPU (wall), MiB",
              "the original's way: the same")  # fmt: skip
    rows = []
    for paper, measured in papers.items():
        for contest in measured["contests"]:
            ours, *others = contest["timings"]
            cells = {"PyTorch": "–", "original": "–"}
            for timing in others:
                column = "PyTorch" if timing["options"].get("layout") else "original"
                cells[column] = relation(timing, ours)
            own = ours["note"]
            if ours["cpu_s"] is not None:
                own = f"{ours['cpu_s']:.3g} ({ours['wall_s']:.3g}), {memory(ours)}"
            work = f"{contest['work']}: {contest['what']}"
            rows.append([f"`{paper}`", work, own, *cells.values()])
    return markdown_table(header, rows)


def relation(timing: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Return how another side compares with the port."""
    if timing["cpu_s"] is None or ours["cpu_s"] is None:
        return timing["note"] or "–"
    name = timing["options"].get("layout") or timing["side"]
    cpu, wall = timing["cpu_s"] / ours["cpu_s"], timing["wall_s"] / ours["wall_s"]
    return f"**{cpu:.2f}** ({wall:.2f}), {memory(timing)}; {name}"


def onednn_table(papers: Mapping[str, Any]) -> list[str]:
    """Return a row for each paper's work; ratios above 1 mean that oneDNN is faster."""
    ways = [timing["side"] for timing in next(iter(papers.values()))["contests"][0]["timings"]]
    rows = []
    for paper, measured in papers.items():
        for contest in measured["contests"]:
            times = [timing["cpu_s"] for timing in contest["timings"]]
            cells = [t["note"] if t["cpu_s"] is None else f"{t['cpu_s']:.3g}"
                     for t in contest["timings"]]  # fmt: skip
            ratio = "–" if None in times[:2] else f"{times[1] / times[0]:.2f}"
            rows.append([f"`{paper}`", contest["work"], *cells, ratio])
    return markdown_table(
        ("paper", "work", *(f"{way}, CPU s" for way in ways), "without / with"), rows
    )


def memory(timing: Mapping[str, Any]) -> str:
    """Return the peak in whole mebibytes."""
    return f"{timing['peak_bytes'] / MIB:.0f} MiB"
