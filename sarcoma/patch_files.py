"""The original's arrays of balanced patches: cut for training, predicted, measured."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from common.data.arrays import create_array, open_array
from common.data.prepared_store import PreparedCase
from common.errors import DataError
from common.files import atomic_file, write_folder_atomically
from sarcoma.config import Config
from sarcoma.sampling import Stack, make_pool, stack_examples

PREDICTED_PATCHES = "prediction.npy"
TRUE_PATCHES = "y_patches_test.npy"
"""Names of the original's arrays, kept in <run>/predictions."""
PATCH_BATCH = 32
"""Patches per batch of Keras' own `evaluate`, on which the original's number depends [S20]."""


def write_patches(cases: Sequence[PreparedCase], folder: Path, config: Config, subset: str) -> str:
    """Write the original's arrays of patches, one patch in memory at a time; say so in a line.

    <modality>_<subset>.npy (P, 56, 56, 1) float32, y_<subset>.npy (P,) and y_patches_<subset>.npy
    (P, 28, 28, 1) int32. The original gave train and test the same names [S6] and could not make
    the labels at all [S5].
    """
    config = replace(config, architecture="unet2d")
    stack = Stack(cases, config, slices=config.training_slices)
    classes, pool = stack.classes(), make_pool(stack, config)
    folder.mkdir(parents=True, exist_ok=True)
    with write_folder_atomically(folder / f".patches_{subset}", replace=True) as unfinished:
        names = fill_arrays(stack, pool, classes, unfinished, subset)
        for name in names:  # [S6] one name per subset
            (unfinished / name).replace(folder / name)
    (folder / f".patches_{subset}").rmdir()
    return f"Patches: {len(pool)} in {folder} ({', '.join(names)})"


def fill_arrays(stack, pool: np.ndarray, classes: np.ndarray, folder: Path, subset: str):
    """Write the arrays of `write_patches`; return their names."""
    count, sizes = len(pool), stack.sizes
    files = {f"{m}_{subset}.npy": ((count, sizes.input, sizes.input, 1), np.float32)
             for m in stack.config.modalities}  # fmt: skip
    files[f"y_patches_{subset}.npy"] = ((count, sizes.output, sizes.output, 1), np.int32)
    arrays = [create_array(folder / name, *kind) for name, kind in files.items()]
    for row, patch in enumerate(pool):
        image, label = stack.draw(patch)
        for channel in range(image.shape[-1]):
            arrays[channel][row] = image[..., channel, None]
        arrays[-1][row] = label
    np.save(folder / f"y_{subset}.npy", classes[pool].astype(np.int32))  # [S5]
    return [*files, f"y_{subset}.npy"]


def write_predictions(prepared, network, config: Config, out: Path) -> int:
    """Write true and predicted patches, a batch in memory at a time; return how many."""
    stack = Stack(prepared, config, slices="window")
    pool = make_pool(stack, replace(config, avid_share=0.0))
    shape = (len(pool), stack.sizes.output, stack.sizes.output, 1)
    with (
        atomic_file(out / TRUE_PATCHES) as true_file,
        atomic_file(out / PREDICTED_PATCHES) as found_file,
    ):
        for file, dtype in ((true_file, "<i4"), (found_file, "<f4")):
            header = {"descr": dtype, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, len(pool), config.windows_per_batch):
            chosen = pool[first : first + config.windows_per_batch]
            x, y = stack_examples([stack.draw(patch) for patch in chosen])
            true_file.write(y.astype("<i4").tobytes())
            found_file.write(np.asarray(network.predict_on_batch(x), "<f4").tobytes())
    return len(pool)


def measure_patch_files(folder: Path) -> dict | None:
    """Return the original's Dice of the patches in a folder, or None where there are none."""
    paths = folder / TRUE_PATCHES, folder / PREDICTED_PATCHES
    if not all(path.is_file() for path in paths):
        return None
    try:
        true, found = map(open_array, paths)
    except DataError as failure:
        raise DataError(f"{failure}; run predict again") from None
    if true.shape != found.shape:
        raise DataError(
            f"{paths[1]} has shape {found.shape}, {paths[0].name} {true.shape}; run predict again"
        )
    return {
        "patches": len(true),
        "batch": PATCH_BATCH,
        "dice": patch_dice(true, found, PATCH_BATCH),
        "dice_at_half": patch_dice(true, found > 0.5, len(true)),
    }


def patch_dice(true: np.ndarray, found: np.ndarray, batch: int) -> float:
    """Dice as Keras 2's `evaluate` reports it: per batch, then a mean weighted by samples [S20].

    Labels 0 and 1, and probabilities, are (P, rows, columns, 1). Source: evaluate.py; train.py,
    `dice_coef`.
    """
    total = 0.0
    for first in range(0, len(true), batch):
        t = np.asarray(true[first : first + batch], np.float64)
        p = np.asarray(found[first : first + batch], np.float64)
        total += len(t) * (2 * (t * p).sum() + 1) / (t.sum() + p.sum() + 1)
    return total / len(true)
