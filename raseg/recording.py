"""The weights and the volume with which the released network was recorded, drawn again.

`recorded.json` beside this file holds what the original computed with them.
"""

import numpy as np

from common.study.microscope import Rebuilt, draw_weights
from raseg.config import CODE
from raseg.data import normalise
from raseg.model import build_model
from raseg.original_weights import assign_original, variables_by_name

NETWORK = "raseg"
SEED = 20260
SHAPE = (32, 32, 20)
"""Rows, columns, slices: the slices are halved as at full size, 20-10-5-3-2."""


def rebuild() -> Rebuilt:
    """Return the port's network at full width with the recorded weights, and the volume.

    Source: the released code on TensorFlow 0.12.1.
    """
    model = build_model(CODE, (*SHAPE, 2))
    shapes = {name: variable.shape for name, variable in variables_by_name(model).items()}
    assign_original(model, draw_weights(shapes, SEED, draw))
    return Rebuilt(model, normalise(draw_volume(SEED + 1))[None])


def draw(random: np.random.RandomState, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw one variable; the factor is rounded to float32 first, as it was recorded."""
    scope, _, leaf = name.rpartition("/")
    if leaf != "weights":
        return random.uniform(-0.1, 0.1, shape)
    outputs = shape[3] if scope.startswith("up") else shape[4]
    factor = np.float32(np.sqrt(2 / (np.prod(shape) / outputs)))
    return random.standard_normal(shape).astype(np.float32) * factor


def draw_volume(seed: int) -> np.ndarray:
    """Return intensities after and before contrast, (32, 32, 20, 2) int64."""
    random = np.random.RandomState(seed)
    i, j, k = np.meshgrid(*(np.arange(n, dtype=np.int64) for n in SHAPE), indexing="ij")
    post = (7 * i + 3 * j + 11 * k) % 257 + random.randint(0, 400, SHAPE, dtype=np.int64)
    pre = (5 * i + 9 * j + 2 * k) % 193 + random.randint(0, 300, SHAPE, dtype=np.int64)
    return np.stack([post, pre], axis=-1)
