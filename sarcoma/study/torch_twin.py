"""The networks and the sides of the benchmark that run on PyTorch."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from common.cost.turns import Contender
from common.study.contenders import predict, share_weights, train_in_torch
from common.study.torch_twin import (
    LAYOUTS_2D,
    Adam,
    Convolution,
    Normalisation,
    channels_first,
    channels_last,
    make_twin,
)
from sarcoma.config import CODE
from sarcoma.model import build_model, make_optimizer
from sarcoma.study.bench import PATCHES, STEPS, average_windows, draw_patches, draw_volume


class MaxoutConvolution(nn.Module):
    """Convolution, batch normalisation, and the largest of every few maps."""

    def __init__(self, layer):
        super().__init__()
        self.maps = nn.Sequential(Convolution(layer.conv), Normalisation(layer.bn))
        self.groups = (layer.nb_features, layer.output_dim)

    def forward(self, x):
        return self.maps(x).unflatten(1, self.groups).amax(1)


RULES = {"MaxoutConv2D": MaxoutConvolution}


def build(sizes, folder: Path):
    """Return the twin of the released U-Net with the first side's weights, and its layout."""
    model = build_model(CODE)
    share_weights(model, folder)
    layout = LAYOUTS_2D[sizes["layout"]]
    return make_twin(model, RULES).to(memory_format=layout), layout


def train(sizes, folder: Path) -> Contender:
    """Take the same training steps; patches in memory, each flipped at random."""
    twin, layout = build(sizes, folder)
    optimiser = Adam(twin.parameters(), make_optimizer(CODE))
    rng = np.random.default_rng(0)
    patches, labels = (torch.from_numpy(array).movedim(-1, 1) for array in draw_patches(PATCHES))

    def draw_batch():
        chosen = rng.integers(0, PATCHES, CODE.batch_size)
        flips = [[axis for axis in (1, 2) if rng.random() < 0.5] for _ in chosen]
        x, y = (
            torch.stack([torch.flip(array[n], axes) for n, axes in zip(chosen, flips, strict=True)])
            for array in (patches, labels)
        )
        return x.contiguous(memory_format=layout), y

    def take_steps() -> None:
        for _ in range(STEPS):
            x, y = draw_batch()
            training_on(x, y).work()

    def training_on(x, y) -> Contender:
        return train_in_torch(twin, optimiser, lambda found: dice_loss(found, y), [x])

    x, y = (channels_first(array, layout) for array in draw_patches(CODE.batch_size))
    return training_on(x, y)._replace(work=take_steps, units=STEPS)


def dice_loss(found, label):
    """Return minus the overlap of the whole batch; see `sarcoma.losses.dice_loss`."""
    return -(2 * (found * label).sum() + 1) / (found.sum() + label.sum() + 1)


def segment_volume(sizes, folder: Path) -> Contender:
    """Segment the volume in the same windows."""
    twin, layout = build(sizes, folder)
    image = draw_volume(sizes)

    @torch.inference_mode()
    def apply(windows: np.ndarray) -> np.ndarray:
        return channels_last(twin(channels_first(windows, layout)))

    return predict(lambda: average_windows(apply, image))
