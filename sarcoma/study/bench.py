"""The contests of the benchmark, and what they are about."""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np

from common.cost.turns import Contest, Side
from common.data.prepared_store import PreparedCase, write_prepared_case
from common.suite.contests import INFERENCE, TRAINING, torch_sides
from sarcoma.config import CODE, LABEL, PATCH

HERE = "sarcoma.study"
STEPS = 20
PATCHES = 1800
"""That the original's loop holds in memory; ours cuts them out of slices."""


def list_contests(shape: tuple[int, int, int]) -> list[Contest]:
    """Return the training step, patches included, and the inference of a volume of a given size."""
    return [
        Contest(
            TRAINING,
            f"{CODE.batch_size} patches of {PATCH} x {PATCH}",
            (
                Side("ours", f"{HERE}.sides:train"),
                *torch_sides(f"{HERE}.torch_twin:train"),
                Side("tf-keras, the code's loop", f"{HERE}.tf_keras_loop:train"),
            ),
        ),
        Contest(
            INFERENCE,
            " x ".join(map(str, shape)),
            (
                Side("ours", f"{HERE}.sides:segment_volume"),
                *torch_sides(f"{HERE}.torch_twin:segment_volume"),
                Side("tf-keras", f"{HERE}.tf_keras_loop:segment_volume"),
            ),
            {"shape": shape},
        ),
    ]


def draw_patches(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return patches (n, 56, 56, 1) and labels (n, 28, 28, 1), float32: noise, 13 % lesion."""
    rng = np.random.default_rng(0)
    patches = rng.standard_normal((count, PATCH, PATCH, 1), dtype=np.float32)
    return patches, (rng.random((count, LABEL, LABEL, 1)) < 0.13).astype(np.float32)


def draw_volume(sizes) -> np.ndarray:
    """Return a standardised volume (Z, Y, X, 1) float32 of noise."""
    return np.random.default_rng(0).standard_normal((*sizes["shape"], 1), dtype=np.float32)


def average_windows(apply: Callable[[np.ndarray], np.ndarray], image: np.ndarray) -> np.ndarray:
    """Segment a volume as `sarcoma.inference` does, with the mean of overlapping outputs.

    `apply` maps windows (Z, 56, 56, 1) of all slices to their centres (Z, 28, 28, 1).
    """
    margin, step = (PATCH - LABEL) // 2, CODE.window_stride
    around = ((0, 0), (margin, margin), (margin, margin), (0, 0))
    padded = np.pad(image, around)
    sums, counts = np.zeros(image.shape[:3], np.float32), np.zeros(image.shape[1:3], np.float32)
    rows, columns = ((*range(0, n - LABEL, step), n - LABEL) for n in image.shape[1:3])
    for row, column in product(rows, columns):
        window = padded[:, row : row + PATCH, column : column + PATCH]
        box = (slice(row, row + LABEL), slice(column, column + LABEL))
        sums[(slice(None), *box)] += apply(window)[..., 0]
        counts[box] += 1
    return sums / counts


def write_cases(folder: Path) -> list[PreparedCase]:
    """Write two prepared patients of the true size, made of noise with a square of lesion."""
    cases = []
    for name in ("A", "B"):
        label = np.zeros((40, 100, 100), np.uint8)
        label[10:25, 40:52, 40:52] = 1
        image = draw_volume({"shape": label.shape})
        arrays = {"image": image, "label": label, "window": np.array([10, 25])}
        cases.append(write_prepared_case(folder, name, arrays))
    return cases
