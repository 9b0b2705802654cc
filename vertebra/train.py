"""Train the network on a prepared data set and keep the run in a folder."""

from dataclasses import asdict
from pathlib import Path

from common.runs.folder import open_run
from common.runtime import Strategy, configure_runtime
from vertebra.case_cache import store_cases
from vertebra.config import RUN, Config, Preset
from vertebra.data import SUBSETS, files_of, find_prepared_cases, is_phantom


def train(
    dataset: Path = Path("crop_isotropic_dataset"),
    run: Path = RUN,
    *,
    config: Config,
    preset: Preset = "port",
    seed: int = 1,
    original: Path | None = None,
    run_validation: bool = True,
    overwrite: bool = False,
    deterministic: bool = True,
    mixed_precision: bool = False,
    strategy: Strategy | None = None,
) -> None:
    """Train the network on a prepared data set and keep the run in a folder.

    The same command again continues an unfinished run, to the bit when deterministic [V31]. Then
    the statistics of the sites are taken from training patches.

    Args:
        dataset: cropped tree that `prepare` wrote.
        run: run folder; the original's --weight and --checkpoints.
        config: every number of the run.
        preset: where the numbers come from; options after it change single ones.
        seed: of weights, sampling and augmentation.
        original: .pth file to go on from; a snapshot also brings Adam's moments and step.
        run_validation: look at patches of the test cases while training.
        overwrite: discard what an earlier run left in the folder.
        deterministic: same bits at every repetition on the same machine.
        mixed_precision: bfloat16 arithmetic, float32 weights, statistics and outputs.
        strategy: several devices share every batch: "mirrored", the GPUs of this machine, or
            "multiworker", those of several processes, which TF_CONFIG or Slurm names.
    """
    from common.network.bfloat16 import refuse_wrong_gradients
    from common.network.trained import save_network
    from common.training.loop import fit
    from vertebra import batches, calibration, learning, validation

    cases = {subset: find_prepared_cases(dataset, subset) for subset in SUBSETS}
    options = {
        "dataset": dataset,
        "preset": preset,
        "original": original,
        "run_validation": run_validation,
        "deterministic": deterministic,
        "mixed_precision": mixed_precision,
        "strategy": strategy,
    }
    if mixed_precision:
        refuse_wrong_gradients(3, 2)  # `conv_rest` ends at 2 x 2 x 2
    with open_run(
        run, paper="vertebra", options=options, config=config, seed=seed, overwrite=overwrite,
        strategy=strategy,
    ) as record:  # fmt: skip
        runtime = configure_runtime(
            seed=seed, deterministic=deterministic, mixed_precision=mixed_precision,
            strategy=strategy,
        )  # fmt: skip
        learning.refuse_replicas(runtime)
        record.record(runtime=runtime, phantom=is_phantom(dataset))
        record.write_split({name: list(map(asdict, part)) for name, part in cases.items()})
        record.record_files(file for part in cases.values() for file in files_of(part))
        folder, tested = record.path / "prepared", cases["test"] if run_validation else []
        training, watched = (store_cases(part, folder, config) for part in (cases["train"], tested))

        model = learning.build_for_training(config, xla=runtime["xla"], original=original)
        fit(
            model,
            lambda first_step: batches.make_dataset(training, config, seed, first_step=first_step),
            run=record,
            max_steps=config.max_steps,
            steps_per_epoch=config.steps_per_evaluation,
            evaluate=validation.make_validation(model, watched, config, seed),
            pictures=validation.make_overlay_pictures(model, watched, config, seed),
            callbacks=[learning.FixStatistics(config)],
        )
        if not learning.is_fixed(model):
            calibration.calibrate_sites(model, learning.calibration_patches(training, config, seed))
        save_network(model, record.path / "model.keras")
    print(f"Trained network: {run / 'model.keras'}")
