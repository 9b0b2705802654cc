"""Masks: out of logits, to and from files, and the original's Dice of two."""

from pathlib import Path

import numpy as np

from common.errors import DataError
from raseg.data import Volumes, open_array

SMOOTH = 1e-5
"""In the denominator of the original's Dice (raseg_predict.py, `dsc`)."""


def to_mask(logits: np.ndarray) -> np.ndarray:
    """Return the most probable class, uint8; a tie, such as two zeros, is background."""
    return (logits[..., 1] > logits[..., 0]).astype(np.uint8)


def mask_path(out: Path, tag: str, number: int) -> Path:
    """Return where the mask of a volume lies."""
    return out / "preds" / tag / f"img{number}_{tag}.npy"


def read_mask(number: int, volumes: Volumes, folder: Path, tag: str) -> np.ndarray:
    """Read the mask of a volume, (rows, columns, slices) uint8, of the label's size."""
    path = mask_path(folder, tag, number)
    if not path.is_file():
        raise DataError(
            f"{path} is missing; run predict for it, or name a predicted volume with --imgn"
        )
    mask = open_array(path, rank=3, axes="rows, columns, slices")
    if mask.shape != volumes.shape:
        raise DataError(f"{path}: found shape {mask.shape}; expected {volumes.shape}, the label's")
    if not np.isin(mask, (0, 1)).all():
        raise DataError(f"{path}: found values other than 0 and 1; expected a mask")
    return mask.astype(np.uint8)


def dice_of_original(mask: np.ndarray, label: np.ndarray) -> float:
    """Dice of two masks with 1e-5 in the denominator: 0, not undefined, where both are empty.

    Source: raseg_predict.py, `dsc`, defined and never called; ledger R11.
    """
    # [R11] Summed in whole numbers.
    overlap = int(((mask > 0) & (label > 0)).sum())
    return 2 * overlap / (int((mask > 0).sum()) + int((label > 0).sum()) + SMOOTH)
