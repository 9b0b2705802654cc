"""The parts that the comparison of every paper has."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import keras

from common.study.compare import Table, presets_table
from common.study.dice_definitions import DicePair, formulas_table, metrics_table
from common.study.effects import TrainedBench, compare_effects


def shared_parts(
    run: Path | None,
    *,
    presets: Mapping[str, Any],
    layers: Callable[[], Table],
    activations: Callable[[], Table],
    bench: type[TrainedBench],
    load_network: Callable[[Path], tuple[keras.Model, Any]],
    read_prediction: Callable[[Path], Mapping[str, DicePair] | None],
) -> dict[str, Callable[[], Table]]:
    """Return what makes the parts that need nothing but a paper, and perhaps one of its runs.

    Args:
        run: whose network shows the effects and whose first prediction is scored, or None.
        presets: the paper's `PRESETS`.
        layers, activations: make these parts.
        bench: where the paper's switches are measured.
        load_network: gives the network of a run and its configuration.
        read_prediction: gives a run's first prediction, for `metrics_table`.
    """
    return {
        "presets": partial(presets_table, presets),
        "layers": layers,
        "activations": activations,
        "effects": partial(compare_effects, bench, load_network, code=presets["code"], run=run),
        "metrics": lambda: metrics_table(None if run is None else read_prediction(run)),
        "formulas": formulas_table,
    }
