"""The contests of the benchmark, and what they are about."""

from dataclasses import replace

import numpy as np

from common.cost.turns import Contest, Side
from common.data.rng import rng_for
from common.suite.contests import INFERENCE, TRAINING, torch_sides
from vertebra.config import CODE, Config
from vertebra.phantom_spine import make_scan

HERE = "vertebra.study"
TORCH = {"packages": ("torch",), "environment": {"KERAS_BACKEND": "torch"}}


def list_contests(channels: int, patch_size: int) -> list[Contest]:
    """Return the training step, one look of the search, and the deformation of a patch."""
    sizes = {"channels": channels, "patch_size": patch_size}
    cube = f"{patch_size} x {patch_size} x {patch_size}"
    patch = f"{cube}, {channels} channels"
    deformation = (
        Side("ours", f"{HERE}.sides:deform_patch"),
        Side("the code's way", f"{HERE}.sides:deform_as_the_code", is_same=False),
    )
    return [
        Contest(TRAINING, patch, sides_of_network("train"), sizes),
        Contest(INFERENCE, f"one window of {patch}", sides_of_network("look"), sizes),
        Contest("deformation", f"four arrays of {cube}", deformation, sizes),
    ]


def sides_of_network(function: str) -> tuple[Side, ...]:
    """Return the sides that run the network by a function that each of their modules has."""
    return (
        Side("ours", f"{HERE}.sides:{function}"),
        *torch_sides(f"{HERE}.torch_twin:{function}"),
        Side("the code's layout, PyTorch", f"{HERE}.original_torch:{function}", **TORCH),
    )


def config_of(sizes) -> Config:
    """Return the released network in other sizes. Its statistics are always those of the patch
    [V1], so that all sides compute the same."""
    return replace(CODE, channels=sizes["channels"], patch_size=sizes["patch_size"])


def draw_patch(sizes) -> np.ndarray:
    """Return a patch (1, z, y, x, 2) float32 of a phantom, the upper half of it remembered."""
    image, labels = make_scan((sizes["patch_size"],) * 3, (1.0, 1.0, 1.0), rng_for(0, 0))
    middle = np.median(np.unique(labels.array))
    return np.stack([image.array, labels.array > middle], -1)[None].astype(np.float32)


def draw_target(sizes) -> dict[str, np.ndarray]:
    """Return mask and weights (1, z, y, x, 2) and completeness (1, 1), float32."""
    rng, shape = np.random.default_rng(1), (1, *(sizes["patch_size"],) * 3)
    mask = rng.integers(0, 2, shape).astype(np.float32)
    weights = 1 + 8 * rng.random(shape, dtype=np.float32)
    return {"mask": np.stack([mask, weights], -1), "completeness": np.ones((1, 1), np.float32)}
