"""Lay original and port side by side: presets, layers, activations, quirks, metrics."""

from pathlib import Path

from common.study.compare import compare_parts, require_run
from fetal_brain.config import Preset


def compare(
    preset: Preset = "port",
    *,
    run: Path | None = None,
    original: Path | None = None,
    out: Path | None = None,
    to: Path | None = None,
    parts: tuple[str, ...] | None = None,
) -> None:
    """Lay original and port side by side.

    Always: the presets, and the layers with the original's variable names. With run: how the
    label maps of the run's held-out cases change from the original's way of inference to the
    port's. With original: the first variables in which a checkpoint and the run differ. With to,
    or parts: the activations of the original against the port's, what each quirk does on
    phantoms, and one prediction under every Dice of the five projects.

    Args:
        preset: whose network is listed.
        run: run folder with a trained network.
        original: a checkpoint or export of the original.
        out: JSON file with the same tables.
        to: folder of a page with every part, such as report/fetal_brain/compare.
        parts: which of presets, layers, activations, effects, metrics, formulas, inference,
            weights; or all. Default: all with to, else those that need no computation.
    """
    from fetal_brain.study.comparison import list_parts

    require_run(run, original)
    makers = list_parts(preset, run=run, original=original)
    compare_parts("fetal_brain", makers, parts=parts, out=out, to=to)
