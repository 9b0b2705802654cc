"""The original's reader, draw by draw: the oracle of `fetal_brain.sampling`.

Axis order (Z, Y, X). [F25] It augments whole volumes and permutes all voxels of a class to choose
ten of them, which is why training does not use it.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from common.errors import DataError
from fetal_brain.config import Config
from fetal_brain.sampling import add_offset, corner_of, cut, patches_per_class


def extract_balanced(
    image: np.ndarray,
    label: np.ndarray,
    *,
    example_size: Sequence[int],
    n_examples: int,
    classes: int | Sequence[int],
    class_weights: Sequence[float] | None = None,
    random: np.random.RandomState,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut class-balanced patches exactly as the original does, draw by draw.

    Returns images (n, *example_size, channels) and labels (n, *example_size), the first class
    first; a class gives as many patches as it has voxels at most [F9]. `DataError`: the volume is
    smaller than a patch [F10].

    Source: DLTK augmentation.py, extract_class_balanced_example_array.
    """
    if any(size < edge for size, edge in zip(label.shape, example_size, strict=True)):
        raise DataError(f"volume of {label.shape} voxels; expected at least {tuple(example_size)}")
    classes = range(classes) if isinstance(classes, int) else classes
    corners = [np.empty((0, label.ndim), int)]
    wanted = patches_per_class(n_examples, len(classes), class_weights)
    for class_, count in zip(classes, wanted, strict=True):
        voxels = np.argwhere(label == class_)
        if len(voxels) and count:
            chosen = random.choice(len(voxels), size=min(count, len(voxels)), replace=False)
            corners.append(corner_of(voxels[chosen], label.shape, example_size))
    corners = np.concatenate(corners)
    images = np.empty((len(corners), *example_size, *image.shape[label.ndim :]), image.dtype)
    labels = np.empty((len(corners), *example_size), label.dtype)
    for index, corner in enumerate(corners):
        images[index] = cut(image, corner, example_size)
        labels[index] = cut(label, corner, example_size)
    return images, labels


def augment_volume(
    image: np.ndarray, label: np.ndarray, *, sigma: float, random: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Add an intensity offset to a whole volume, then flip it, as the original does.

    The generator gives one normal draw per channel, then three uniform ones.

    Source: reader.py, read_fn; DLTK augmentation.py, add_gaussian_offset, flip.
    """
    image = add_offset(image, random.normal(0, sigma, [1] * label.ndim + [image.shape[-1]]))
    for axis in range(label.ndim):
        if random.random_sample() > 0.5:
            image, label = np.flip(image, axis), np.flip(label, axis)
    return image, label


def read_examples(
    cases: Sequence[tuple[np.ndarray, np.ndarray]],
    config: Config,
    *,
    random: np.random.RandomState,
    augment: bool,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the patches of one pass over the volumes exactly as the original's reader does.

    Args:
        cases: image (Z, Y, X, 1) float32 and label (Z, Y, X), as `prepare_case` returns them.
        config: uses `patch_shape`, `patches_per_volume`, `label_ids`, `offset_sigma`.
        random: legacy generator; the original's is seeded with 42.
        augment: offset and flip, one draw for all patches of a volume [F15].

    Yields:
        image (*patch_shape, 1) float32 and label (*patch_shape).

    Source: reader.py, read_fn.
    """
    for image, label in cases:
        if augment:
            image, label = augment_volume(image, label, sigma=config.offset_sigma, random=random)
        yield from zip(
            *extract_balanced(
                image,
                label,
                example_size=config.patch_shape,
                n_examples=config.patches_per_volume,
                classes=len(config.label_ids),
                random=random,
            ),
            strict=True,
        )
