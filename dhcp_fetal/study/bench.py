"""The contests of the benchmark, and what they are about."""

from dataclasses import replace

import numpy as np

from common.cost.turns import Contest, Side
from common.suite.contests import INFERENCE, TRAINING, torch_sides
from dhcp_fetal import geometry
from dhcp_fetal.config import CODE

HERE = "dhcp_fetal.study"
STEPS = 5
TRAINED = replace(CODE, fc_dropout=())
"""Without dropout, so that losses can be compared."""
SAMPLED = replace(CODE, affine_probability=1.0)


def list_contests(shape: tuple[int, int, int]) -> list[Contest]:
    """Return the training step, the inference of a volume of a given size, and the sampling."""
    segment = " x ".join(map(str, CODE.train_segment))
    return [
        Contest(
            TRAINING,
            f"{CODE.batch_size} segments of {segment}",
            (Side("ours", f"{HERE}.sides:train"), *torch_sides(f"{HERE}.torch_twin:train"),
             Side("the engine's expressions", f"{HERE}.engine:train")),
        ),
        Contest(
            INFERENCE,
            " x ".join(map(str, shape)) + ", the region of interest a third of it",
            (Side("ours", f"{HERE}.sides:segment"), *torch_sides(f"{HERE}.torch_twin:segment"),
             Side("the engine's tiles", f"{HERE}.engine:segment")),
            {"shape": shape},
        ),
        Contest(
            "sampling",
            f"{SAMPLED.segments_per_subepoch} segments of two cases, which are turned",
            (Side("ours", f"{HERE}.sides:sample"),),
        ),
    ]  # fmt: skip


def draw_batch() -> tuple[list[np.ndarray], np.ndarray]:
    """Return the inputs (batch, x, y, z, 1) float32, one per pathway, and labels; of noise."""
    rng = np.random.default_rng(0)
    segment = CODE.train_segment
    sizes = [segment, *geometry.context_sizes(CODE, segment)]
    inputs = [rng.standard_normal((CODE.batch_size, *s, 1), dtype=np.float32) for s in sizes]
    shape = (CODE.batch_size, *geometry.output_size(CODE, segment))
    return inputs, rng.integers(0, CODE.classes, shape, dtype=np.int32)


def draw_volume(sizes) -> tuple[np.ndarray, np.ndarray]:
    """Return a normalised volume (x, y, z, 1) float32 of noise, and an ellipsoid as its mask."""
    centred = [np.linspace(-1, 1, n) ** 2 for n in sizes["shape"]]
    distance = np.sqrt(np.add.outer(np.add.outer(*centred[:2]), centred[2]))
    image = np.random.default_rng(0).standard_normal((*sizes["shape"], 1), dtype=np.float32)
    return image, (distance < 0.85).astype(np.uint8)
