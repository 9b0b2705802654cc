"""Turn weights or a snapshot of the original into a run folder, by name and to the bit."""

from dataclasses import replace
from pathlib import Path

from common.runs.folder import open_run
from vertebra.config import Config, Preset


def convert(
    original: Path, run: Path, *, config: Config, preset: Preset = "code", overwrite: bool = False
) -> None:
    """Turn weights of the original into a run folder that predict can use.

    The number of channels is read from the file. Per-site statistics, which the original does not
    have, are made by `calibrate` afterwards; with them the completeness of weights that were
    trained without saturates, so incomplete vertebrae are then kept [V2] [V17].

    Args:
        original: .pth file of either format: weights, or latest_checkpoints.pth.
        run: run folder to make.
        config: the way of inference that is noted in the run.
        preset: where the numbers come from; options after it change single ones.
        overwrite: discard what an earlier run left in the folder.
    """
    from common.network.trained import save_network
    from vertebra.model import build_model
    from vertebra.original_weights import STEP, assign_original, read_original, with_channels_of

    tensors = read_original(original)
    config = with_channels_of(tensors, config, source=str(original))
    if config.inference_statistics == "per_site":
        config = replace(config, remove_incomplete=False)
    model = build_model(config)
    left = assign_original(model, tensors, source=str(original))
    options = {"preset": preset}
    with open_run(
        run, paper="vertebra", options=options, config=config, seed=0, overwrite=overwrite
    ) as record:
        record.record(converted_from=str(original), calibrated=False)
        record.write_split({"train": [], "test": []})
        save_network(model, record.path / "model.keras")
    passes = int(tensors[f"conv_initial.2.{STEP}"])
    print(f"Assigned {len(tensors) - len(left)} tensors, {model.count_params()} numbers in all")
    print(f"Left in {original}: {len(left)} counters; the weights saw {passes} patches")
    if config.inference_statistics == "per_site":
        print("No vertebra is left out as incomplete: the completeness was not trained for this")
        print(f"Next: python -m vertebra calibrate --run {run} --dataset FOLDER")
    print(f"Network: {run / 'model.keras'}")
