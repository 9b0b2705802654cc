"""Kill the commands of a paper at random moments; what goes on must end as if nothing had happened.

`make torture [PAPER=fetal_brain] [KILLS=50] [SEED=0]`. Phantoms, tiny networks, every command a
process of its own, in the order of the paper's recipe. Two unbroken passes say what each command
leaves, and which files hold times and differ by that alone. Then, for each kill, a command begins
in the folder that it found, is killed, and is given again, until it ends. It must leave the same
files, bit for bit; when killed, nothing half-written under its final name; when it ended, no
temporary file.

`python tests/torture.py --paper workers [--kills 20]` kills the workers of a cohort instead: of 40
scans none may be lost or differ, and each has one row.
"""

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import psutil
from commands import program, with_project

MOST_KILLS_OF_ONE = 3
GROWING = ("log.csv", "manifest.json", "last.npz", "prepared.json")
"""Files that a command changes as it goes; they are whole at each moment, but not yet the last."""

Stages = tuple[tuple[str, ...], ...]


def stages_of(paper: str) -> Stages:
    """The paper's recipe at the least size: commands and their options, relative to one folder."""
    texts = {
        "fetal_brain": (
            "phantom --out phantom --cases 5 --shape 5,64,64",
            f"prepare --train_csv phantom/phantom.csv --out prepared {FETAL_BRAIN}",
            "train --train_csv phantom/phantom.csv --prepared prepared --run run --max_steps 12 "
            f"--steps_per_evaluation 2 --batch_size 2 --held_out_cases 2 {FETAL_BRAIN}",
            *"predict --run run;evaluate --run run;export --run run --to models".split(";"),
        ),
        "raseg": (
            "phantom --out phantom --cases 8 --shape 32,32,6",
            f"prepare --tag t --val 2 --data phantom --data_dir bins {RASEG}",
            f"train --tag t --data_dir bins --run run --epochs 6 --filters 2,4 {RASEG}",
            "predict --tag t --run run --data phantom",
            "evaluate --tag t --run run --data phantom",
            "export --run run --to models",
        ),
        "sarcoma": (
            "phantom --out phantom --plane 64",
            f"prepare --data phantom/{SARCOMA_FILE} --out prepared {SARCOMA}",
            f"train --data phantom/{SARCOMA_FILE} --prepared prepared --run run --epochs 6 "
            f"--steps_per_epoch 2 --batch_size 2 {SARCOMA}",
            *"predict --run run;evaluate --run run;export --run run --to models".split(";"),
        ),
        "vertebra": (
            "phantom --out phantom --cases 3 --shape 56,90,80",
            "prepare --dataset phantom --output_isotropic iso --output_crop crop "
            f"--split_ratio 0.67 {VERTEBRA}",
            "train --dataset crop --run run --max_steps 12 --steps_per_evaluation 2 "
            "--eval_iters 1 --calibration_patches 2 --fix_statistics_after 5 "
            f"--fix_statistics_over 4 {VERTEBRA}",
            *"predict --run run;evaluate --run run;export --run run --to models".split(";"),
        ),
        "dhcp_fetal": (
            "phantom --out phantom --cases 6",
            f"train --cases phantom/brain.csv --run brain {DHCP_FETAL}",
            "predict --run brain",
            "evaluate --run brain",
            "export --run brain --to models",
        ),
    }
    return tuple(tuple(text.split()) for text in texts[paper])


FETAL_BRAIN = "--preset quick --filters 4,4,8 --kernels 3,3,1 --patch_shape 3,32,32"
RASEG = "--preset quick --validation_volumes 1"
SARCOMA_FILE = "lab_petct_vox_5.00mm.h5"
SARCOMA = "--preset quick --filters 2,4"
VERTEBRA = "--preset quick --channels 2"
DHCP_FETAL = (
    "--preset quick --epochs 3 --subepochs 2 --segments_per_subepoch 12 "
    "--validation_segments_per_subepoch 4"
)


def content(path: Path) -> str:
    """A digest of what a file says: of a network its weights, since Keras numbers its objects by
    their addresses; else its bytes."""
    if path.suffix == ".keras":
        with (
            zipfile.ZipFile(path) as archive,
            h5py.File(io.BytesIO(archive.read("model.weights.h5"))) as weights,
        ):
            found = hashlib.sha256()
            weights.visititems(
                lambda name, item: (
                    isinstance(item, h5py.Dataset)
                    and found.update(name.encode() + np.asarray(item).tobytes())
                )
            )
            return found.hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(folder: Path) -> dict[str, str]:
    """Every visible file below a folder and its content, but TensorBoard's: every start has one."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = ((path.relative_to(folder), path) for path in paths)
    return {
        name.as_posix(): content(path)
        for name, path in names
        if not any(part.startswith(".") or part == "tensorboard" for part in name.parts)
    }


def leftovers(folder: Path) -> list[str]:
    """Hidden files and folders that a finished command should have removed; locks may stay."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.suffix != ".lock"
            and path.name != ".lock"]  # fmt: skip


def begin(paper: str, words: tuple[str, ...], folder: Path) -> subprocess.Popen:
    """Start a command in a folder, in a process group of its own."""
    with (folder.parent / "output.txt").open("wb") as output:
        return subprocess.Popen(
            program(paper, words), cwd=folder, env=with_project({"TF_CPP_MIN_LOG_LEVEL": "2"}),
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def finish(paper: str, words: tuple[str, ...], folder: Path) -> float:
    """Run a command to its end and return the seconds; it must succeed."""
    began = time.monotonic()
    if begin(paper, words, folder).wait():
        said = (folder.parent / "output.txt").read_text(errors="replace")
        raise SystemExit(f"{paper} {' '.join(words)} failed:\n{said[-2000:]}")
    return time.monotonic() - began


def is_finished(words: tuple[str, ...], folder: Path) -> bool:
    """Whether a killed command had done all: giving it again would be another one."""
    if words[0] == "train":
        manifest = folder / words[words.index("--run") + 1] / "manifest.json"
        return manifest.is_file() and json.loads(manifest.read_text())["status"] == "finished"
    return words[0] == "export" and any(folder.glob("models/*/[0-9]*/saved_model.pb"))


def half_written(folder: Path, before: dict[str, str], after: dict[str, str], volatile) -> list:
    """Visible files of a killed command that are neither as they were nor as they will be."""
    wrong = []
    for name, found in tree(folder).items():
        path = folder / name
        if found in (before.get(name), after.get(name)):
            continue
        if path.name not in GROWING and name not in volatile:
            wrong.append(f"{name} is neither the old file nor the new one")
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".npz":
                with np.load(path) as arrays:
                    _ = [arrays[key] for key in arrays.files]
        except Exception as error:
            wrong.append(f"{name} cannot be read: {error!r}")
    return wrong


def torture(
    paper: str, kills: int, seed: int, folder: Path, *, only: int | None = None
) -> list[str]:
    """Kill the commands of a paper, or `only` the first ones; return what was wrong."""
    stages, work = stages_of(paper)[:only], folder / "work"
    states, trees, seconds, volatile = [], [], [], set()
    work.mkdir(parents=True)
    for number, words in enumerate(stages):
        states.append(folder / f"before-{number}")
        shutil.copytree(work, states[-1])
        seconds.append(finish(paper, words, work))
        first = tree(work)
        put_back(states[-1], work)
        finish(paper, words, work)
        trees.append(tree(work))
        volatile |= {name for name, _ in {*first.items()} ^ {*trees[-1].items()}}
        print(f"{paper} {words[0]}: {seconds[-1]:.1f} s", flush=True)
    kept = ("log.csv", "split.json", "model.keras", ".nii.gz", ".npy", ".mhd", ".raw")
    faults = [f"two unbroken runs differ in {name}" for name in volatile if name.endswith(kept)]
    print(f"{paper}: {len(trees[-1])} files; with times in them: {', '.join(sorted(volatile))}")
    chance, counts = random.Random(seed), Counter()
    while counts.total() < kills:
        (number,) = chance.choices(
            range(len(stages)), [3 if s[0] == "train" else 1 for s in stages]
        )
        words, longest = stages[number], 1.05 * seconds[number]
        moments = [chance.uniform(0, longest) for _ in range(chance.randint(1, MOST_KILLS_OF_ONE))]
        put_back(states[number], work)
        killed, wrong = trial(paper, words, work, moments, trees[number], volatile)
        counts[words[0]] += killed
        after = ", ".join(f"{moment:.2f} s" for moment in moments[:killed])
        where = f"{paper} {words[0]} killed after {after}" if killed else f"{paper} {words[0]}"
        faults += [f"{where}: {text}" for text in wrong]
        print(f"{where}: {'; '.join(wrong) or 'equal'}", flush=True)
    parts = ", ".join(f"{counts[words[0]]} in {words[0]}" for words in stages)
    print(f"{paper}: {counts.total()} kills ({parts}), {len(faults)} faults", flush=True)
    return faults


def trial(paper, words, work: Path, moments, after, volatile) -> tuple[int, list[str]]:
    """Kill a command after some seconds, give it again, ..., let it end; return the number of
    kills that it did not forestall, and what was wrong."""
    before, killed, wrong = tree(work), 0, []
    for moment in moments:
        job = begin(paper, words, work)
        try:
            job.wait(moment)
            break
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
        killed += 1
        wrong += half_written(work, before, after, volatile)
        if is_finished(words, work):
            break
    if not is_finished(words, work) and job.returncode != 0:
        finish(paper, words, work)
    found = tree(work)
    for name in sorted({*found, *after}):
        differs = found.get(name) != after.get(name) and name not in volatile
        if differs or (name in volatile and name in after and name not in found):
            wrong.append(f"{name} differs")
    return killed, wrong + [f"{name} was left" for name in leftovers(work)]


def put_back(state: Path, work: Path) -> None:
    """Give a folder the content that a command found."""
    shutil.rmtree(work)
    shutil.copytree(state, work, symlinks=True)


COHORT = (
    "phantom --out phantom --cases 40",
    "train --train_csv phantom/phantom.csv --run run --preset quick --max_steps 4 "
    "--steps_per_evaluation 4",
    "predict --run run --csv phantom/phantom.csv --all_rows --threads 1 --out alone",
)
"""Scans of about a second, and what one process makes of them."""


def torture_workers(kills: int, seed: int, folder: Path) -> list[str]:
    """Kill workers of a cohort at random moments, cohort after cohort; return what was wrong."""
    for text in COHORT:
        finish("fetal_brain", tuple(text.split()), folder)
    wanted = tree(folder / "alone")
    chance, killed, faults, number = random.Random(seed), 0, [], 0
    while killed < kills:
        number += 1
        words = (*COHORT[2].replace("alone", f"shared{number}").split(), "--workers", "2")
        job = begin("fetal_brain", words, folder)
        while job.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(chance.uniform(2, 14))
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                workers = [child for child in psutil.Process(job.pid).children()
                           if any("spawn_main" in word for word in child.cmdline())]  # fmt: skip
                chance.choice(workers).kill()
                killed += 1
        ended = job.returncode
        if ended:  # a scan whose workers were killed three times
            finish("fetal_brain", words, folder)
        out = folder / f"shared{number}"
        found = tree(out)
        rows = [line.split(",")[:2] for line in (out / "cohort.csv").read_text().splitlines()[1:]]
        wrong = [f"{name} differs" for name in wanted if found.get(name) != wanted[name]]
        if sorted(rows) != sorted([name.partition(".")[0], "done"] for name in wanted):
            wrong.append("cohort.csv has not one row for each")
        wrong += [f"{name} was left" for name in leftovers(out)]
        faults += [f"cohort {number}: {text}" for text in wrong]
        print(f"cohort {number}: status {ended}, {killed} kills so far: "
              f"{'; '.join(wrong) or 'equal'}", flush=True)  # fmt: skip
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__.splitlines()[0])
    parser.add_argument("--paper", default="fetal_brain,raseg,sarcoma,vertebra,dhcp_fetal")
    parser.add_argument("--kills", type=int, default=50, help="of each paper")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    faults = []
    for paper in options.paper.split(","):
        with tempfile.TemporaryDirectory() as folder:
            if paper == "workers":
                faults += torture_workers(options.kills, options.seed, Path(folder))
                continue
            faults += torture(paper, options.kills, options.seed, Path(folder))
    print("\n".join(faults))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
