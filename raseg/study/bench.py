"""The contests of the benchmark, and what they are about."""

import numpy as np

from common.cost.turns import Contest, Side
from common.suite.contests import INFERENCE, TRAINING, torch_sides
from raseg.config import CHANNELS, PORT

HERE = "raseg.study"


def list_contests(shape: tuple[int, int, int], step_shape: tuple[int, int, int]) -> list[Contest]:
    """Return the training step and the prediction of volumes of given sizes."""
    return [
        Contest(
            TRAINING,
            " x ".join(map(str, step_shape)),
            (
                Side("ours", f"{HERE}.sides:train"),
                *torch_sides(f"{HERE}.torch_twin:train"),
                Side("activations computed again", f"{HERE}.sides:train_rematerialised"),
            ),
            {"shape": step_shape},
        ),
        Contest(
            INFERENCE,
            " x ".join(map(str, shape)),
            (
                Side("ours", f"{HERE}.sides:predict_volume"),
                *torch_sides(f"{HERE}.torch_twin:predict_volume"),
                Side("whole layers kept", f"{HERE}.sides:predict_in_whole_layers"),
            ),
            {"shape": shape},
        ),
    ]


def draw_volume(sizes) -> np.ndarray:
    """Return a normalised volume (rows, columns, slices, channels) float32 of noise."""
    shape = (*sizes["shape"], len(CHANNELS[PORT.task]))
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def draw_label(sizes) -> np.ndarray:
    """Return a label (rows, columns, slices) int32 of noise."""
    return np.random.default_rng(1).integers(0, 2, sizes["shape"], dtype=np.int32)
