"""The contests of the benchmark, and what they are about."""

import numpy as np

from common.cost.turns import Contest, Side
from common.suite.contests import INFERENCE, TRAINING, torch_sides
from fetal_brain.config import CODE

HERE = "fetal_brain.study"


def list_contests(slices: int, plane: int) -> list[Contest]:
    """Return the training step, and the inference of a volume of a given size."""
    batch = " x ".join(map(str, CODE.patch_shape))
    return [
        Contest(
            TRAINING,
            f"{CODE.batch_size} patches of {batch}",
            (Side("ours", f"{HERE}.sides:train"), *torch_sides(f"{HERE}.torch_twin:train")),
        ),
        Contest(
            INFERENCE,
            f"{slices} x {plane} x {plane}",
            (
                Side("ours", f"{HERE}.sides:segment_volume"),
                *torch_sides(
                    f"{HERE}.torch_twin:segment_volume", name="PyTorch, MONAI", monai=True
                ),
                Side("the code's windows", f"{HERE}.sides:segment_in_codes_windows", is_same=False),
            ),
            {"shape": (slices, plane, plane)},
        ),
    ]


def draw_batch() -> tuple[np.ndarray, np.ndarray]:
    """Return patches (batch, Z, Y, X, 1) float32 and classes (batch, Z, Y, X) int32 of noise."""
    rng = np.random.default_rng(0)
    shape = (CODE.batch_size, *CODE.patch_shape)
    images = rng.standard_normal((*shape, 1), dtype=np.float32)
    return images, rng.integers(0, len(CODE.label_ids), shape, dtype=np.int32)


def draw_volume(sizes) -> np.ndarray:
    """Return a whitened volume (Z, Y, X) float32 of noise."""
    return np.random.default_rng(0).standard_normal(sizes["shape"], dtype=np.float32)
