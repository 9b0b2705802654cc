"""What is compared between an exported model and its passport; needs TensorFlow, and no Keras."""

from pathlib import Path
from typing import NamedTuple

from common.errors import RunError
from common.export.parity import PARITY, difference, read_parity
from common.export.passport import PASSPORT, find_changes, read_passport, without_tensors
from common.export.saved_model import (
    evaluate_signatures,
    forced_xla,
    foreign_operations,
    read_signatures,
)
from common.export.warmup import WARMUP_FILE, read_warmup


class Check(NamedTuple):
    """One row of the table."""

    what: str
    result: str
    """ok, FAILED, or "not tried" where a failure before it makes it pointless or unsafe."""
    detail: str


def verify(folder: Path, *, trust: bool = False) -> list[Check]:
    """Run all checks of a folder, models/<name>/<version>, in this process.

    Nothing is evaluated where files are not those of the passport, since what a changed graph would
    do is not known; nor, unless with `trust`, where the graph has operations that no export of the
    suite has, since a stranger's passport says of a stranger's graph what he likes.
    """
    try:
        passport = read_passport(folder)
        what = f"{passport['name']} {passport['version']}, data: {passport['data']['kind']}"
        steps = [Check("passport", "ok", what), *check_files(folder, passport["files"])]
    except RunError as problem:
        return [Check("passport", "FAILED", str(problem))]
    except (KeyError, TypeError, AttributeError):
        return [Check("passport", "FAILED", f"{folder / PASSPORT} lacks what schema 1 asks for")]
    reason = ""
    if any(step.result != "ok" for step in steps):
        reason = "the files are not those of the passport"
    elif not trust:
        steps += check_operations(folder)
        if steps[-1].result != "ok":
            reason = "the graph may do anything; --trust runs it"
    rest = {"signatures": check_signatures, "no forced XLA": check_xla,
            "warmup requests": check_warmup, "recorded case": check_parity}  # fmt: skip
    for what, check in rest.items():
        if reason:
            steps.append(Check(what, "not tried", reason))
            continue
        try:
            steps += check(folder, passport)
        except Exception as problem:  # whatever TensorFlow makes of the files is a finding
            first = " ".join(str(problem).split())[:200]
            steps.append(Check(what, "FAILED", f"{type(problem).__name__}: {first}"))
    return steps


def check_files(folder: Path, expected: dict[str, str]) -> list[Check]:
    """Compare the files of a folder with the list of the passport: missing, changed, extra."""
    wrong = [Check("file", "FAILED", fault) for fault in find_changes(folder, expected)]
    return wrong or [Check("files", "ok", f"{len(expected)} with their sha256, no other")]


def check_operations(folder: Path) -> list[Check]:
    """Look for operations that could do more than compute: read and write files, run Python."""
    try:
        foreign = foreign_operations(folder)
    except (OSError, ValueError):
        return []  # no graph that could be run, as the next check says
    if foreign:
        return [Check("operations", "FAILED", f"not of this suite: {', '.join(foreign)}")]
    return [Check("operations", "ok", "those of this suite's exports alone")]


def check_signatures(folder: Path, passport: dict) -> list[Check]:
    """Compare names, dtypes and shapes of the graph's signatures with those of the passport."""
    found, expected = without_tensors(read_signatures(folder)), passport["signatures"]
    wrong = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    if wrong:
        faults = (f"{n}: found {found.get(n)}; expected {expected.get(n)}" for n in wrong)
        return [Check("signatures", "FAILED", fault) for fault in faults]
    return [Check("signatures", "ok", ", ".join(found))]


def check_xla(folder: Path, passport: dict) -> list[Check]:
    """Look for parts of the graph that only a server with XLA can run."""
    forced = forced_xla(folder)
    result = "FAILED" if forced else "ok"
    return [Check("no forced XLA", result, ", ".join(forced[:3]) or "runs without the compiler")]


def check_warmup(folder: Path, passport: dict) -> list[Check]:
    """Read the warmup requests and check them against the signatures."""
    requests = read_warmup(folder / WARMUP_FILE)
    for request in requests:
        wanted = passport["signatures"][request.signature]["inputs"]
        if request.model != passport["name"] or {*wanted} != {*request.inputs}:
            found = f"{request.model}/{request.signature} with {', '.join(request.inputs)}"
            return [Check("warmup requests", "FAILED", found)]
    return [Check("warmup requests", "ok", ", ".join(request.signature for request in requests))]


def check_parity(folder: Path, passport: dict) -> list[Check]:
    """Run the recorded inputs and compare with the recorded outputs."""
    inputs, outputs = read_parity(folder / PARITY)
    (served,), checks = evaluate_signatures(folder, inputs), []
    for key, entry in passport["parity"].items():
        value, limit = difference(served[key], outputs[key]), entry["tolerance"]
        result = "ok" if value <= limit else "FAILED"
        checks.append(Check(key, result, f"{value:.1e} of at most {limit:.0e}; {entry['case']}"))
    return checks
