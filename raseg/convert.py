"""Turn a checkpoint of the original into a run folder, by name and to the bit."""

from pathlib import Path
from typing import Literal

from common.runs.folder import open_run
from raseg.config import Config, Preset


def convert(
    original: Path,
    run: Path,
    *,
    config: Config,
    preset: Preset = "code",
    weights: Literal["ema", "raw"] = "ema",
    overwrite: bool = False,
) -> None:
    """Turn a checkpoint of the original into a run folder that predict can use.

    Args:
        original: checkpoint (prefix or one of its files) or the folder it was trained into, whose
            latest one is read.
        run: run folder to make.
        config: the network to fill; the original's weights fit `code`, `port` differs in the ReLU
            on the logits.
        preset: where the numbers come from; options after it change single ones.
        weights: ema: the running means, which the original predicts with; raw: the last weights.
        overwrite: discard what an earlier run left in the folder.
    Raises:
        RunError: the folder holds a run already.
        DataError: no checkpoint, a truncated one, or one of another architecture.
    """
    from common.network.trained import save_network
    from raseg import model, original_weights

    tensors = original_weights.read_original(original)
    network = model.build_for_any_size(config)
    left = original_weights.assign_original(network, tensors, weights=weights, source=str(original))
    step = int(tensors.get(original_weights.STEP, 0))
    options = {"preset": preset, "weights": weights}
    with open_run(
        run, paper="raseg", options=options, config=config, seed=0, overwrite=overwrite
    ) as record:
        record.record(converted_from=str(original), step=step)
        record.write_split({"training": [], "validation": [], "test": []})
        save_network(network, record.path / "model.keras")
    which = "running means" if weights == "ema" else "last weights"
    print(
        f"Assigned {len(network.weights)} variables, {network.count_params()} numbers: the {which}"
    )
    print(f"Left in {original}: {len(left)} others (optimiser, step {step}, the other weights)")
    print(f"Network: {run / 'model.keras'}")
