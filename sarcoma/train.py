"""Train one of the three networks on patches of the training patients and keep the run."""

import sys
from pathlib import Path

from common.errors import OptionError
from common.runs.folder import open_run
from common.runtime import Strategy, configure_runtime
from sarcoma.config import DATA, RUN, Config, Preset
from sarcoma.data import find_patients, is_phantom, split_patients
from sarcoma.prepared import prepare_cases
from sarcoma.sampling import PatchSampler, Stack, make_pool, split_pool


def train(
    data: Path = DATA,
    run: Path = RUN,
    *,
    config: Config,
    preset: Preset = "port",
    seed: int = 1,
    prepared: Path | None = None,
    original: Path | None = None,
    max_steps: int | None = None,
    run_validation: bool = True,
    overwrite: bool = False,
    deterministic: bool | None = None,
    mixed_precision: bool = False,
    strategy: Strategy | None = None,
) -> None:
    """Train one of the three networks on patches of the training patients and keep the run.

    The same command again continues an unfinished run, to the bit when deterministic.

    Args:
        data: HDF5 file with ct_data, pet_data and label_data.
        run: run folder; the network is its model.keras.
        config: every number of the run; --architecture unet2d, cascade or dilated.
        preset: where the numbers come from; options after it change single ones.
        seed: of weights, order and flips.
        prepared: folder of prepared patients to use or fill; default: prepared/ in the run.
        original: Keras 2 file of the original to go on from, with its moments and step.
        max_steps: end after so many steps even if epochs are left.
        run_validation: look at the validation data after every epoch.
        overwrite: discard what an earlier run left in the folder.
        deterministic: same bits at every repetition on the same machine; default: yes on a CPU,
            where it costs nothing, no on a GPU, where it excludes XLA.
        mixed_precision: bfloat16 arithmetic, float32 weights and probabilities.
        strategy: several devices share every batch: "mirrored", the GPUs of this machine, or
            "multiworker", those of several processes, which TF_CONFIG or Slurm names.
    """
    from common.network.trained import save_network
    from common.training.loop import fit
    from sarcoma import batches, learning, validation

    check_options(config, run_validation=run_validation)
    split = split_patients(find_patients(data, config), config)
    options = {
        "data": data,
        "preset": preset,
        "prepared": prepared,
        "original": original,
        "max_steps": max_steps,
        "run_validation": run_validation,
        "deterministic": deterministic,
        "mixed_precision": mixed_precision,
        "strategy": strategy,
    }
    with open_run(
        run, paper="sarcoma", options=options, config=config, seed=seed, overwrite=overwrite,
        strategy=strategy,
    ) as record:  # fmt: skip
        runtime = configure_runtime(
            seed=seed, deterministic=deterministic, mixed_precision=mixed_precision,
            strategy=strategy,
        )  # fmt: skip
        record.record(runtime=runtime, phantom=is_phantom(data))
        record.record_files([data])
        record.write_split(split)
        folder = prepared or record.shared / "prepared"
        cases = prepare_cases(split["training"], folder, config)
        watched = prepare_cases(split["validation"], folder, config) if run_validation else []

        stack = Stack(cases, config, slices=config.training_slices)
        # [S8] What the released script calls by names that it never defines.
        pool = make_pool(stack, config)
        chosen, held_back = choose_patches(pool, config, run_validation=run_validation)
        record.record(patches={"training": len(chosen), "held back": len(held_back)})
        sampler = PatchSampler(stack, chosen, config, seed=seed)
        steps = config.steps_per_epoch or sampler.batches
        last_step = min(config.epochs * steps, max_steps or config.epochs * steps)
        model = learning.build_for_training(config, xla=runtime["xla"], original=original)
        fit(
            model,
            lambda first: batches.make_dataset(sampler, first_step=first, last_step=last_step),
            run=record,
            max_steps=last_step,
            steps_per_epoch=steps,
            evaluate=validation.make_validation(
                model, watched, held_back, stack, config, seed=seed
            ),
            pictures=validation.make_overlay_pictures(model, watched, config),
            callbacks=learning.make_callbacks(config),
        )
        save_network(model, record.path / "model.keras")
    print(f"Trained network: {run / 'model.keras'}")


def check_options(config: Config, *, run_validation: bool) -> None:
    """Raise `OptionError` for numbers that training could not honour."""
    for name in ("batch_size", "epochs", "windows_per_batch"):
        if getattr(config, name) < 1:
            raise OptionError(f"--{name}: found {getattr(config, name)}; expected 1 or more")
    watched = run_validation and config.validation == "patches"
    if config.early_stopping == "val_loss" and not watched:
        raise OptionError(
            "--early_stopping val_loss: there is no validation loss without "
            "--validation patches; expected loss or off"
        )


def choose_patches(pool, config: Config, *, run_validation: bool):
    """Return the patches to train on and those to look at; warn where both share patients [S2]."""
    if config.validation == "patients":
        return pool, pool[:0]
    chosen, held_back = split_pool(pool, config)
    if not run_validation:
        return chosen, held_back[:0]
    print(
        "warning: the validation patches are neighbours of training patches in the same slices; "
        "their Dice says little about a new patient (--validation patients)",
        file=sys.stderr,
    )
    return chosen, held_back
