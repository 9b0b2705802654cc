"""sbatch, squeue and scancel for tests: jobs are processes of this machine.

`install(folder)` writes the three commands; `state/` beside them has a file per job.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path


def install(folder: Path) -> None:
    """Write the three commands into a folder, which is to stand first in PATH."""
    (folder / "state").mkdir(parents=True)
    for name in ("sbatch", "squeue", "scancel"):
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {folder} {name} "$@"\n')
        command.chmod(0o755)


def main(folder: Path, name: str, words: list[str]) -> None:
    """Do what a command of Slurm does, as far as Dask asks for it."""
    state = folder / "state"
    if name == "sbatch":
        number, script = next_number(state), Path(words[-1]).read_text()
        command = ["bash", words[-1]]
        if tasks := array_of([*words, *script.split()]):
            loop = f"for i in {' '.join(tasks)}; do SLURM_ARRAY_TASK_ID=$i bash {words[-1]}; done"
            command = ["bash", "-c", loop]
        job = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL,
            stderr=open(folder / f"job-{number}.log", "w"),
        )  # fmt: skip
        (state / str(number)).write_text(f"{job.pid}\n{script}")
        print(f"Submitted batch job {number}")
    elif name == "squeue":
        print("JOBID STATE")
        for job in sorted(state.iterdir()):
            print(job.name, "RUNNING")
    else:
        for number in words:
            end(int((state / number).read_text().split()[0]))


def array_of(words: list[str]) -> list[str]:
    """Return the numbers of the first --array=A-B or --array=A; empty: it is no array job."""
    for word in words:
        if word.startswith("--array="):
            first, _, last = word.removeprefix("--array=").partition("-")
            return [str(n) for n in range(int(first), int(last or first) + 1)]
    return []


def next_number(state: Path) -> int:
    """Return the number of a new job; several may be submitted at once."""
    number = 1
    while True:
        try:
            (state / str(number)).touch(exist_ok=False)
            return number
        except FileExistsError:
            number += 1


def end(pid: int) -> None:
    """End a job and all that it started."""
    try:
        os.killpg(pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
