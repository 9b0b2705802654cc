"""The weights and the patch with which the original's network was recorded, drawn again.

`recorded.json` beside this file holds what the original computed with them.
"""

from dataclasses import replace

import keras
import numpy as np

from common.study.microscope import Rebuilt, draw_weights
from vertebra.config import CODE, Config
from vertebra.model import build_model, connect
from vertebra.original_weights import assign_original, variables_by_name

NETWORK = "iterative_fcn"
SEED = 1021
CONFIG = replace(CODE, channels=4)
"""The width that the original's training script builds; statistics of the patch."""


def rebuild() -> Rebuilt:
    """Return the network of a recorded stage."""
    random = np.random.RandomState(SEED + 1)
    patch = random.standard_normal((1, 2, 128, 128, 128)).astype(np.float32)
    return network_with(draw_state(CONFIG), CONFIG, np.moveaxis(patch, 1, -1))


def network_with(weights: dict[str, np.ndarray], config: Config, patch: np.ndarray) -> Rebuilt:
    """Return the port's network with weights of the original, every block application named."""
    inputs = keras.Input(patch.shape[1:])
    tensors = connect(inputs, config)
    model = keras.Model(inputs, {name: tensors[name] for name in ("mask", "completeness")})
    assign_original(model, weights)
    return Rebuilt(model, patch, tensors)


def draw_state(config: Config, seed: int = SEED) -> dict[str, np.ndarray]:
    """Draw the original's state dict for a width; kernels are (out, in, z, y, x)."""
    return draw_weights(original_shapes(config), seed, draw)


def original_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the original's tensors for a width, by name."""
    shapes = {}
    for name, (variable, transform) in variables_by_name(build_model(config)).items():
        shape = tuple(variable.shape)
        if len(shape) == 5:
            shape = (shape[4], shape[3], *shape[:3])
        shapes[name] = shape[::-1] if transform is not None and len(shape) == 2 else shape
    return shapes


def draw(random: np.random.RandomState, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw one tensor; the factor of a kernel is rounded to float32 first."""
    leaf = name.rpartition(".")[2]
    if leaf == "weight" and len(shape) > 1:
        factor = np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
        return random.standard_normal(shape).astype(np.float32) * factor
    if leaf in ("weight", "running_var"):
        return random.uniform(0.5, 1.5, shape)
    return random.uniform(-0.1, 0.1, shape)
