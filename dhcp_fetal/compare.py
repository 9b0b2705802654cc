"""Lay original and port side by side: presets, layers, activations, quirks, metrics."""

from pathlib import Path

from common.study.compare import compare_parts
from dhcp_fetal.cfg.fields import from_cfg
from dhcp_fetal.config import PRESETS, Preset


def compare(
    preset: Preset = "port",
    *,
    run: Path | None = None,
    original: Path | None = None,
    model_cfg: Path | None = None,
    out: Path | None = None,
    to: Path | None = None,
    parts: tuple[str, ...] | None = None,
) -> None:
    """Lay original and port side by side.

    Always: the presets, and the layers with the original's variable names. With run: how the label
    maps of the run's held-out cases change from the engine's way of inference to the port's. With
    original: the first variables in which a checkpoint and the run, or the network of a model cfg,
    differ. With to, or parts: the activations of the engine against the port's, what each quirk
    does on phantoms, and one prediction under every Dice of the five projects.

    Args:
        preset: whose network is listed.
        run: run folder with a trained network.
        original: a checkpoint of the original.
        model_cfg: the original's model cfg, whose network is listed instead (-model).
        out: JSON file with the same tables.
        to: folder of a page with every part, such as report/dhcp_fetal/compare.
        parts: which of presets, layers, activations, effects, metrics, formulas, inference,
            weights; or all. Default: all with to, else those that need no computation.
    """
    from dhcp_fetal.study.comparison import list_parts

    config = PRESETS[preset] if model_cfg is None else from_cfg(model_cfg)
    makers = list_parts(config, run=run, original=original)
    compare_parts("dhcp_fetal", makers, parts=parts, out=out, to=to)
