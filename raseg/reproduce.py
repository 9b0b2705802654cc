"""The main job: data to report, every stage a command that can be run alone."""

from pathlib import Path

from common.suite.reproduce import Stage, begin, run_stages
from raseg.config import Preset


def reproduce(
    data: Path | None = None,
    preset: Preset = "quick",
    *,
    out: Path | None = None,
    tag: str = "main",
    val: int | None = None,
    seed: int = 42,
    cohort: str | None = None,
) -> None:
    """Run phantom (or your data), prepare, train, predict, evaluate and export in one go.

    Args:
        data: folder with images_and_labels.npy and pre_images.npy; default: phantoms are written.
        preset: whose numbers.
        out: folder of everything that is written; default: runs/raseg-<preset>.
        tag: name of binaries and run.
        val: volumes at the end that are held out; default: 10, quick 3.
        seed: of phantoms and training.
        cohort: name of the paper's own data in claims.yaml, where your data are they.
    """
    out, own_data = begin("raseg", preset, out=out, data=data, cohort=cohort)
    is_quick, stages = preset == "quick", []
    if val is None:
        val = 3 if is_quick else 10
    if data is None:
        data = out / "phantom"
        if not (data / "phantom.json").is_file():
            # The paper's volumes in number and size, or few small ones.
            size = ["--cases", 12] if is_quick else ["--cases", 61, "--shape", "512,512,20"]
            stages.append(Stage("phantom", [*size, "--seed", seed, "--out", data]))
    run, bins = out / "run", out / "bins"
    stages += [
        Stage("prepare", ["--tag", tag, "--val", val, "--preset", preset, "--data", data,
                          "--data_dir", bins, "--seed", seed]),
        Stage("train", ["--tag", tag, "--preset", preset, "--data_dir", bins, "--run", run,
                        "--seed", seed, "--overwrite"]),
        Stage("predict", ["--tag", tag, "--run", run, "--data", data]),
        Stage("evaluate", ["--tag", tag, "--run", run, "--data", data, *own_data]),
        Stage("export", ["--run", run, "--to", out / "models"]),
    ]  # fmt: skip
    run_stages("raseg", stages, preset=preset, out=out)
