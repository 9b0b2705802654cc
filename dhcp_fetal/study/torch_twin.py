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
    Apply,
    as_tensor,
    channels_first,
    channels_last,
    make_twin,
    parameter,
)
from dhcp_fetal.config import CODE, Config
from dhcp_fetal.layers import SMALLEST_NORMAL_FLOAT32
from dhcp_fetal.losses import CROSS_ENTROPY_OFFSET
from dhcp_fetal.model import build_model
from dhcp_fetal.study.bench import STEPS, TRAINED, draw_batch, draw_volume
from dhcp_fetal.study.tile_loop import predict_volume


class ChannelBias(nn.Module):
    """One number per channel, added."""

    def __init__(self, layer):
        super().__init__()
        self.bias = parameter(layer.bias)

    def forward(self, x):
        return x + self.bias[:, None, None, None]


class ChannelPReLU(nn.Module):
    """max(0, x) + a min(0, x)."""

    def __init__(self, layer):
        super().__init__()
        self.alpha = parameter(layer.alpha)

    def forward(self, x):
        return functional.prelu(x, self.alpha)


class RollingNormalisation(nn.Module):
    """Batch normalisation whose inference averages the statistics of the last training steps."""

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias = parameter(layer.gamma), parameter(layer.beta)
        self.register_buffer("means", as_tensor(layer.rolling_mean))
        self.register_buffer("variances", as_tensor(layer.rolling_variance))
        self.factor, self.row = layer.variance_factor, int(layer.row)

    def forward(self, x):
        if not self.training:
            mean, variance = self.means.mean(0), self.variances.mean(0) * self.factor
            return self.normalise(x, mean, variance)
        # With a momentum of 1 PyTorch's moving statistics are the batch's.
        mean, variance = torch.empty_like(self.weight), torch.empty_like(self.weight)
        x = self.normalise(x, mean, variance)
        count = x.numel() // x.shape[1]
        self.means[self.row] = mean
        self.variances[self.row] = variance * ((count - 1) / count)
        self.row = (self.row + 1) % len(self.means)
        return x

    def normalise(self, x, mean, variance):
        return functional.batch_norm(
            x, mean, variance, self.weight, self.bias, self.training, 1.0, SMALLEST_NORMAL_FLOAT32
        )


class UnscaledDropout(nn.Module):
    """Dropout that does not rescale in training and multiplies by 1 - rate at inference."""

    def __init__(self, layer):
        super().__init__()
        self.rate = layer.rate

    def forward(self, x):
        if self.training:
            return functional.dropout(x, self.rate) * (1 - self.rate)
        return x * (1 - self.rate)


def mirror(layer) -> nn.Module:
    """Return the module that mirrors the border, edge voxel included."""
    if max(layer.kernel) > 3:
        raise NotImplementedError(f"{layer.name}: PyTorch mirrors one voxel alone in this way")
    around = [n for edge in reversed(layer.kernel) for n in ((edge - 1) // 2, edge // 2)]
    return Apply(lambda x: functional.pad(x, around, mode="replicate"))


def add_centre(layer) -> nn.Module:
    """Return the module that adds the centre of an earlier, larger tensor to a later one."""

    def add(later, earlier):
        pairs = zip(earlier.shape[2:], later.shape[2:], strict=True)
        starts = [(whole - 1) // 2 - (size - 1) // 2 for whole, size in pairs]
        box = [slice(a, a + size) for a, size in zip(starts, later.shape[2:], strict=True)]
        centre = earlier[(slice(None), slice(later.shape[1]), *box)]
        missing = later.shape[1] - centre.shape[1]
        return later + functional.pad(centre, (0,) * 6 + (0, missing))

    return Apply(add)


def repeat_to_size(layer) -> nn.Module:
    """Return the module that repeats every voxel and crops the far end to another's size."""
    factors = tuple(map(float, layer.factor))

    def repeat(x, like):
        x = functional.interpolate(x, scale_factor=factors, mode="nearest")
        return x[(..., *map(slice, like.shape[2:]))]

    return Apply(repeat)


RULES = {
    "ChannelBias": ChannelBias,
    "ChannelPReLU": ChannelPReLU,
    "RollingBatchNormalisation": RollingNormalisation,
    "UnscaledDropout": UnscaledDropout,
    "MirrorPadding": mirror,
    "AddCentre": add_centre,
    "RepeatToSize": repeat_to_size,
}


class RMSprop(torch.optim.Optimizer):
    """The engine's RMSprop with normalised Nesterov momentum; see `dhcp_fetal.optimisers`."""

    def __init__(self, parameters, config: Config):
        super().__init__(parameters, {})
        self.config = config
        self.weights = [w for group in self.param_groups for w in group["params"]]
        self.squares = [torch.zeros_like(weight) for weight in self.weights]
        self.velocities = [torch.zeros_like(weight) for weight in self.weights]

    @torch.no_grad()
    def step(self):
        config = self.config
        gradients = [weight.grad for weight in self.weights]
        torch._foreach_mul_(self.squares, config.rms_decay)
        torch._foreach_addcmul_(self.squares, gradients, gradients, 1 - config.rms_decay)
        roots = torch._foreach_add(self.squares, config.rms_epsilon)
        torch._foreach_sqrt_(roots)
        steps = torch._foreach_div(gradients, roots)
        torch._foreach_mul_(steps, -config.learning_rate * (1 - config.momentum))
        torch._foreach_mul_(self.velocities, config.momentum)
        torch._foreach_add_(self.velocities, steps)
        torch._foreach_add_(self.weights, self.velocities, alpha=config.momentum)
        torch._foreach_add_(self.weights, steps)


def train(sizes, folder: Path) -> Contender:
    """Take the same training step: the engine's RMSprop on its cost."""
    layout = LAYOUTS_3D[sizes["layout"]]
    model = build_model(TRAINED)
    share_weights(model, folder)
    twin = make_twin(model, RULES).to(memory_format=layout)
    inputs, labels = draw_batch()
    cost = make_cost(twin, torch.from_numpy(labels).long(), TRAINED)
    tensors = [channels_first(array, layout) for array in inputs]
    return train_in_torch(twin, RMSprop(twin.parameters(), TRAINED), cost, tensors, steps=STEPS)


def make_cost(twin, labels, config: Config):
    """Return the engine's cost of probabilities (batch, classes, x, y, z), penalties included.

    Only for cross-entropy without weights of the classes.
    """
    kernels = [layer.weight for name, layer in twin.layers.items() if name.endswith("_conv")]

    def find_cost(probabilities):
        logarithms = torch.log(probabilities + CROSS_ENTROPY_OFFSET)
        cost = functional.nll_loss(logarithms, labels)
        for kernel in kernels:
            cost = cost + config.l1_weight * kernel.abs().sum()
            cost = cost + config.l2_weight * kernel.square().sum()
        return cost

    return find_cost


def segment(sizes, folder: Path) -> Contender:
    """Segment the volume tile by tile, cut and put together by the same code."""
    layout = LAYOUTS_3D[sizes["layout"]]
    model = build_model(CODE)
    share_weights(model, folder)
    twin = make_twin(model, RULES).to(memory_format=layout)
    image, mask = draw_volume(sizes)

    @torch.inference_mode()
    def apply(batch: list[np.ndarray]) -> np.ndarray:
        return channels_last(twin(*(channels_first(array, layout) for array in batch)))

    return predict(lambda: predict_volume(apply, image, CODE, mask=mask).probabilities)
