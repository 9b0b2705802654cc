"""Patches of the draft: cut around balanced centres to train on, laid side by side to predict.

Axis order (row, column, slice). Source: commits at 128 x 128 x 16 of branch full_image; ledger R26.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from common.inference.windows_in_numpy import window_starts


def draw_centres(label: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the centres of patches: a fair coin decides whether a foreground voxel is one.

    Args:
        label: (rows, columns, slices), 0 and 1.
        count: patches.
        rng: source of the draws.
    Returns:
        (count, 3) voxel indices; where one of the classes is absent, the other has them all.
    """
    flat = label.ravel()
    foreground = np.flatnonzero(flat)
    centres = np.empty(count, np.int64)
    for index, wanted in enumerate(rng.integers(2, size=count)):
        if not foreground.size or foreground.size == flat.size:
            centres[index] = rng.integers(flat.size)
        elif wanted:
            centres[index] = rng.choice(foreground)
        else:
            # Most voxels are background: a few tries find one.
            candidates = rng.integers(flat.size, size=64)
            background = candidates[flat[candidates] == 0]
            fallback = np.flatnonzero(flat == 0) if not background.size else background
            centres[index] = fallback[0] if background.size else rng.choice(fallback)
    return np.stack(np.unravel_index(centres, label.shape), axis=-1)


def cut_patch(array: np.ndarray, centre: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Return the patch around a voxel, zero outside the volume.

    Args:
        array: (rows, columns, slices, ...).
        centre: voxel; the patch reaches shape // 2 before it.
        shape: of the patch; even sizes are what the original has.
    """
    patch = np.zeros((*shape, *array.shape[3:]), array.dtype)
    source, target = [], []
    for middle, edge, size in zip(centre, shape, array.shape, strict=False):
        start = int(middle) - edge // 2
        low, high = max(start, 0), min(start + edge, size)
        source.append(slice(low, high))
        target.append(slice(low - start, high - start))
    patch[tuple(target)] = array[tuple(source)]
    return patch


def tile(shape: Sequence[int], patch: Sequence[int]) -> Iterator[tuple[tuple, tuple]]:
    """Yield where patches lie side by side, and which part of each is kept.

    Along an axis the last patch is pushed back to end with the volume, and only its new part is
    kept: nothing is averaged. Slices vary slowest, columns fastest.

    Args:
        shape: of the volume, at least the patch.
        patch: rows, columns, slices.
    Yields:
        Slices into the volume, and into the patch, of the part that is kept; their difference is
        the patch's low corner.
    """
    axes = []
    for size, edge in zip(shape, patch, strict=True):
        done, parts = 0, []
        for start in window_starts(size, edge, edge):
            parts.append((slice(done, start + edge), slice(done - start, edge)))
            done = start + edge
        axes.append(parts)
    for depth in axes[2]:
        for row in axes[0]:
            for column in axes[1]:
                chosen = (row, column, depth)
                yield tuple(part[0] for part in chosen), tuple(part[1] for part in chosen)


def predict_tiles(
    image: np.ndarray, patch: Sequence[int], apply: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Predict a volume patch by patch.

    Args:
        image: (rows, columns, slices, channels), raw. Axes shorter than the patch are continued
            with zeros.
        patch: rows, columns, slices.
        apply: raw patch (*patch, channels) -> (*patch, classes); it normalises each on its own.
    Returns:
        (rows, columns, slices, classes) float32.
    """
    shape = image.shape[:3]
    extra = [(0, max(edge - size, 0)) for size, edge in zip(shape, patch, strict=True)]
    image = np.pad(image, [*extra, (0, 0)])
    whole = None
    for kept, inside in tile(image.shape[:3], patch):
        corner = [place.start - part.start for place, part in zip(kept, inside, strict=True)]
        window = tuple(slice(low, low + edge) for low, edge in zip(corner, patch, strict=True))
        output = apply(image[window])
        if whole is None:
            whole = np.empty((*image.shape[:3], output.shape[-1]), np.float32)
        whole[kept] = output[inside]
    return whole[: shape[0], : shape[1], : shape[2]]
