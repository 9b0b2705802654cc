"""Hold an exported model to its passport: files, signatures, recorded input to recorded output.

`python -m common verify models/<name>/<version>` needs TensorFlow and nothing else of what
trained the model; Keras cannot even be imported while it runs. Exit status 0: all is as the
passport says; 1: something is not; 2: the folder is no exported model.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.cli import Parser
from common.errors import RunError
from common.export.passport import PARITY, PASSPORT, read_passport, without_tensors
from common.export.saved_model import (
    difference,
    evaluate_signatures,
    forbid_keras,
    forced_xla,
    read_signatures,
)
from common.export.versions import find_versions
from common.export.warmup import WARMUP_FILE, read_warmup
from common.files import sha256_of


class Check(NamedTuple):
    """One row of the table."""

    what: str
    result: str
    """ok, FAILED, or "not tried" where a failure before it makes it pointless or unsafe."""
    detail: str


def main(words: Sequence[str]) -> int:
    """Verify the folder that the command line names, print a table, return the exit status."""
    parser = Parser(prog="python -m common verify", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="MODELS/NAME/VERSION")
    folder = parser.parse_args(words).folder
    check_folder(folder)
    forbid_keras()
    load_tensorflow()
    checks = verify(folder)
    print(format_table(checks))
    failed = [check.what for check in checks if check.result != "ok"]
    print(f"{folder}: {'FAILED: ' + ', '.join(failed) if failed else 'as its passport says'}")
    return 1 if failed else 0


def load_tensorflow() -> None:
    """Import TensorFlow without its notices, which would stand between the lines of the table."""
    from common.runtime import load_tensorflow_quietly

    load_tensorflow_quietly()


def check_folder(folder: Path) -> None:
    """Refuse what cannot be an exported version.

    Raises:
        RunError: says what was expected instead.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is no folder; expected models/<name>/<version>")
    if (folder / PASSPORT).is_file() or (folder / "saved_model.pb").is_file():
        return
    versions = find_versions(folder)
    where = f"one of its versions, such as {folder / str(versions[-1])}" if versions else PASSPORT
    raise RunError(f"{folder} is no exported model; expected {where}")


def verify(folder: Path) -> list[Check]:
    """Run all checks of a folder, in this process.

    Args:
        folder: models/<name>/<version>.

    Returns:
        The checks in order. Nothing is evaluated where files are not those of the passport: what a
        changed graph would do is not known.
    """
    try:
        passport = read_passport(folder)
        steps = [
            Check("passport", "ok", f"{passport['name']} {passport['version']}, data: "
                                    f"{passport['data']['kind']}"),
            *check_files(folder, passport["files"]),
        ]  # fmt: skip
    except RunError as problem:
        return [Check("passport", "FAILED", str(problem))]
    except (KeyError, TypeError, AttributeError):
        return [Check("passport", "FAILED", f"{folder / PASSPORT} lacks what schema 1 asks for")]
    whole = all(step.result == "ok" for step in steps)
    rest: list[tuple[str, Callable]] = [
        ("signatures", check_signatures),
        ("no forced XLA", check_xla),
        ("warmup requests", check_warmup),
        ("recorded case", check_parity),
    ]
    for what, check in rest:
        if not whole:
            steps.append(Check(what, "not tried", "the files are not those of the passport"))
            continue
        try:
            steps += check(folder, passport)
        except Exception as problem:  # whatever TensorFlow makes of the files is a finding
            first = " ".join(str(problem).split())[:200]
            steps.append(Check(what, "FAILED", f"{type(problem).__name__}: {first}"))
    return steps


def check_files(folder: Path, expected: dict[str, str]) -> list[Check]:
    """Compare the files of a folder with the list of the passport: missing, changed, extra."""
    present = {path.relative_to(folder).as_posix()
               for path in folder.rglob("*") if not path.is_dir()} - {PASSPORT}  # fmt: skip
    wrong = [
        Check("file", "FAILED", f"{name} is missing") for name in sorted({*expected} - present)
    ]
    wrong += [Check("file", "FAILED", f"{name} is not in the passport")
              for name in sorted(present - {*expected})]  # fmt: skip
    for name in sorted(present & {*expected}):
        try:
            found = sha256_of(folder / name)
        except OSError as refusal:
            wrong.append(Check("file", "FAILED", f"{name} cannot be read: {refusal.strerror}"))
            continue
        if found != expected[name]:
            wrong.append(
                Check("file", "FAILED", f"{name} was changed: sha256 {found[:12]}, "
                                        f"expected {expected[name][:12]}")
            )  # fmt: skip
    return wrong or [Check("files", "ok", f"{len(expected)} with their sha256, no other")]


def check_signatures(folder: Path, passport: dict) -> list[Check]:
    """Compare names, dtypes and shapes of the graph's signatures with those of the passport."""
    found, expected = without_tensors(read_signatures(folder)), passport["signatures"]
    wrong = [name for name in sorted({*found, *expected}) if found.get(name) != expected.get(name)]
    if wrong:
        told = (f"{name}: found {found.get(name)}; expected {expected.get(name)}" for name in wrong)
        return [Check("signatures", "FAILED", text) for text in told]
    return [Check("signatures", "ok", ", ".join(found))]


def check_xla(folder: Path, passport: dict) -> list[Check]:
    """Look for parts of the graph that only a server with XLA can run."""
    forced = forced_xla(folder)
    result = "FAILED" if forced else "ok"
    return [Check("no forced XLA", result, ", ".join(forced[:3]) or "runs without the compiler")]


def check_warmup(folder: Path, passport: dict) -> list[Check]:
    """Read the warmup requests and hold them to the signatures."""
    requests = read_warmup(folder / WARMUP_FILE)
    for request in requests:
        wanted = passport["signatures"][request.signature]["inputs"]
        if request.model != passport["name"] or {*wanted} != {*request.inputs}:
            return [Check("warmup requests", "FAILED", f"{request.model}/{request.signature} with "
                          f"{', '.join(request.inputs)}")]  # fmt: skip
    return [Check("warmup requests", "ok", ", ".join(request.signature for request in requests))]


def check_parity(folder: Path, passport: dict) -> list[Check]:
    """Run the recorded inputs and compare with the recorded outputs."""
    inputs, outputs = read_parity(folder / PARITY)
    served, checks = evaluate_signatures(folder, inputs), []
    for key, entry in passport["parity"].items():
        value, limit = difference(served[key], outputs[key]), entry["tolerance"]
        result = "ok" if value <= limit else "FAILED"
        checks.append(Check(key, result, f"{value:.1e} of at most {limit:.0e}; {entry['case']}"))
    return checks


def read_parity(path: Path) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """Return what `export.write_parity` wrote: inputs by signature, outputs by "signature/output".

    Raises:
        OSError, ValueError: it cannot be read.
    """
    inputs: dict[str, dict] = {}
    outputs = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key, array in arrays.items():
            signature, _, rest = key.partition("/")
            side, _, name = rest.partition(":")
            if side == "input":
                inputs.setdefault(signature, {})[name] = array
            else:
                outputs[f"{signature}/{name}"] = array
    return inputs, outputs


def format_table(checks: Sequence[Check]) -> str:
    """Return the checks as aligned lines."""
    rows = [("check", "result", "detail"), *checks]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{row[0]:<{first}}  {row[1]:<{second}}  {row[2]}" for row in rows)
