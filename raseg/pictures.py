"""The original's pictures of every slice: a grey scan with the mask tinted over it."""

from pathlib import Path

import numpy as np
from PIL import Image

ALPHA = 0.2
"""Weight of the mask's colours (raseg_predict.py)."""
BACKGROUND, MASK = (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)
"""The ends of the colour map brg (raseg_predict.py)."""
BONE = {
    0.0: (0.0, 0.0, 0.0),
    0.365079: (0.319444, 0.319444, 0.444444),
    0.746032: (0.652778, 0.777778, 0.777778),
    1.0: (1.0, 1.0, 1.0),
}
"""The colour map bone (raseg_predict.py): red, green and blue of a grey, linear between these."""


def write_slices(
    folder: Path, scan: np.ndarray, masks: dict[str, np.ndarray], *, prefix: str, tag: str
) -> int:
    """Write a PNG per slice and mask, <prefix>d<slice>_<tag>_<name>.png; return how many.

    Source: raseg_predict.py (colour map bone, over it brg); ledger R15.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tints, greys = np.array([BACKGROUND, MASK]), bone()
    for number in range(scan.shape[2]):
        # [R15] Nothing is drawn into a figure that keeps its layers: colours are looked up.
        grey = greys[to_levels(scan[..., number])]
        for name, mask in masks.items():
            picture = (1 - ALPHA) * grey + ALPHA * tints[mask[..., number].astype(np.intp)]
            path = folder / f"{prefix}d{number}_{tag}_{name}.png"
            pixels = np.round(picture * 255).astype(np.uint8)
            Image.fromarray(pixels).save(path, compress_level=1)
    return scan.shape[2] * len(masks)


def bone() -> np.ndarray:
    """Return the 256 colours of the map bone, (256, 3) from 0 to 1."""
    levels = np.linspace(0, 1, 256)
    channels = zip(*BONE.values(), strict=True)
    return np.stack([np.interp(levels, list(BONE), channel) for channel in channels], axis=-1)


def to_levels(image: np.ndarray) -> np.ndarray:
    """Return 0..255 between the image's smallest and largest value."""
    low, high = float(image.min()), float(image.max())
    scaled = (image.astype(np.float64) - low) / max(high - low, 1e-12)
    return np.minimum(scaled * 256, 255).astype(np.intp)
