"""The phantoms, weights and oracles with which the original was recorded, drawn again."""

import numpy as np


def spine(shape, n, seed, z0, pitch, r=(10, 14, 16), centre=None, jitter=3):
    """Image and labels (int16) of a straight column of n bodies; 0 is the lowest."""
    random = np.random.RandomState(seed)
    labels, cores = _bodies(random, shape, n, z0, pitch, r, centre, jitter)
    _, height, width = shape
    _, y, x = np.ogrid[:1, :height, :width]
    round_body = ((y - height / 2) / (0.48 * height)) ** 2 + ((x - width / 2) / (0.48 * width)) ** 2
    image = np.broadcast_to(np.where(round_body <= 1, 1064, 24), shape).astype(np.int64)
    image[labels > 0] = 1624
    image[cores] = 1274
    image = np.clip(image + random.randint(-30, 31, shape), 0, 4095)
    return image.astype(np.int16), labels


def spine_labels(shape, n, seed, z0, pitch, r=(10, 14, 16), centre=None, jitter=3):
    """The labels of `spine` alone, in a small part of its time."""
    return _bodies(np.random.RandomState(seed), shape, n, z0, pitch, r, centre, jitter)[0]


def _bodies(random, shape, n, z0, pitch, r, centre, jitter):
    """Labels, and where the bodies' cores are; of each body only the box around it is looked at."""
    labels, cores = np.zeros(shape, np.int16), np.zeros(shape, bool)
    centre = centre or (shape[1] // 2, shape[2] // 2)
    rz, ry, rx = r
    for k in range(n):
        jy = random.randint(-jitter, jitter + 1)
        jx = random.randint(-jitter, jitter + 1)
        cz, cy, cx = z0 + pitch * k, centre[0] + jy, centre[1] + jx
        reach = ((max(rz, 4),) * 2, (ry, ry + 16), (max(rx, 3),) * 2)
        box = tuple(slice(max(c - low, 0), max(c + high + 1, 0))
                    for c, (low, high) in zip((cz, cy, cx), reach, strict=True))  # fmt: skip
        z, y, x = (axis[part] for axis, part in zip(
            (np.arange(size) for size in shape), box, strict=True))  # fmt: skip
        z, y, x = z[:, None, None], y[:, None], x
        q = ((z - cz) / rz) ** 2 + ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2
        process = (abs(z - cz) <= 4) & (abs(x - cx) <= 3) & (y >= cy + ry - 2) & (y <= cy + ry + 16)
        free = ((q <= 1) | process) & (labels[box] == 0)
        labels[box][free] = 100 * (k + 1)
        cores[box][free & (q <= 0.64)] = True
    return labels, cores


def make_weights(channels, seed):
    """State dict of the network in the original's names and layout."""
    shapes = {}
    for block, (first, filters) in {
        "conv_initial": (2, channels),
        "conv_final": (channels, 1),
        "conv_rest": (channels, channels),
        "conv_up": (2 * channels, channels),
    }.items():
        for position, inputs in ((0, first), (3, filters)):
            shapes[f"{block}.{position}.weight"] = (filters, inputs, 3, 3, 3)
            shapes[f"{block}.{position}.bias"] = (filters,)
            norm = f"{block}.{position + 2}"
            for leaf in ("weight", "bias", "running_mean", "running_var"):
                shapes[f"{norm}.{leaf}"] = (filters,)
            shapes[f"{norm}.num_batches_tracked"] = ()
    shapes |= {"dense.weight": (1, channels), "dense.bias": (1,)}
    random = np.random.RandomState(seed)
    weights = {}
    for name in sorted(shapes):
        shape, leaf = shapes[name], name.rpartition(".")[2]
        if leaf == "num_batches_tracked":
            weights[name] = np.zeros((), np.int64)
        elif leaf == "weight" and len(shape) > 1:
            scale = np.float32(np.sqrt(2.0 / np.prod(shape[1:])))
            weights[name] = random.standard_normal(shape).astype(np.float32) * scale
        elif leaf in ("weight", "running_var"):
            weights[name] = random.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            weights[name] = random.uniform(-0.1, 0.1, shape).astype(np.float32)
    return weights


def weight_map(labels):
    """Distance weights 1 + 8 exp(-d^2 / 36) of a label map, float32."""
    from scipy.ndimage import distance_transform_edt as edt

    distance = edt(labels > 0) + edt(labels == 0)
    return (1 + 8 * np.exp(-(distance**2) / 36)).astype(np.float32)


class Oracle:
    """A network that knows the labels: its image patches are label patches."""

    def __init__(self, kind, *, strict=True, threshold=1000):
        self.kind, self.strict, self.threshold = kind, strict, threshold
        self.calls = 0

    def __call__(self, image, memory):
        """Return probabilities of the patch and completeness."""
        legal = all(size % 8 == 0 and 128 <= size <= 248 for size in image.shape)
        if self.strict and not legal:
            raise RuntimeError(f"illegal patch shape {image.shape}")
        self.calls += 1
        found = np.zeros(image.shape, bool)
        for mask in self.candidates(image, memory > 0):
            found = mask
            break
        return np.where(found, 0.9, 0.1).astype(np.float32), 0.5

    def candidates(self, image, memory):
        """Yield answers in the order of preference."""
        large = []
        present = np.flatnonzero(np.bincount(image.astype(np.int64).ravel()))
        for label in present[present > 0][::-1]:
            mask = image == label
            free = mask & ~memory
            if self.kind == "voxel" and free.sum() > self.threshold:
                yield free
            if self.kind == "voxel" or mask.sum() <= self.threshold:
                continue
            if self.kind == "component" and (mask & memory).sum() < mask.sum() / 2:
                yield mask
            large.append(mask)
        if self.kind in ("blind", "flip") and large:
            second = self.kind == "flip" and self.calls % 2 == 0
            yield large[min(int(second), len(large) - 1)]
