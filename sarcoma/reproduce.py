"""The main job: data to report, every stage a command that can be run alone."""

from pathlib import Path

from common.errors import DataError
from common.suite.reproduce import Stage, begin, run_stages
from sarcoma.config import DATA, Preset

OTHER_ARCHITECTURES = ("cascade", "dilated")
FEW_STEPS = 3


def reproduce(
    data: Path | None = None,
    preset: Preset = "quick",
    *,
    out: Path | None = None,
    seed: int = 1,
    cohort: str | None = None,
) -> None:
    """Run phantom (or your data), prepare, train, predict, evaluate and export in one go.

    The U-Net is trained and evaluated; with the preset quick, the cascade and the dilated network
    train a few steps, so that their commands are seen to work.

    Args:
        data: the HDF5 file, or a folder with one; default: phantoms are written.
        preset: whose numbers.
        out: folder of everything that is written; default: runs/sarcoma-<preset>.
        seed: of phantoms and training.
        cohort: name of the paper's own data in claims.yaml, where your data are they.
    """
    out, own_data = begin("sarcoma", preset, out=out, data=data, cohort=cohort)
    stages = []
    if data is None:
        file = out / "phantom" / DATA.name
        if not file.is_file():
            stages.append(Stage("phantom", ["--out", file.parent, "--seed", seed]))
    else:
        file = find_file(data)
    run, prepared = out / "run", out / "prepared"
    common = ["--data", file, "--preset", preset, "--prepared", prepared, "--seed", seed,
              "--overwrite"]  # fmt: skip
    stages += [
        Stage("prepare", ["--data", file, "--preset", preset, "--out", prepared]),
        Stage("train", [*common, "--run", run]),
        Stage("predict", ["--run", run]),
        Stage("evaluate", ["--run", run, *own_data]),
        Stage("export", ["--run", run, "--to", out / "models"]),
    ]
    if preset == "quick":
        few = ["--batch_size", 2, "--max_steps", FEW_STEPS, "--run_validation", "false"]
        cascade, dilated = (
            [*common, *few, "--run", out / name, "--architecture", name]
            for name in OTHER_ARCHITECTURES
        )
        stages.append(Stage("train", [*cascade, "--", *dilated]))
    run_stages("sarcoma", stages, preset=preset, out=out)


def find_file(data: Path) -> Path:
    """Return the HDF5 file that `--data` means, or the only one in the folder that it means."""
    if data.is_file():
        return data
    files = sorted([*data.glob("*.h5"), *data.glob("*.hdf5")])
    if len(files) != 1:
        raise DataError(f"--data {data}: found {len(files)} HDF5 files; expected exactly one")
    return files[0]
