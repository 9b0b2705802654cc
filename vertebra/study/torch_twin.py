"""The network and the sides of the benchmark that run on PyTorch."""

from collections.abc import Callable
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
    Convolution,
    as_tensor,
    channels_first,
    channels_last,
    make_twin,
    parameter,
)
from vertebra.layers import EPSILON, MOMENTUM
from vertebra.model import build_model, make_optimizer
from vertebra.study.bench import config_of, draw_patch, draw_target


class SiteNormalisation(nn.Module):
    """Batch normalisation with the statistics of the patch, moving ones, or those of the site.

    The statistics of the sites are not moved while training.
    """

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias = parameter(layer.gamma), parameter(layer.beta)
        self.mean = as_tensor(layer.moving_mean)
        self.variance = as_tensor(layer.moving_variance)
        sites = zip(layer.site_means, layer.site_variances, strict=True)
        self.sites = [(as_tensor(mean), as_tensor(variance)) for mean, variance in sites]
        self.statistics = layer.statistics

    def forward(self, x, site: int):
        own = self.training or self.statistics == "batch"
        mean, variance = self.mean, self.variance
        if own and not self.training:
            mean = variance = None
        elif not own and self.statistics == "per_site":
            mean, variance = self.sites[site]
        return functional.batch_norm(
            x, mean, variance, self.weight, self.bias, own, 1 - MOMENTUM, EPSILON
        )


class Block(nn.Module):
    """Twice convolution, ReLU, normalisation, with one set of weights for all sites."""

    def __init__(self, layer):
        super().__init__()
        self.conv_0, self.conv_3 = Convolution(layer.conv_0), Convolution(layer.conv_3)
        self.norm_2, self.norm_5 = SiteNormalisation(layer.norm_2), SiteNormalisation(layer.norm_5)

    def forward(self, x, site: int = 0):
        return self.norm_5(self.conv_3(self.norm_2(self.conv_0(x), site)), site)


class MaxPool(nn.MaxPool3d):
    """Halves each axis; a last odd voxel is left out."""

    def __init__(self, layer):
        super().__init__(2)


RULES = {"Block": Block, "FirstMaxPool": MaxPool}


def build(sizes, folder: Path):
    """Return the twin with the first side's weights, and the patch."""
    model = build_model(config_of(sizes))
    share_weights(model, folder)
    layout = LAYOUTS_3D[sizes["layout"]]
    twin = make_twin(model, RULES).to(memory_format=layout)
    return twin, channels_first(draw_patch(sizes), layout)


def train(sizes, folder: Path) -> Contender:
    """Take the same training step on one patch."""
    twin, patch = build(sizes, folder)
    return train_in_torch(twin, make_optimiser(twin, sizes), make_loss(sizes), [patch])


def look(sizes, folder: Path) -> Contender:
    """Find the mask of one window."""
    twin, patch = build(sizes, folder)

    @torch.inference_mode()
    def run() -> np.ndarray:
        return channels_last(twin(patch)["mask"])

    return predict(run)


def make_optimiser(network: nn.Module, sizes) -> Adam:
    """Return the Adam of `vertebra.model.make_optimizer` for a network in PyTorch."""
    return Adam(network.parameters(), make_optimizer(config_of(sizes)))


def make_loss(sizes) -> Callable[[dict[str, torch.Tensor]], torch.Tensor]:
    """Return the loss (`vertebra.losses`) of the patch that is trained on."""
    config = config_of(sizes)
    target = draw_target(sizes)
    mask, weight = (torch.from_numpy(target["mask"])[..., n] for n in (0, 1))
    complete = torch.from_numpy(target["completeness"])

    def find_loss(found):
        p = found["mask"][:, 0]
        false_positives = (weight * (1 - mask) * p).sum()
        false_negatives = (weight * (1 - p) * mask).sum()
        return (
            config.false_positive_weight * false_positives
            + false_negatives
            + config.completeness_weight
            * functional.binary_cross_entropy(found["completeness"], complete)
        )

    return find_loss
