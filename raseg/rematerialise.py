"""The training pass of full-size volumes in the memory of an ordinary machine.

The network's layers are called in blocks whose inside is computed again on the way back, so that
only the blocks' outputs are kept: the same gradient for a third more work. The last block is not
wrapped, since its way back begins the moment it ends.
"""

from math import prod

import keras
import tensorflow as tf

from raseg.blocks import layers_by_name, run_block
from raseg.config import Config

LEAST_VOXELS = 2**20
"""Of a volume: the activations of this many take about 5 GB while the original's network trains."""


class Rematerialised(keras.Model):
    """The network of `build_model`, sharing its variables, with blocks that forget.

    Volumes of fewer than `least_voxels` pass through the network as it is.
    """

    def __init__(self, network: keras.Model, config: Config, least_voxels: int = LEAST_VOXELS):
        super().__init__(name="rematerialised")
        self.least_voxels = least_voxels
        self.network = network
        self.bottom = len(config.filters) - 1
        self._steps = layers_by_name(network)
        self.built = True

    def call(self, images, training=None):
        """Return logits; see `raseg.model.build_model`."""
        size = images.shape[1:-1]
        if None not in size and prod(size) < self.least_voxels:
            return self.network(images, training=training)
        skips, x = [], images
        for level in range(self.bottom + 1):
            names = [f"down{level}"] if level else []
            x = self.block([*names, f"h{level}_conv1", f"h{level}_conv2"])(x)
            skips.append(x)
        for level in reversed(range(self.bottom)):
            names = [f"h{level}_conv3", f"h{level}_conv4"]
            if level:
                x = self.block(names, enlarged_by=f"up{self.bottom - level}")(x, skips[level])
        names = [*names, "logits"]
        return run_block(self._steps, names, x, skips[0], enlarged_by=f"up{self.bottom}")

    def block(self, names: list[str], enlarged_by: str | None = None):
        """Return the function of a block that keeps nothing but its result."""

        def run(*tensors):
            return run_block(self._steps, names, *tensors, enlarged_by=enlarged_by)

        return tf.recompute_grad(run)
