"""Train the network on the first cases of a list and keep the run in a folder."""

import sys
from pathlib import Path

from common.runs.folder import open_run
from common.runtime import Strategy, configure_runtime
from fetal_brain.config import RUN, SPACING_TOLERANCE, Config, Preset
from fetal_brain.data import find_cases, is_phantom, note_subjects, overlapping_ids, split_cases
from fetal_brain.prepared import prepare_cases


def train(
    train_csv: Path = Path("iFind_fetal.csv"),
    run: Path = RUN,
    *,
    config: Config,
    preset: Preset = "port",
    seed: int = 42,
    prepared: Path | None = None,
    original: Path | None = None,
    run_validation: bool = True,
    overwrite: bool = False,
    deterministic: bool | None = None,
    mixed_precision: bool = False,
    strategy: Strategy | None = None,
) -> None:
    """Train the network on the first cases of a CSV list and keep the run in a folder.

    The same command again continues an unfinished run, to the bit when deterministic.

    Args:
        train_csv: list with the columns id, image, segmentation, by position.
        run: run folder; the original's --model_path.
        config: every number of the run.
        preset: where the numbers come from; options after it change single ones.
        seed: of weights, sampling and augmentation.
        prepared: folder of prepared cases to use or fill; default: prepared/ in the run folder.
        original: checkpoint of the original to go on from, with its momentum and step.
        run_validation: look at the validation cases while training.
        overwrite: discard what an earlier run left in the folder; the original's --restart.
        deterministic: same bits at every repetition on the same machine; default: yes on a CPU,
            where it costs nothing, no on a GPU, where it excludes XLA.
        mixed_precision: bfloat16 arithmetic, float32 weights and logits; refused where
            TensorFlow's gradients are wrong.
        strategy: several devices share every batch: "mirrored", the GPUs of this machine, or
            "multiworker", those of several processes, which TF_CONFIG or Slurm names.
    """
    from common.network.trained import save_network
    from common.runs import training_grid
    from common.training.loop import fit
    from fetal_brain import batches, inference, learning, validation

    if mixed_precision:
        learning.refuse_wrong_bfloat16(config)
    split = split_cases(find_cases(train_csv), config)
    options = {"train_csv": train_csv, "preset": preset, "prepared": prepared, "original": original,
               "run_validation": run_validation, "deterministic": deterministic,
               "mixed_precision": mixed_precision, "strategy": strategy}  # fmt: skip
    with open_run(
        run, paper="fetal_brain", options=options, config=config, seed=seed, overwrite=overwrite,
        strategy=strategy,
    ) as record:  # fmt: skip
        runtime = configure_runtime(
            seed=seed, deterministic=deterministic, mixed_precision=mixed_precision,
            strategy=strategy,
        )  # fmt: skip
        record.record(runtime=runtime, phantom=is_phantom(train_csv))
        record.write_split(split)
        cases = [case for subset in split.values() for case in subset]
        files = [path for case in cases for path in (case.image_path, case.label_path)]
        record.record_files(dict.fromkeys([train_csv, *files]))
        scans = [case.image_path for case in split["training"]]
        training_grid.record_grid(record, scans, tolerance=SPACING_TOLERANCE)
        folder = prepared or record.shared / "prepared"
        training = prepare_cases(split["training"], folder, config)
        watched = prepare_cases(split["validation"], folder, config) if run_validation else []
        warn_of_overlap(split, phantom=is_phantom(train_csv))

        model = inference.build_for_any_plane(config)
        learning.compile_model(model, config, xla=runtime["xla"])
        if original is not None:
            learning.go_on_from(original, model, config)
        fit(
            model,
            lambda first_step: batches.make_dataset(training, config, seed, first_step=first_step),
            run=record,
            max_steps=config.max_steps,
            steps_per_epoch=config.steps_per_evaluation,
            evaluate=validation.make_validation(model, watched, config, seed),
            pictures=validation.make_overlay_pictures(model, watched, config),
        )
        save_network(model, record.path / "model.keras")
    print(f"Trained network: {run / 'model.keras'}")


def warn_of_overlap(split, *, phantom: bool = False) -> None:
    """Say on stderr who is trained on and tested on as well [F12], or may be."""
    if both := overlapping_ids(split):
        print(f"warning: trained on and tested on as well: {', '.join(both)}", file=sys.stderr)
    elif not phantom and (note := note_subjects(split)):
        print(f"note: {note}", file=sys.stderr)
