"""The weights and patches with which the three released networks were recorded, drawn again.

`recorded.json` beside this file holds what the original computed with them under Keras 2.1.6.
"""

from dataclasses import replace

import numpy as np

from common.study.microscope import Rebuilt, draw_weights
from sarcoma.config import CODE, Architecture, Config
from sarcoma.layers import bilinear_kernel
from sarcoma.model import CLASSES, build_model
from sarcoma.original_weights import is_transposed, kind_of, ordered_variables

SEED = 1000
CONFIGS: dict[Architecture, Config] = {
    "unet2d": CODE,
    "cascade": replace(CODE, architecture="cascade"),
    # A sixteenth of the released width, which has 134 million numbers.
    "dilated": replace(CODE, architecture="dilated", dilated_filters=(4, 8, 16, 32, 32, 256)),
}
"""The networks that were recorded."""


def rebuild(architecture: Architecture) -> Rebuilt:
    """Return one of the port's networks with the recorded weights, and the recorded patches."""
    model = build_model(CONFIGS[architecture])
    variables = {f"{variable.path}:0": variable for variable in ordered_variables(model)}
    seed = SEED + 31 if architecture == "dilated" else SEED
    names = {name if architecture != "cascade" else name.removesuffix(":0"): v.shape
             for name, v in variables.items()}  # fmt: skip
    drawn = draw_weights(names, seed, draw)
    for name, variable in variables.items():
        values = drawn[name if name in drawn else name.removesuffix(":0")]
        variable.assign(as_recorded(name, values))
    return Rebuilt(model, draw_patches(architecture))


def draw(random: np.random.RandomState, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw one variable; the factor of a kernel is rounded to float32 first."""
    kind = kind_of(name)
    if kind == "kernel":
        fan_in = np.prod(shape[:-1])
        if is_transposed(name):
            fan_in = shape[0] * shape[1] * shape[3]
        return random.standard_normal(shape).astype(np.float32) * np.float32(np.sqrt(2 / fan_in))
    if kind in ("gamma", "moving_variance"):
        return random.uniform(0.5, 1.5, shape)
    return random.uniform(-0.1, 0.1, shape)


def as_recorded(name: str, values: np.ndarray) -> np.ndarray:
    """Bring the context near the identity, lest its channels die; make the enlargement bilinear."""
    if not name.startswith("ctx_") or "kernel" not in name:
        return values
    if name.startswith("ctx_upsample"):
        return np.array(bilinear_kernel(CLASSES), np.float32)
    identity, middle = np.zeros_like(values), values.shape[0] // 2
    identity[middle, middle] = np.eye(values.shape[-1])
    return identity + np.float32(0.05) * values


def draw_patches(architecture: Architecture):
    """Return the recorded input: noise, as one array, or patch and centre for the cascade."""
    count, edge, offset = {"unet2d": (4, 56, 1), "cascade": (2, 56, 3), "dilated": (2, 404, 37)}[
        architecture
    ]
    random = np.random.RandomState(SEED + offset)
    x = random.standard_normal((count, edge, edge, 1)).astype(np.float32)
    return [x, x[:, 14:42, 14:42]] if architecture == "cascade" else x
