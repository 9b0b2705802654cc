"""Train the network on the binaries of a tag and keep the run in a folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from raseg.config import Config, Preset

if TYPE_CHECKING:
    from raseg.binaries import Binaries


def train(
    tag: str,
    *,
    config: Config,
    run: Path | None = None,
    preset: Preset = "port",
    data_dir: Path = Path("datasets/bins"),
    seed: int = 42,
    original: Path | None = None,
    overwrite: bool = False,
    deterministic: bool | None = None,
    mixed_precision: bool = False,
) -> None:
    """Train the network on the binaries of a tag and keep the run in a folder.

    The same command again continues an unfinished run, to the bit when deterministic [R7].

    Args:
        tag: name of the binaries that prepare wrote.
        config: every number of the run.
        run: run folder; default: models/raseg_train_<tag>, the original's --train_dir.
        preset: where the numbers come from; options after it change single ones.
        data_dir: folder of the binaries.
        seed: of weights, order and distortions.
        original: checkpoint of the original to go on from, with its Adam state and running means.
        overwrite: discard what an earlier run left in the folder.
        deterministic: same bits at every repetition on the same machine; default: yes on a CPU,
            where it costs nothing, no on a GPU, where it excludes XLA.
        mixed_precision: bfloat16 arithmetic, float32 weights and logits.
    """
    from common.runs.folder import open_run
    from common.runtime import configure_runtime
    from common.training.loop import fit
    from raseg.binaries import find_binaries
    from raseg.config import count_steps, steps_per_epoch
    from raseg.prepare import check_tag
    from raseg.sampling import make_dataset
    from raseg.validation import make_pictures, make_segmenter, make_validation

    check_tag(tag)
    binaries = find_binaries(data_dir, tag, config)
    examples = len(binaries.training)
    steps = count_steps(config, examples)
    run = run or Path("models") / f"raseg_train_{tag}"
    options = {
        "tag": tag,
        "preset": preset,
        "data_dir": data_dir,
        "original": original,
        "deterministic": deterministic,
        "mixed_precision": mixed_precision,
    }
    with open_run(
        run, paper="raseg", options=options, config=config, seed=seed, overwrite=overwrite
    ) as record:
        runtime = configure_runtime(
            seed=seed, deterministic=deterministic, mixed_precision=mixed_precision
        )
        record.record(runtime=runtime, phantom=bool(binaries.index.get("phantom")), tag=tag)
        record.record_files(binaries.files)
        record.write_split(list_split(binaries))

        network, trained, averages = build_for_training(config, examples, xla=runtime["xla"])
        if original is not None:
            go_on_from(original, trained, network, averages)
        segment = make_segmenter(network, averages, binaries, config)
        watching = bool(binaries.validation)
        fit(
            trained,
            lambda first_step: make_dataset(
                binaries, config, seed, first_step=first_step, last_step=steps
            ),
            run=record,
            max_steps=steps,
            steps_per_epoch=steps_per_epoch(config, examples),
            evaluate=make_validation(segment, binaries) if watching else None,
            pictures=make_pictures(segment) if watching else None,
            callbacks=[averages],
        )
        save_averages(network, averages, binaries, config, record.path / "model.keras")
    print(f"Trained network: {run / 'model.keras'}")


def build_for_training(config: Config, examples: int, *, xla: bool):
    """Build the network, the model that trains it, and its running means.

    Args:
        config: of the run.
        examples: records of the training binaries, which size the schedule.
        xla: compile the step with XLA.
    Returns:
        Network, compiled model (the network itself or its rematerialised pass), averages.
    """
    from common.network.meters import LabelDice
    from raseg.averages import WeightAverages
    from raseg.inference import build_for_any_size
    from raseg.model import DiceLoss, make_optimizer
    from raseg.rematerialise import Rematerialised

    network = build_for_any_size(config)
    trained = Rematerialised(network, config) if config.rematerialise else network
    trained.compile(
        optimizer=make_optimizer(config, examples),
        loss=DiceLoss(config),
        metrics=[LabelDice(1, name="dice")],
        jit_compile=xla,
    )
    return network, trained, WeightAverages(network.trainable_variables, config.ema_decay)


def go_on_from(original: Path, trained, network, averages) -> None:
    """Give model, optimiser and running means the state of the original's checkpoint."""
    from raseg.convert import assign_original, assign_training_state, read_original

    tensors = read_original(original)
    assign_original(network, tensors, weights="raw", source=str(original))
    assign_training_state(trained.optimizer, averages, network, tensors)


def list_split(binaries: "Binaries") -> dict[str, list[dict]]:
    """Return the numbers of the volumes by subset; empty lists for binaries of the original."""
    split = binaries.index.get("split", {"training": [], "validation": [], "test": []})
    return {name: [{"volume": number} for number in numbers] for name, numbers in split.items()}


def save_averages(network, averages, binaries: "Binaries", config: Config, path: Path) -> None:
    """Save the running means as a network of the volumes' size.

    Of a known size it consists of Keras' own layers alone and loads without this package (but for
    batch statistics).
    """
    from common.network.trained import save_network
    from raseg.model import build_model

    fixed = build_model(config, (*binaries.layout.shape, binaries.layout.channels))
    with averages.in_place():  # [R36]
        fixed.set_weights(network.get_weights())
    save_network(fixed, path)
