"""Lay original and port side by side: presets, layers, activations, quirks, metrics."""

from pathlib import Path

from common.study.compare import compare_parts, require_run
from vertebra.config import Preset


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

    Always: the presets, and the layers with the original's names. With run: the test cases of the
    run searched the released way and the mended one, and with each kind of statistics. With
    original and run: the largest difference of every tensor between a .pth file and the run. With
    to, or parts: the activations of the original against the port's, as recorded and, where PyTorch
    is installed, live; what each quirk does on phantoms; and one prediction under every Dice of the
    five projects.

    Args:
        preset: whose network is listed.
        run: run folder with a trained network.
        original: .pth file of the original; the live comparison takes its weights.
        out: JSON file with the same tables.
        to: folder of a page with every part, such as report/vertebra/compare.
        parts: which of presets, layers, activations, live, effects, metrics, formulas, inference,
            weights; or all. Default: all with to, else those that need no computation.
    """
    from vertebra.study.comparison import list_parts

    if to is None and parts is None:
        require_run(run, original, what="file")
    makers = list_parts(preset, run=run, original=original)
    compare_parts("vertebra", makers, parts=parts, out=out, to=to)
