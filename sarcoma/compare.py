"""Lay original and port side by side: presets, layers, activations, quirks, metrics."""

from dataclasses import replace
from pathlib import Path

from common.study.compare import compare_parts, require_run
from sarcoma.config import PRESETS, Architecture, Preset


def compare(
    preset: Preset = "code",
    *,
    architecture: Architecture = "unet2d",
    run: Path | None = None,
    original: Path | None = None,
    data: Path | None = None,
    out: Path | None = None,
    to: Path | None = None,
    parts: tuple[str, ...] | None = None,
) -> None:
    """Lay original and port side by side.

    Always: the presets, and the layers with the original's variable names. With run: the test
    patients segmented from patches that overlap and that do not, and within the window alone. With
    original: the variables in which a Keras 2 file and the run differ. With data: what flipping
    the image alone does to the Dice of a perfect prediction. With to, or parts: the activations of
    the original against the port's, what each quirk does on phantoms, and one prediction under
    every Dice of the five projects.

    Args:
        preset: whose network is listed.
        architecture: which of its networks.
        run: run folder with a trained network.
        original: a Keras 2 file of the original; needs run.
        data: HDF5 file with labels.
        out: JSON file with the same tables.
        to: folder of a page with every part, such as report/sarcoma/compare.
        parts: which of presets, layers, activations, effects, metrics, formulas, inference,
            weights, flips; or all. Default: all with to, else those that need no computation.
    """
    from sarcoma.study.comparison import list_parts

    require_run(run, original, what="file")
    config = replace(PRESETS[preset], architecture=architecture)
    makers = list_parts(config, run=run, original=original, data=data)
    compare_parts("sarcoma", makers, parts=parts, out=out, to=to)
