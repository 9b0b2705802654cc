"""Turn a checkpoint or an export of the original into a run folder, by name and to the bit."""

from pathlib import Path

from common.runs.folder import open_run
from fetal_brain.config import Config, Preset


def convert(
    original: Path, run: Path, *, config: Config, preset: Preset = "code", overwrite: bool = False
) -> None:
    """Turn a checkpoint or an export of the original into a run folder that predict can use.

    Args:
        original: checkpoint (prefix or one of its files), the folder it was trained into, or an
            exported SavedModel or its variables folder.
        run: run folder to make.
        config: the network to fill; the original's weights fit `code` and `port`.
        preset: where the numbers come from; options after it change single ones.
        overwrite: discard what an earlier run left in the folder.
    Raises:
        RunError: the folder holds a run already.
        DataError: no checkpoint, a truncated one, or one of another architecture.
    """
    from common.network.trained import save_network
    from fetal_brain import inference, original_weights

    tensors = original_weights.read_original(original)
    model = inference.build_for_any_plane(config)
    left = original_weights.assign_original(model, tensors, source=str(original))
    step = int(tensors.get(original_weights.STEP, 0))
    slots = sum(name.endswith(original_weights.SLOT) for name in left)
    options = {"preset": preset}
    with open_run(
        run, paper="fetal_brain", options=options, config=config, seed=0, overwrite=overwrite
    ) as record:
        record.record(converted_from=str(original), step=step)
        record.write_split({"training": [], "validation": [], "test": []})
        save_network(model, record.path / "model.keras")
    print(f"Assigned {len(model.weights)} variables, {model.count_params()} numbers, by name")
    print(f"Left in {original}: {slots} momentum slots and the step {step}")
    print(f"Network: {run / 'model.keras'}")
