"""The main job: data to report, every stage a command that can be run alone."""

from pathlib import Path

from common.errors import DataError
from common.suite.reproduce import Stage, begin, run_stages
from fetal_brain.config import Preset


def reproduce(
    data: Path | None = None,
    preset: Preset = "quick",
    *,
    out: Path | None = None,
    seed: int = 42,
    cohort: str | None = None,
) -> None:
    """Run phantom (or your data), prepare, train, predict, evaluate and export in one go.

    Args:
        data: CSV list of your own cases, or a folder with one; default: phantoms are written.
        preset: whose numbers.
        out: folder of everything that is written; default: runs/fetal_brain-<preset>.
        seed: of phantoms and training.
        cohort: name of the paper's own data in claims.yaml, where your data are they.
    """
    out, own_data = begin("fetal_brain", preset, out=out, data=data, cohort=cohort)
    stages = []
    if data is None:
        listing = out / "phantom" / "phantom.csv"
        if not listing.is_file():
            cases = 10 if preset == "quick" else 36  # as many as the preset's split needs
            size = ["--cases", cases, "--seed", seed, "--out", listing.parent]
            stages.append(Stage("phantom", size))
    else:
        listing = find_list(data)
    run, prepared = out / "run", out / "prepared"
    stages += [
        Stage("prepare", ["--train_csv", listing, "--preset", preset, "--out", prepared]),
        Stage("train", ["--train_csv", listing, "--preset", preset, "--run", run,
                        "--prepared", prepared, "--seed", seed, "--overwrite"]),
        Stage("predict", ["--run", run]),
        Stage("evaluate", ["--run", run, *own_data]),
        Stage("export", ["--run", run, "--to", out / "models"]),
    ]  # fmt: skip
    run_stages("fetal_brain", stages, preset=preset, out=out)


def find_list(data: Path) -> Path:
    """Return the CSV list that `--data` means: a file, or the only one in a folder."""
    if data.is_file():
        return data
    lists = sorted(data.glob("*.csv"))
    if len(lists) != 1:
        raise DataError(f"--data {data}: found {len(lists)} CSV lists; expected exactly one")
    return lists[0]
