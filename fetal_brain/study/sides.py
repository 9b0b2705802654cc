"""The sides of the benchmark that run on TensorFlow; see `common.cost.turns`."""

from pathlib import Path

import numpy as np

from common.cost.turns import Contender
from common.study.contenders import configure, predict, share_weights, train_in_keras
from fetal_brain.config import CODE, PORT, Config
from fetal_brain.inference import build_for_any_plane, on_volumes, segment
from fetal_brain.learning import compile_model
from fetal_brain.study.bench import draw_batch, draw_volume


def train(sizes, folder: Path) -> Contender:
    """Take the training step of `train`. Without the port's dropout losses can be compared."""
    runtime = configure(sizes)
    model = build_for_any_plane(CODE)
    compile_model(model, CODE, xla=runtime["xla"])
    share_weights(model, folder)
    return train_in_keras(model, *draw_batch())


def segment_volume(sizes, folder: Path) -> Contender:
    """Segment a volume as `predict` does."""
    configure(sizes)
    model = build_for_any_plane(PORT)
    share_weights(model, folder)
    return segment_with(model, draw_volume(sizes), PORT)


def segment_in_codes_windows(sizes, folder: Path) -> Contender:
    """Segment a volume with the released code's smaller, half overlapping windows."""
    configure(sizes)
    model = build_for_any_plane(CODE)
    share_weights(model, folder)
    return segment_with(model, draw_volume(sizes), CODE)


def segment_with(model, image: np.ndarray, config: Config) -> Contender:
    """Return the side whose result is the probabilities (Z, Y, X, C) of an image."""
    run = on_volumes(segment, model, config)
    return predict(lambda: run(image))
