"""The main job: data to report, both networks, every stage a command that can be run alone."""

from pathlib import Path

from common.errors import DataError
from common.suite.reproduce import Stage, begin, run_stages
from dhcp_fetal.config import PRESETS, Preset

QUICK_CASES = 11


def reproduce(
    data: Path | None = None,
    preset: Preset = "quick",
    *,
    out: Path | None = None,
    seed: int = 42,
    cohort: str | None = None,
) -> None:
    """Run phantom (or your data), train both networks, predict, evaluate and export in one go.

    Args:
        data: folder with brain.csv and cortex.csv of your own cases; default: phantoms are written.
        preset: whose numbers.
        out: folder of everything that is written; default: runs/dhcp_fetal-<preset>.
        seed: of phantoms and training.
        cohort: name of the paper's own data in claims.yaml, where your data are they.
    """
    out, own_data = begin("dhcp_fetal", preset, out=out, data=data, cohort=cohort)
    stages = []
    if data is None:
        data = out / "phantom"
        if not (data / "cortex.csv").is_file():
            count = QUICK_CASES if preset == "quick" else 30 + PRESETS[preset].held_out_cases
            stages.append(Stage("phantom", ["--cases", count, "--seed", seed, "--out", data]))
    else:
        check_tables(data)
    brain, cortex = out / "brain", out / "cortex"
    for name, run in (("brain", brain), ("cortex", cortex)):
        words = ["--cases", data / f"{name}.csv", "--preset", preset, "--run", run]
        stages.append(Stage("train", [*words, "--seed", seed, "--overwrite"]))
    stages += [
        Stage("predict", ["--brain", brain, "--cortex", cortex]),
        Stage("evaluate", ["--run", cortex, "--structure", "cortex", *own_data]),
        Stage("export", ["--run", brain, "--to", out / "models", "--name", "dhcp_fetal_brain", "--",
                         "--run", cortex, "--to", out / "models", "--name", "dhcp_fetal_cortex"]),
    ]  # fmt: skip
    run_stages("dhcp_fetal", stages, preset=preset, out=out, run=cortex)


def check_tables(data: Path) -> None:
    """Refuse a folder without the two tables; the `DataError` names the one that is missing."""
    for name in ("brain.csv", "cortex.csv"):
        if not (data / name).is_file():
            raise DataError(f"--data {data}: {name} is missing; expected brain.csv and cortex.csv")
