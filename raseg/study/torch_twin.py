"""The network and the sides of the benchmark that run on PyTorch."""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from common.cost.turns import Contender
from common.study.contenders import predict, share_weights, train_in_torch
from common.study.torch_twin import (
    LAYOUTS_3D,
    Adam,
    Apply,
    channels_first,
    channels_last,
    make_twin,
    parameter,
)
from raseg.config import PORT, TRAINING_VOLUMES
from raseg.layers import EPSILON
from raseg.model import build_for_any_size, make_optimizer
from raseg.study.bench import draw_label, draw_volume


class BatchStatistics(nn.Module):
    """Normalisation by the batch's own moments, in training and prediction."""

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias = parameter(layer.gamma), parameter(layer.beta)

    def forward(self, x):
        return functional.batch_norm(x, None, None, self.weight, self.bias, True, eps=EPSILON)


def cut_to_skip(skip, enlarged):
    """Return an enlarged tensor cut to its skip's size."""
    return enlarged[(..., *map(slice, skip.shape[2:]))]


RULES = {"BatchStatistics": BatchStatistics, "CropToSkip": lambda layer: Apply(cut_to_skip)}


def build(sizes, folder: Path):
    """Return the twin with the first side's weights, the Keras model and a volume."""
    layout = LAYOUTS_3D[sizes["layout"]]
    model = build_for_any_size(PORT)
    share_weights(model, folder)
    twin = make_twin(model, RULES).to(memory_format=layout)
    return twin, channels_first(draw_volume(sizes)[None], layout)


def train(sizes, folder: Path) -> Contender:
    """Take the same training step: Adam on the Dice, and running means of the weights."""
    twin, image = build(sizes, folder)
    label = torch.from_numpy(draw_label(sizes)[None]).float()
    optimiser = Adam(twin.parameters(), make_optimizer(PORT, TRAINING_VOLUMES))
    weights = list(twin.parameters())
    averages = [weight.detach().clone() for weight in weights]

    def average() -> None:
        step = optimiser.count
        share = 1.0 - min(PORT.ema_decay, (1.0 + step) / (10.0 + step))
        torch._foreach_lerp_(averages, [weight.detach() for weight in weights], share)

    return train_in_torch(
        twin, optimiser, lambda logits: dice_loss(logits, label), [image], before_step=average
    )


def dice_loss(logits, label):
    """Return the loss of `raseg.model.DiceLoss`: minus the overlap of each volume, averaged."""
    probability = torch.softmax(logits, 1)[:, 1]
    overlap = (label * probability).sum((1, 2, 3))
    size = label.sum((1, 2, 3)) + probability.sum((1, 2, 3))
    above, below = PORT.dice_smooth_numerator, PORT.dice_smooth_denominator
    return -((2 * overlap + above) / (size + below)).mean()


def predict_volume(sizes, folder: Path) -> Contender:
    """Predict the volume in one pass."""
    twin, image = build(sizes, folder)

    @torch.inference_mode()
    def run() -> np.ndarray:
        return channels_last(twin(image))[0]

    return predict(run)
