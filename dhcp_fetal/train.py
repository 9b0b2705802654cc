"""Train a network, from a table of cases or from the original's configuration files."""

import sys
from pathlib import Path

from common.errors import OptionError
from common.runs.folder import open_run
from common.runtime import Strategy, configure_runtime
from dhcp_fetal.cfg.fields import resolve_config
from dhcp_fetal.config import Config, Preset
from dhcp_fetal.data import (
    describe_files,
    find_cases,
    is_phantom,
    note_subjects,
    paths_of,
    split_cases,
)
from dhcp_fetal.session import Session, read_train_session


def train(
    cases: Path | None = None,
    run: Path | None = None,
    *,
    config: Config,
    preset: Preset = "port",
    model_cfg: Path | None = None,
    train_cfg: Path | None = None,
    load: Path | None = None,
    reset_optimiser: bool = False,
    device: str | None = None,
    seed: int = 42,
    overwrite: bool = False,
    deterministic: bool | None = None,
    mixed_precision: bool = False,
    strategy: Strategy | None = None,
) -> None:
    """Train a network, from a table of cases or from the original's configuration files.

    The same command again continues an unfinished run, to the bit when deterministic.

    Args:
        cases: csv table with the columns channel_..., ground_truth, roi_mask; its last rows are
            held out.
        run: run folder; default: <folderForOutput>/<sessionName> of the training cfg.
        config: every number of the run.
        preset: where the numbers come from that no file settles; options after it change single
            ones.
        model_cfg: the original's model cfg (-model).
        train_cfg: the original's training cfg (-train); it names the cases.
        load: run folder or checkpoint of the original to begin with (-load).
        reset_optimiser: take the checkpoint's weights alone (-resetopt).
        device: cpu, cuda or cuda0, cuda1, ...; default: what there is (-dev).
        seed: of weights, sampling and augmentation.
        overwrite: discard what an earlier run left in the folder.
        deterministic: same bits at every repetition on the same machine; default: on a CPU.
        mixed_precision: bfloat16 arithmetic, float32 weights and probabilities.
        strategy: several devices share every batch: "mirrored", the GPUs of this machine, or
            "multiworker", those of several processes, which TF_CONFIG or Slurm names.
    """
    from dhcp_fetal import networks, training

    session = None if train_cfg is None else read_train_session(train_cfg)
    config = resolve_config(config, preset, model=model_cfg, train=train_cfg)
    split, options = find_split(cases, session, config), {
        "preset": preset, "cases": cases, "model_cfg": model_cfg, "train_cfg": train_cfg,
        "load": load, "reset_optimiser": reset_optimiser, "deterministic": deterministic,
        "mixed_precision": mixed_precision, "strategy": strategy,
    }  # fmt: skip
    if run is None and session is None:
        raise OptionError("--run is missing; expected the folder of the run")
    folder = run or session.output_folder / session.name
    networks.choose_device(device)
    with open_run(
        folder, paper="dhcp_fetal", options=options, config=config, seed=seed, overwrite=overwrite,
        strategy=strategy,
    ) as record:  # fmt: skip
        runtime = configure_runtime(
            seed=seed, deterministic=deterministic, mixed_precision=mixed_precision,
            strategy=strategy,
        )  # fmt: skip
        record.record(runtime=runtime)
        write_split(record, split)
        start = load or (session and session.weights)
        training.carry_out(
            record, split, session, seed=seed, start=start, reset_optimiser=reset_optimiser
        )
    print(f"Trained network: {folder / 'model.keras'}")


def find_split(cases: Path | None, session: Session | None, config: Config) -> dict:
    """Return the cases by subset: from the training cfg, or from a table."""
    if (cases is None) == (session is None):
        raise OptionError("expected either --cases, a table, or -model and -train, cfg files")
    if session is None:
        return split_cases(find_cases(cases), config)
    return {"training": session.cases, "validation": session.validation_cases, "test": ()}


def write_split(record, split: dict) -> None:
    """Write split.json and what the files hold, and warn of cases that are in two subsets."""
    everyone = [files for subset in split.values() for files in subset]
    record.record(phantom=(phantom := is_phantom(everyone)))
    record.write_split({name: list(map(describe_files, part)) for name, part in split.items()})
    record.record_files(paths_of(everyone))
    training = {files.channels for files in split["training"]}
    for name in ("validation", "test"):
        again = [files for files in split[name] if files.channels in training]
        if again:
            print(f"note: {name} cases that are trained on as well: {len(again)}", file=sys.stderr)
    if not phantom and split["test"] and (note := note_subjects(split)):
        print(f"note: {note}", file=sys.stderr)
