"""Which networks a prediction runs, and which files it writes: all before anything is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.cohort.work import Item
from common.data.names import check_outputs
from common.errors import OptionError
from common.inference.extras import NONE, Extras, axes_of, check_alike
from common.runs.folder import load_config
from dhcp_fetal.cfg.fields import resolve_config
from dhcp_fetal.config import ALIKE, AXES, INFERENCE_FIELDS, PRESETS, Config, Preset
from dhcp_fetal.data import name_of, paths_of
from dhcp_fetal.outputs import result_paths
from dhcp_fetal.session import CaseFiles, Saved


@dataclass(frozen=True)
class Plan:
    """A network to run."""

    what: str
    """What it looks for: brain, cortex, or labels for a network on its own."""
    config: Config
    source: Path
    """Run folder, or checkpoint of the original."""
    of_run: bool
    resample: bool = False
    others: tuple[tuple[Path, Config], ...] = ()
    """Further runs of an ensemble."""
    extras: Extras = NONE

    @property
    def files(self) -> list[Path]:
        """What the weights are read from."""
        first = self.source / "model.keras" if self.of_run else self.source
        return [first, *(run / "model.keras" for run, _ in self.others)]


def plan_stages(
    *, run, brain, cortex, model_cfg, test_cfg, load, preset, normalisation, resample,
    extras: Extras = NONE,
) -> list[Plan]:  # fmt: skip
    """Return the networks to run, in order, or refuse options that name none or too many."""
    axes_of(extras, AXES)
    if extras.ensemble and run is None:
        raise OptionError("--ensemble: expected an ensemble of --run, one network after the other")
    folders = {"brain": brain, "cortex": cortex, "labels": run}
    named = {what: folder for what, folder in folders.items() if folder is not None}
    if model_cfg is not None:
        if named:
            raise OptionError("-model names a network of its own; expected no run folder beside it")
        if load is None:  # the original asks whether to go on with random weights
            raise OptionError("-load is missing; expected the checkpoint of the network")
        preset = preset or "code"
        config = resolve_config(PRESETS[preset], preset, model=model_cfg, test=test_cfg)
        config = _adapted(config, None, normalisation)
        return [Plan("labels", config, Path(load), of_run=False, extras=extras)]
    if not named or (run is not None and len(named) > 1):
        raise OptionError("expected --run, or --brain and --cortex or one of them, or -model")

    def config_of(folder: Path) -> Config:
        return _adapted(load_config(folder, Config), preset, normalisation)

    plans = [
        Plan(what, config_of(folder), Path(folder), of_run=True, resample=resample, extras=extras)
        for what, folder in named.items()
    ]
    others = tuple((Path(each), config_of(Path(each))) for each in extras.ensemble)
    check_alike(plans[0].config, others, ALIKE)
    return [replace(plan, others=others) for plan in plans]


def _adapted(config: Config, preset: Preset | None, normalisation: str | None) -> Config:
    """Return a configuration with another way of inference or of normalising."""
    if preset is not None:
        taken = {name: getattr(PRESETS[preset], name) for name in INFERENCE_FIELDS}
        config = replace(config, **taken)
    return config if normalisation is None else replace(config, normalisation=normalisation)


def list_items(
    scans: Sequence[CaseFiles], stages: Sequence[Plan], folder: Path, *, saved
) -> list[Item]:
    """Return the scans with the files that will be written of each.

    Raises:
        OptionError: a result would take the place of a file that is read or of another.
    """
    items = []
    for files in scans:
        name = name_of(files)
        written = []
        for number, stage in enumerate(stages):
            made = stage_name(name, stages, number, saved)
            written += result_paths(folder, made, stage.config, saved=saved)
            written += [entropy_path(folder, made)] if stage.extras.entropy else []
        items.append(Item(name, files, tuple(written)))
    outputs = [(item.name, item.outputs) for item in items]
    check_outputs(outputs, paths_of(scans), option=f"--out {folder}")
    return items


def entropy_path(out: Path, name: str) -> Path:
    """Return the file of the doubt between the classes."""
    return out / f"{name}_entropy.nii.gz"


def stage_name(name: str, stages: Sequence, number: int, saved: Saved | None) -> str:
    """Return what the results of a stage are called: as the case, but for those before the last.

    The names of a test cfg are those of one network's results: of two, both say what they hold.
    """
    own_name = number == len(stages) - 1 and (len(stages) == 1 or not (saved and saved.from_cfg))
    return name if own_name else f"{name}_{stages[number].what}"
