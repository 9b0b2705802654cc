"""The network in the expressions that the engine writes, and the engine's way of inference.

Values and gradients are those of `layers.py`; the number of passes over the data is not.
"""

from pathlib import Path

import keras
from keras import ops

from common.cost.turns import Contender
from common.study.contenders import configure, predict, share_weights, train_in_keras
from dhcp_fetal import layers
from dhcp_fetal.config import CODE
from dhcp_fetal.model import build_model
from dhcp_fetal.study.bench import STEPS, TRAINED, draw_batch, draw_volume
from dhcp_fetal.study.tile_loop import make_apply, predict_volume
from dhcp_fetal.workload import compile_network


class EngineNormalisation(layers.RollingBatchNormalisation):
    """Batch normalisation whose gradient is derived step by step."""

    def call(self, x, training=False):
        if not training:
            return super().call(x, training=False)
        mean, variance = layers.batch_moments(x)
        self._remember(mean, variance)
        scale = self.gamma / ops.sqrt(variance + layers.SMALLEST_NORMAL_FLOAT32)
        return (x - mean) * scale + self.beta


class EnginePReLU(layers.ChannelPReLU):
    """max(0, x) + a (x - |x|) / 2."""

    def call(self, x):
        return ops.maximum(0.0, x) + self.alpha * (x - ops.abs(x)) * 0.5


class EngineCentre(layers.AddCentre):
    """The centre by strided slices."""

    def call(self, inputs):
        later, earlier = inputs
        size, whole = ops.shape(later), ops.shape(earlier)
        start = [(whole[axis] - 1) // 2 - (size[axis] - 1) // 2 for axis in (1, 2, 3)]
        window = [slice(first, first + size[axis]) for axis, first in enumerate(start, start=1)]
        centre = earlier[(slice(None), *window, slice(later.shape[-1]))]
        missing = max(later.shape[-1] - earlier.shape[-1], 0)
        return later + ops.pad(centre, [(0, 0)] * 4 + [(0, missing)])


TWINS = {
    layers.RollingBatchNormalisation: EngineNormalisation,
    layers.ChannelPReLU: EnginePReLU,
    layers.AddCentre: EngineCentre,
}


def in_the_engines_expressions(model: keras.Model) -> keras.Model:
    """Return the same network with the same weights, written as the engine writes it."""

    def twin(layer):
        return TWINS.get(type(layer), type(layer)).from_config(layer.get_config())

    written = keras.models.clone_model(model, clone_function=twin)
    written.set_weights(model.get_weights())
    return written


def train(sizes, folder: Path) -> Contender:
    """Take the training step in the engine's expressions."""
    runtime = configure(sizes)
    model = build_model(TRAINED)
    share_weights(model, folder)
    model = in_the_engines_expressions(model)
    compile_network(model, TRAINED, xla=runtime["xla"])
    return train_in_keras(model, *draw_batch(), steps=STEPS)


def segment(sizes, folder: Path) -> Contender:
    """Compute every tile that has a voxel of the mask in its output, whole.

    The engine also computes the tiles that have one in their input alone, and drops the outcome.
    """
    configure(sizes)
    model = build_model(CODE)
    share_weights(model, folder)
    apply = make_apply(in_the_engines_expressions(model))
    image, mask = draw_volume(sizes)
    return predict(lambda: predict_volume(apply, image, CODE, mask=mask).probabilities)
