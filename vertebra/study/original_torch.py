"""The original's layout in PyTorch: four shared blocks, and how the released code applies them.

Source: iterativeFCN.py and train.py of leohsuofnthu/Pytorch-IterativeFCN.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from common.cost.turns import Contender
from common.study.contenders import predict, share_weights, train_in_torch
from common.study.torch_twin import channels_first, channels_last
from vertebra.model import build_model
from vertebra.original_weights import variables_by_name
from vertebra.study.bench import config_of, draw_patch
from vertebra.study.torch_twin import make_loss, make_optimiser


class Network(nn.Module):
    """Patch and memory (batch, 2, z, y, x) to mask (batch, 1, z, y, x) and completeness (1,).

    `channels` are those of all blocks but the last.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv_initial, self.conv_rest = block(2, channels), block(channels, channels)
        self.conv_up, self.conv_final = block(2 * channels, channels), block(channels, 1)
        self.dense = nn.Linear(channels, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both outputs; a single patch at a time [V4]."""
        skips = [self.conv_rest(self.conv_initial(x))]
        for _ in range(3):
            skips.append(self.conv_rest(functional.max_pool3d(skips[-1], 2)))
        x = skips[-1]
        for skip in skips[-2::-1]:
            x = self.conv_up(torch.cat([skip, functional.interpolate(x, scale_factor=2)], 1))
        mask = torch.sigmoid(self.conv_final(x))
        x = skips[-1]
        while min(x.shape[2:]) > 2:
            x = self.conv_rest(functional.max_pool3d(x, 2))
        x = functional.max_pool3d(x, 2).flatten()[: self.dense.in_features]
        return mask, torch.sigmoid(self.dense(x))


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Return twice convolution, ReLU, normalisation [V6]."""
    layers = []
    for before, after in ((inputs, outputs), (outputs, outputs)):
        layers += [nn.Conv3d(before, after, 3, padding=1), nn.ReLU(inplace=True),
                   nn.BatchNorm3d(after)]  # fmt: skip
    return nn.Sequential(*layers)


def build(sizes, folder: Path) -> tuple[Network, torch.Tensor]:
    """Return the network with the first side's weights, which predicts in train mode, too [V1], and
    the patch."""
    model = build_model(config_of(sizes))
    share_weights(model, folder)
    network = Network(sizes["channels"])
    network.load_state_dict(state_of(model), strict=False)
    return network.train(), channels_first(draw_patch(sizes), torch.contiguous_format)


def state_of(model) -> dict[str, torch.Tensor]:
    """Return the weights of a Keras model under the original's names, in PyTorch's order."""
    state = {}
    for name, (variable, transform) in variables_by_name(model).items():
        array = np.array(variable.numpy())
        if transform is not None:
            array = array.transpose(4, 3, 0, 1, 2) if array.ndim == 5 else array.T
        state[name] = torch.from_numpy(array.copy())
    return state


def train(sizes, folder: Path) -> Contender:
    """Take the training step of train.py on one patch."""
    network, patch = build(sizes, folder)
    find_loss = make_loss(sizes)
    return train_in_torch(
        network,
        make_optimiser(network, sizes),
        lambda found: find_loss({"mask": found[0], "completeness": found[1][None]}),
        [patch],
    )


def look(sizes, folder: Path) -> Contender:
    """Find the mask of one window."""
    network, patch = build(sizes, folder)

    @torch.inference_mode()
    def run() -> np.ndarray:
        return channels_last(network(patch)[0])

    return predict(run)
