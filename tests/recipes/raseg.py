"""The weights and volumes with which the original was recorded, drawn again from their seeds."""

import hashlib

import numpy as np


def make_weights(shapes, seed):
    """Weights of the network.

    Args:
        shapes: {original variable name: shape}.
        seed: of the draws.
    Returns:
        {original variable name: float32 array}.
    """
    random = np.random.RandomState(seed)
    weights = {}
    for name in sorted(shapes):
        shape, (scope, _, leaf) = tuple(shapes[name]), name.rpartition("/")
        if leaf == "weights":
            outputs = shape[3] if scope.startswith("up") else shape[4]
            scale = np.float32(np.sqrt(2 / (np.prod(shape) / outputs)))
            weights[name] = random.standard_normal(shape).astype(np.float32) * scale
        elif leaf == "gamma":
            weights[name] = random.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            weights[name] = random.uniform(-0.1, 0.1, shape).astype(np.float32)
    return weights


def make_volume(shape, seed, channels=2):
    """Intensities (rows, columns, slices, channels) and label (rows, columns, slices), uint16."""
    random = np.random.RandomState(seed)
    h, w, d = (int(size) for size in shape[:3])
    i, j, k = np.meshgrid(*(np.arange(n, dtype=np.int64) for n in (h, w, d)), indexing="ij")
    post = (7 * i + 3 * j + 11 * k) % 257 + random.randint(0, 400, (h, w, d), dtype=np.int64)
    pre = (5 * i + 9 * j + 2 * k) % 193 + random.randint(0, 300, (h, w, d), dtype=np.int64)
    image = np.stack([post, pre], axis=-1)[..., :channels].astype(np.uint16)
    inside = (
        (2 * i - h) ** 2 * w**2 * d**2
        + (2 * j - w) ** 2 * h**2 * d**2
        + (2 * k - d) ** 2 * h**2 * w**2
    )
    return image, (4 * inside <= h**2 * w**2 * d**2).astype(np.uint16)


def whiten(image):
    """The network's input: per channel zero mean, unit deviation, in float64 until the end."""
    values = image.astype(np.float64)
    axes = (0, 1, 2)
    floor = 1 / np.sqrt(values[..., 0].size)
    deviation = np.maximum(values.std(axis=axes), floor)
    return ((values - values.mean(axis=axes)) / deviation).astype(np.float32)


def sha256(*arrays):
    """Of the raw bytes of arrays, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
