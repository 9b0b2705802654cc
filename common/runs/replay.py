"""Repeat a finished run from its own records, and compare the weights.

`python -m common replay RUN [--to FOLDER]` trains once more with the run's config.yaml, seed
and data, into a new folder, and compares the networks array by array. Exit status 0: identical;
1: different, and what differs in the environment is listed; 2: a mistake of the user's.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from common.cli import Parser
from common.errors import OptionError, RunError
from common.files import sha256_of
from common.network.keras_file import read_arrays
from common.papers import ROOT
from common.runs.folder import Run, load_run
from common.runs.provenance import DECIDES_THE_BITS, differences, git_state, shown

IDENTICAL, DIFFERENT = range(2)
COMPARED = (*DECIDES_THE_BITS, "platform", "runtime", "data_files")
"""What a manifest says of everything that may change the weights."""


def main(argv: Sequence[str] | None = None) -> int:
    """Answer `RUN [--to FOLDER]`; return 0 where the weights are identical, else 1."""
    parser = Parser(prog="python -m common replay", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of the finished run")
    parser.add_argument("--to", type=Path, help="new run folder; default: <run>-replay beside it")
    options = parser.parse_args(argv)
    return replay(options.run, options.to)


def replay(path: Path, to: Path | None = None) -> int:
    """Repeat a finished run into a new folder, by default <path>-replay; return the status."""
    run = load_run(path)
    path = path.resolve()
    to = (to or path.with_name(f"{path.name}-replay")).resolve()
    if run.status != "finished" or not (path / "model.keras").is_file():
        raise RunError(f"{path} is {run.status}; expected a finished run with model.keras")
    if to.exists() and any(to.iterdir()):
        raise OptionError(f"--to {to} has content; expected a new or empty folder")
    folder = Path(run.manifest.get("folder", "."))
    if not folder.is_dir():  # the working directory of the command, which another machine may lack
        folder = Path.cwd()
    for line in [*check_data(run, folder), *check_code(run)]:
        print(f"note: {line}", file=sys.stderr)
    train_again(run, to, folder)
    return compare_weights(run, load_run(to))


def check_data(run: Run, folder: Path) -> Iterator[str]:
    """Yield a line for every data file that has changed; raise `RunError` if one is missing."""
    known = run.manifest.get("data_files", {})
    if not known:
        yield f"{run.path} names no data files; whether the data are the same cannot be checked"
    for name, entry in known.items():
        file = folder / name
        if not file.is_file():
            raise RunError(f"{file} is missing; expected the data file that the run was made from")
        found = sha256_of(file)
        if found != entry["sha256"]:
            yield f"{file} has changed: sha256 {entry['sha256'][:12]} then, {found[:12]} now"


def check_code(run: Run) -> Iterator[str]:
    """Yield a line where the code is not, or cannot be known to be, that of the run."""
    then, now = run.manifest.get("git", {}), git_state(ROOT)
    commit = then.get("commit")
    if commit is None:
        yield "the run names no commit; whether the code is the same cannot be checked"
    elif then.get("dirty"):
        yield f"the run was made from commit {commit[:12]} with uncommitted changes, now unknown"
    if commit is not None and now["commit"] != commit:
        yield f"the code is at commit {str(now['commit'])[:12]}, the run was made at {commit[:12]}"
    elif now["dirty"]:
        yield "the code has uncommitted changes"


def train_again(run: Run, to: Path, folder: Path) -> None:
    """Train in a process of its own, as the run's configuration says."""
    words = ["-m", run.paper, "train", "--config", str((run.path / "config.yaml").resolve())]
    words += ["--run", str(to)]
    print(f"replay: python {' '.join(words)}", file=sys.stderr, flush=True)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, stdout=sys.stderr, check=False
    )
    if done.returncode:
        raise OptionError(f"the training failed with status {done.returncode}; see above")


def compare_weights(old: Run, new: Run) -> int:
    """Print whether two finished runs have the same weights, and else what differs."""
    networks = [read_arrays(run.path / "model.keras") for run in (old, new)]
    before, after = map(hash_arrays, networks)
    if before == after:
        print(f"identical: all {len(before)} arrays of {new.path / 'model.keras'}, "
              f"sha256 over their names and values {hash_of_all(before)[:16]}")  # fmt: skip
        return IDENTICAL
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    print(f"different: {len(changed)} of {len({**before, **after})} arrays, {changed[0]} first"
          f"{distance(*networks)}")  # fmt: skip
    found = list(differences(*({name: run.manifest.get(name) for name in COMPARED}
                               for run in (old, new))))  # fmt: skip
    for field, then, now in found:
        print(f"  {field}: {shown(then)} then, {shown(now)} now")
    if not new.manifest.get("runtime", {}).get("deterministic"):
        print("  runtime.deterministic: false; expected --deterministic true for equal bits")
    elif not found:
        print("  no recorded difference: the computation itself is not deterministic")
    return DIFFERENT


def hash_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return the SHA-256 of every array, of its dtype, shape and bytes, by name."""
    return {
        name: hashlib.sha256(
            f"{array.dtype.str} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes()
        ).hexdigest()
        for name, array in arrays.items()
    }


def hash_of_all(hashes: dict[str, str]) -> str:
    """Return one SHA-256 over named hashes, whatever their order."""
    lines = "".join(f"{name} {value}\n" for name, value in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def distance(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> str:
    """Return how far apart the arrays of two networks are, as the end of a sentence."""
    if {name: a.shape for name, a in before.items()} != {n: a.shape for n, a in after.items()}:
        return "; the networks differ in shape"
    largest, name = max(
        (float(np.abs(array.astype(float) - after[name]).max(initial=0.0)), name)
        for name, array in before.items()
    )
    return f"; largest difference {largest:.3g} in {name}"
