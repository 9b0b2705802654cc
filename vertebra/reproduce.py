"""The main job: data to report, every stage a command that can be run alone."""

from pathlib import Path

from common.suite.reproduce import Stage, begin, run_stages
from vertebra.config import PRESETS, Preset


def reproduce(
    data: Path | None = None,
    preset: Preset = "quick",
    *,
    out: Path | None = None,
    seed: int = 1,
    cohort: str | None = None,
) -> None:
    """Run phantom (or your data), prepare, train, predict, evaluate and export in one go.

    Args:
        data: flat folder of your own cases, case1.mhd, case1_label.mhd, ...; default: phantoms are
            written.
        preset: whose numbers.
        out: folder of everything that is written; default: runs/vertebra-<preset>.
        seed: of phantoms and training.
        cohort: name of the paper's own data in claims.yaml, where your data are they.
    """
    out, own_data = begin("vertebra", preset, out=out, data=data, cohort=cohort)
    stages = []
    if data is None:
        data = out / "phantom"
        if not (data / "phantom.json").is_file():
            stages.append(Stage("phantom", [*phantom_size(preset), "--seed", seed, "--out", data]))
    isotropic, cropped, run = out / "isotropic", out / "cropped", out / "run"
    stages += [
        Stage("prepare", ["--dataset", data, "--preset", preset,
                          "--output_isotropic", isotropic, "--output_crop", cropped]),
        Stage("train", ["--dataset", cropped, "--preset", preset, "--run", run, "--seed", seed,
                        "--overwrite"]),
        Stage("predict", ["--run", run]),
        Stage("evaluate", ["--run", run, *own_data]),
        Stage("export", ["--run", run, "--to", out / "models"]),
    ]  # fmt: skip
    run_stages("vertebra", stages, preset=preset, out=out)


def phantom_size(preset: Preset) -> list:
    """Return how many phantoms of which voxels a preset is tried on."""
    cases = 12 if preset == "quick" else 15
    if PRESETS[preset].spacing_mm > 1:
        return ["--cases", cases]
    return ["--cases", cases, "--shape", "240,160,160", "--spacing_mm", "1.0,1.0,1.0"]
