"""Take the statistics of every site of a network from given scans and store them with it."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from common.errors import OptionError
from common.files import write_json
from common.runs.folder import load_config
from common.runtime import configure_runtime
from vertebra.case_cache import store_cases
from vertebra.config import Config
from vertebra.data import find_prepared_cases


def calibrate(
    run: Path,
    dataset: Path,
    *,
    subset: Literal["train", "test"] = "train",
    patches: int | None = None,
    seed: int = 1,
) -> None:
    """Take the statistics of every site of a network from given scans and store them with it.

    For converted weights, which have none, or to adapt a network to other scans. Patches are drawn
    as in training, unchanged, a part of them with nothing left to find.

    Args:
        run: run folder whose network is given the statistics.
        dataset: cropped tree that `prepare` wrote.
        subset: which of its cases to use.
        patches: number of patches; default: calibration_patches of the run.
        seed: of the patches.
    """
    from common.network.trained import save_network
    from vertebra import calibration, inference, learning

    config = load_config(run, Config)
    patches = config.calibration_patches if patches is None else patches
    if patches < 1:
        raise OptionError(f"--patches: found {patches}; expected 1 or more")
    # Windows of the released sampler may leave a scan [V7]; here they never do.
    config = replace(config, inference_statistics="batch", calibration_patches=patches,
                     window_limits="per_axis", keep_geometry=False)  # fmt: skip
    cases = find_prepared_cases(dataset, subset)
    configure_runtime(seed=seed)
    model = inference.load_network(run, config)
    with tempfile.TemporaryDirectory() as scratch:
        stored = store_cases(cases, Path(scratch), config)
        drawn = learning.calibration_patches(stored, config, seed)
        shown = tqdm(drawn, total=patches, desc="calibrate", unit="patch")
        count = calibration.calibrate_sites(model, shown)
    save_network(model, run / "model.keras")
    (run / "checkpoints").mkdir(exist_ok=True)
    write_json(
        run / "checkpoints" / "calibration.json",
        {"dataset": dataset, "cases": [case.id for case in cases], "patches": count, "seed": seed},
    )
    print(f"Statistics of {len(cases)} cases, {count} patches: {run / 'model.keras'}")
