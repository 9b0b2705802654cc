"""The sides of the benchmark that run on TensorFlow; see `common.cost.turns`."""

from pathlib import Path

from common.cost.turns import Contender
from common.study.contenders import configure, predict, share_weights, train_in_keras
from raseg.config import PORT, TRAINING_VOLUMES
from raseg.inference import on_volumes, segment
from raseg.learning import build_for_training
from raseg.model import build_for_any_size
from raseg.study.bench import draw_label, draw_volume


def train(sizes, folder: Path) -> Contender:
    """Take the training step of `train`."""
    return train_with(sizes, folder)


def train_rematerialised(sizes, folder: Path) -> Contender:
    """Compute activations again in the backward pass, as `train` does for large volumes."""
    return train_with(sizes, folder, rematerialised=True)


def train_with(sizes, folder: Path, *, rematerialised: bool = False) -> Contender:
    """Return the training on one volume, running means of the weights included."""
    runtime = configure(sizes)
    network, model, averages = build_for_training(PORT, TRAINING_VOLUMES, xla=runtime["xla"])
    model.least_voxels = 0 if rematerialised else model.least_voxels
    averages.set_model(model)
    share_weights(network, folder)
    return train_in_keras(
        model,
        draw_volume(sizes)[None],
        draw_label(sizes)[None],
        before_step=lambda: averages.on_train_batch_begin(0),
    )


def predict_volume(sizes, folder: Path) -> Contender:
    """Predict as `predict` does: large volumes in slabs."""
    return predict_with(sizes, folder)


def predict_in_whole_layers(sizes, folder: Path) -> Contender:
    """Hold whole layers, as the original's graph does."""
    return predict_with(sizes, folder, streamed_voxels=None)


def predict_with(sizes, folder: Path, **options) -> Contender:
    """Return the side whose result is the logits of a volume; options as for `segment`."""
    configure(sizes)
    network = build_for_any_size(PORT)
    share_weights(network, folder)
    run, image = on_volumes(segment, network, PORT, **options), draw_volume(sizes)
    return predict(lambda: run(image))
