"""The weights and the batch with which the released network was recorded, drawn again.

`recorded.json` beside this file holds what the original computed with them.
"""

import numpy as np

from common.study.microscope import Rebuilt, draw_weights
from fetal_brain.config import CODE
from fetal_brain.model import build_model
from fetal_brain.original_weights import variables_by_name

NETWORK = "fetal_fcn"
SEED = 1625


def rebuild() -> Rebuilt:
    """Return the port's network with the recorded weights, and the recorded batch of two patches.

    Source: the released code's evaluation graph on TensorFlow 1.4.1.
    """
    model = build_model(CODE)
    variables = variables_by_name(model)
    weights = draw_weights({name: v.shape for name, v in variables.items()}, SEED, draw)
    for name, array in weights.items():
        variables[name].assign(array)
    return Rebuilt(model, draw_batch())


def draw(random: np.random.RandomState, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """Draw one variable; the fixed kernels of the enlargement are not drawn."""
    leaf = name.rpartition("/")[2]
    if leaf == "linear_up_kernel":
        return None
    if leaf == "kernel":
        return random.standard_normal(shape) * np.sqrt(2.0 / np.prod(shape[:-1]))
    if leaf in ("gamma", "moving_variance"):
        return random.uniform(0.5, 1.5, shape)
    return random.uniform(-0.1, 0.1, shape)


def draw_batch() -> np.ndarray:
    """Return two patches of noise with a brighter rectangle, (2, 3, 128, 128, 1) float32."""
    random = np.random.RandomState(SEED + 2)
    image = random.standard_normal((2, 3, 128, 128, 1)).astype(np.float32)
    image[:, :, 40:90, 30:100] += 1.5
    return image
