"""Turn a Keras 2 file of the original into a run folder: by order, every shape checked."""

from dataclasses import replace
from pathlib import Path

from common.runs.folder import open_run
from sarcoma.config import Config, Preset
from sarcoma.original_weights import assign_original, filters_of, read_optimizer, read_original


def convert(
    original: Path,
    run: Path,
    *,
    config: Config,
    preset: Preset = "code",
    check: bool = True,
    overwrite: bool = False,
) -> None:
    """Turn a Keras 2 file of the original into a run folder that predict can use.

    Args:
        original: `model.h5` as train.py writes it (model.save) or as save_weights does.
        run: run folder to make.
        config: the network to fill; the U-Net's channels are taken from the file.
        preset: where the numbers come from; the original's weights fit `code`.
        check: compare the network's output with that of tf-keras, which reads such files itself.
        overwrite: discard what an earlier run left in the folder.
    """
    from common.network.trained import save_network
    from sarcoma.model import build_model
    from sarcoma.tf_keras_check import describe_check

    tensors = read_original(original)
    if config.architecture == "unet2d":
        config = replace(config, filters=filters_of(tensors) or config.filters)
    model = build_model(config)
    assign_original(model, tensors, source=str(original))
    slots = read_optimizer(original)
    with open_run(
        run, paper="sarcoma", options={"preset": preset}, config=config, seed=0, overwrite=overwrite
    ) as record:
        record.record(converted_from=str(original), step=slots["iterations"])
        record.write_split({"training": [], "validation": [], "test": []})
        save_network(model, record.path / "model.keras")
    print(f"Assigned {len(model.weights)} variables, {model.count_params()} numbers, by order")
    print(
        f"Left in {original}: step {slots['iterations']} and {len(slots['m'])} pairs of Adam's "
        "moments (train --original goes on from them)"
    )
    if check:
        print(describe_check(model, original))
    print(f"Network: {run / 'model.keras'}")
