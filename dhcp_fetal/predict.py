"""Segment scans and write the results in their own geometry."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dhcp_fetal.config import Config, Preset

if TYPE_CHECKING:
    from dhcp_fetal.chain import Stage
    from dhcp_fetal.session import CaseFiles, Session


def predict(
    run: Path | None = None,
    *,
    brain: Path | None = None,
    cortex: Path | None = None,
    image: Path | None = None,
    cases: Path | None = None,
    mask: Path | None = None,
    model_cfg: Path | None = None,
    test_cfg: Path | None = None,
    load: Path | None = None,
    device: str | None = None,
    out: Path | None = None,
    probabilities: bool = False,
    normalisation: Literal["none", "volume", "brain"] | None = None,
    preset: Preset | None = None,
    mixed_precision: bool = False,
) -> None:
    """Segment scans: the brain, the cortex within it, or one network alone.

    With brain and cortex both are run one after the other: the brain that the first finds is the
    region of interest of the second. Without image, cases and test cfg: the held-out cases of the
    run. A scan in which no brain is found gets empty maps; the others are segmented, and the exit
    status is 2 at the end.

    Args:
        run: run folder of a single network.
        brain: run folder of the network that finds the brain.
        cortex: run folder of the network that works within it.
        image: one scan.
        cases: folder of scans, list file of scans, or table with channel_..., roi_mask.
        mask: region of interest of the one scan.
        model_cfg: the original's model cfg, with load (-model).
        test_cfg: the original's test cfg; its lists name scans, regions and results (-test).
        load: the original's checkpoint (-load).
        device: cpu, cuda or cuda0, cuda1, ...; default: what there is (-dev).
        out: folder of the results; default: predictions/ of the run, or where the original puts
            them.
        probabilities: write a map per class beside the label maps.
        normalisation: of the scans, instead of the network's own.
        preset: whose way of inference to use; default: the network's own.
        mixed_precision: bfloat16 arithmetic.
    """
    from common.runtime import configure_runtime
    from dhcp_fetal.networks import choose_device

    session = read_session(test_cfg)
    choose_device(device)
    configure_runtime(seed=0, mixed_precision=mixed_precision)
    stages = load_stages(
        run=run, brain=brain, cortex=cortex, model_cfg=model_cfg, test_cfg=test_cfg,
        load=load or (session and session.weights), preset=preset, normalisation=normalisation,
    )  # fmt: skip
    home = cortex or run or brain
    chosen = choose_cases(image=image, cases=cases, mask=mask, session=session, home=home)
    folder = choose_out(out, session=session, home=home, scans=chosen)
    saved = choose_saved(session, probabilities)
    refuse_to_replace_inputs(chosen, stages, folder, saved=saved)
    folder.mkdir(parents=True, exist_ok=True)
    segment_all(chosen, stages, folder, saved=saved)


def segment_all(scans: "Sequence[CaseFiles]", stages: "list[Stage]", folder: Path, *, saved):
    """Segment scans one after the other; go on where one fails, and name those at the end.

    Raises:
        DataError: some scans have no usable result.
    """
    from common.cost.first_step import after_first
    from common.errors import DataError
    from dhcp_fetal.chain import segment_case
    from dhcp_fetal.data import name_of

    failures = []
    for files in after_first(scans, "scan"):
        try:
            print(segment_case(files, stages, folder, saved=saved, progress=show_tiles(files)))
        except DataError as failure:
            failures.append(name_of(files))
            print(f"{name_of(files)}: {failure}", file=sys.stderr)
    if failures:  # [G17] A run that is not whole ends with a status that says so.
        raise DataError(
            f"{len(failures)} of {len(scans)} scans have no usable result: {', '.join(failures)}"
        )


def read_session(test_cfg: Path | None) -> "Session | None":
    """Return what a test cfg says of files, or None without one."""
    from dhcp_fetal.session import read_test_session

    return None if test_cfg is None else read_test_session(test_cfg)


def load_stages(
    *, run, brain, cortex, model_cfg, test_cfg, load, preset, normalisation
) -> "list[Stage]":
    """Return the networks to run, in order.

    Raises:
        OptionError: no network is named, or a single one beside the two of the chain.
    """
    from common.errors import OptionError
    from dhcp_fetal.chain import Stage
    from dhcp_fetal.inference import PieceNetwork
    from dhcp_fetal.networks import load_run_network

    folders = [("brain", brain), ("cortex", cortex), ("labels", run)]
    named = [(what, folder) for what, folder in folders if folder is not None]
    if model_cfg is not None:
        if named:
            raise OptionError("-model names a network of its own; expected no run folder beside it")
        network, config = load_original(model_cfg, test_cfg, load, preset)
        config = _adapted(config, None, normalisation)
        return [Stage("labels", PieceNetwork(network, config), config, network)]
    if not named or (run is not None and len(named) > 1):
        raise OptionError("expected --run, or --brain and --cortex or one of them, or -model")
    stages = []
    for what, folder in named:
        network, config = load_run_network(folder)
        config = _adapted(config, preset, normalisation)
        stages.append(Stage(what, PieceNetwork(network, config), config, network))
    return stages


def load_original(model_cfg: Path, test_cfg: Path | None, load: Path | None, preset: Preset | None):
    """Build the network of the original's files and give it a checkpoint.

    Raises:
        OptionError: no checkpoint is named. The original asks whether to go on with random weights.
    """
    from common.errors import OptionError
    from dhcp_fetal.cfg.fields import resolve_config
    from dhcp_fetal.config import PRESETS
    from dhcp_fetal.model import build_model
    from dhcp_fetal.networks import load_weights

    preset = preset or "code"
    if load is None:
        raise OptionError("-load is missing; expected the checkpoint of the network")
    config = resolve_config(PRESETS[preset], preset, model=model_cfg, test=test_cfg)
    network = build_model(config)
    load_weights(network, load)
    return network, config


def _adapted(config: Config, preset: Preset | None, normalisation: str | None) -> Config:
    """Return a configuration with another way of inference or of normalising."""
    from dhcp_fetal.config import INFERENCE_FIELDS, PRESETS

    if preset is not None:
        taken = {name: getattr(PRESETS[preset], name) for name in INFERENCE_FIELDS}
        config = replace(config, **taken)
    return config if normalisation is None else replace(config, normalisation=normalisation)


def choose_cases(*, image, cases, mask, session, home) -> "tuple[CaseFiles, ...]":
    """Return the scans that the options name.

    Raises:
        OptionError: several kinds of them are given, or none and the run has no held-out cases.
        DataError: see `data.find_cases`.
    """
    from common.errors import OptionError
    from common.runs.folder import load_run
    from dhcp_fetal.data import check_names, files_from, find_cases
    from dhcp_fetal.session import CaseFiles

    given = [name for name, value in (("--image", image), ("--cases", cases), ("-test", session))
             if value is not None]  # fmt: skip
    if len(given) > 1:
        raise OptionError(f"{' and '.join(given)} were given; expected one of them")
    if mask is not None and image is None:
        raise OptionError("--mask belongs to --image; a table has a column roi_mask")
    if image is not None:
        return (CaseFiles((Path(image).absolute(),), mask=mask),)
    if cases is not None:
        return find_cases(cases)
    if session is not None:
        return check_names(session.cases, "the lists of -test")
    if home is None:
        raise OptionError("expected --image, --cases or -test: scans to segment")
    held_out = tuple(map(files_from, load_run(home).read_split()["test"]))
    if not held_out:
        raise OptionError(f"{home} has no held-out cases; expected --image or --cases")
    return held_out


def choose_out(out, *, session, home, scans) -> Path:
    """Return the folder of the results: as asked, as the original's, or in the run."""
    if out is not None:
        return out
    if session is not None:
        return session.output_folder / "predictions" / session.name / "predictions"
    return home / "predictions" if home is not None else Path("predictions")


def choose_saved(session, probabilities: bool):
    """Return which results are written under the original's names, or None for ours."""
    from dhcp_fetal.session import Saved

    if session is not None:
        return session.saved
    return Saved(label_suffix="", probability_suffix="probability") if probabilities else None


def refuse_to_replace_inputs(
    scans: "Sequence[CaseFiles]", stages: "Sequence[Stage]", folder: Path, *, saved
) -> None:
    """Raise `OptionError` if a result would take the place of a file that is read or of another."""
    from common.data.names import check_outputs
    from dhcp_fetal.chain import paths_of_results
    from dhcp_fetal.data import name_of, paths_of

    outputs = [
        (name_of(files), paths_of_results(name_of(files), stages, folder, saved=saved))
        for files in scans
    ]
    check_outputs(outputs, paths_of(scans), option=f"--out {folder}")


def show_tiles(files: "CaseFiles"):
    """Return the function that shows tiles done on a terminal; None where there is none."""
    from dhcp_fetal.data import name_of

    if not sys.stderr.isatty():
        return None
    return lambda done, total: print(
        f"\r{name_of(files)}: {done} of {total} tiles", end="\n" if done == total else "",
        file=sys.stderr, flush=True,
    )  # fmt: skip
