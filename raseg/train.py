"""Train the network on the binaries of a tag and keep the run in a folder."""

from pathlib import Path

from common.runs.folder import open_run
from common.runtime import Strategy, configure_runtime
from raseg.config import Config, Preset, count_steps, steps_per_epoch


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
    strategy: Strategy | None = None,
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
        strategy: several devices share every batch: "mirrored", the GPUs of this machine, or
            "multiworker", those of several processes, which TF_CONFIG or Slurm names.
    """
    from common.training.loop import fit
    from raseg import binaries, data, learning, sampling, validation

    data.check_tag(tag)
    records = binaries.find_binaries(data_dir, tag, config)
    examples = len(records.training)
    steps = count_steps(config, examples)
    run = run or Path("models") / f"raseg_train_{tag}"
    options = {"tag": tag, "preset": preset, "data_dir": data_dir, "original": original,
               "deterministic": deterministic, "mixed_precision": mixed_precision,
               "strategy": strategy}  # fmt: skip
    if mixed_precision:
        learning.refuse_wrong_bfloat16(config, records.layout.shape[0])
    with open_run(
        run, paper="raseg", options=options, config=config, seed=seed, overwrite=overwrite,
        strategy=strategy,
    ) as record:  # fmt: skip
        runtime = configure_runtime(
            seed=seed, deterministic=deterministic, mixed_precision=mixed_precision,
            strategy=strategy,
        )  # fmt: skip
        record.record(runtime=runtime, phantom=bool(records.index.get("phantom")), tag=tag)
        record.record_files(records.files)
        record.write_split(binaries.list_split(records))

        network, trained, averages = learning.build_for_training(
            config, examples, xla=runtime["xla"]
        )
        if original is not None:
            learning.go_on_from(original, trained, network, averages)
        segment = validation.make_segmenter(network, averages, records, config)
        watched = len(records.validation)
        fit(
            trained,
            lambda first_step: sampling.make_dataset(
                records, config, seed, first_step=first_step, last_step=steps
            ),
            run=record,
            max_steps=steps,
            steps_per_epoch=steps_per_epoch(config, examples),
            evaluate=(lambda: validation.measure(segment, watched)) if watched else None,
            pictures=(lambda: validation.draw(segment)) if watched else None,
            callbacks=[averages],
        )
        learning.save_averages(network, averages, records, config, record.path / "model.keras")
    print(f"Trained network: {run / 'model.keras'}")
