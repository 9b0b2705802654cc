"""The sides of the benchmark that run on TensorFlow; see `common.cost.turns`."""

from pathlib import Path

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
    return segment_with(PORT, sizes, folder)


def segment_in_codes_windows(sizes, folder: Path) -> Contender:
    """Segment a volume with the released code's smaller, half overlapping windows."""
    return segment_with(CODE, sizes, folder)


def segment_with(config: Config, sizes, folder: Path) -> Contender:
    """Return the side whose result is the probabilities (Z, Y, X, C) of a volume."""
    configure(sizes)
    model = build_for_any_plane(config)
    share_weights(model, folder)
    run, image = on_volumes(segment, model, config), draw_volume(sizes)
    return predict(lambda: run(image))
