"""The weights and batches with which the original was recorded, drawn again from their seeds."""

import numpy as np

SEED = 1625
GOLDEN_BATCH = SEED + 2


def make_weights(shapes, up_kernels):
    """Weights of the network.

    Args:
        shapes: {original variable name: shape} of all 82 variables.
        up_kernels: {shape: array} of the two fixed enlargement kernels, which are not drawn.
    Returns:
        {original variable name: float32 array}.
    """
    random = np.random.RandomState(SEED)
    weights = {}
    for name in sorted(shapes):
        shape, leaf = tuple(shapes[name]), name.rpartition("/")[2]
        if leaf == "linear_up_kernel":
            weights[name] = up_kernels[shape]
        elif leaf == "kernel":
            scale = np.sqrt(2.0 / np.prod(shape[:-1]))
            weights[name] = (random.standard_normal(shape) * scale).astype(np.float32)
        elif leaf in ("gamma", "moving_variance"):
            weights[name] = random.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            weights[name] = random.uniform(-0.1, 0.1, shape).astype(np.float32)
    return weights


def make_slots(shapes):
    """Momentum slots of the recorded checkpoint.

    Args:
        shapes: {original variable name: shape} of the 47 trained variables.
    Returns:
        {original slot name: float32 array}.
    """
    random = np.random.RandomState(SEED + 1)
    return {
        f"{name}/Momentum": (random.standard_normal(tuple(shapes[name])) * 1e-3).astype(np.float32)
        for name in sorted(shapes)
    }


def make_batch(seed):
    """Two patches of noise with a brighter rectangle, (2, 3, 128, 128, 1) and labels without 1."""
    random = np.random.RandomState(seed)
    image = random.standard_normal((2, 3, 128, 128, 1)).astype(np.float32)
    label = (random.uniform(size=(2, 3, 128, 128)) < 0.3).astype(np.int32)
    image[:, :, 40:90, 30:100] += 1.5
    label[:, :, 40:90, 30:100] = 1
    return image, label


def describe(array):
    """Mean, standard deviation, minimum, maximum, fractions of zeros and of sixes, in float64."""
    array = np.asarray(array, np.float64)
    extremes = [array.mean(), array.std(), array.min(), array.max()]
    return np.array([*extremes, (array == 0).mean(), (array == 6).mean()])


def describe_variable(array):
    """Mean, standard deviation and L2 norm, in float64."""
    array = np.asarray(array, np.float64)
    return np.array([array.mean(), array.std(), np.linalg.norm(array)])


def pick(array, count):
    """`count` values spread evenly over the flattened array, as they were recorded."""
    flat = np.asarray(array).ravel()
    return flat[np.arange(count) * (flat.size - 1) // (count - 1)]


def layer_of(operation):
    """Our layer for the original's operation: `enc_unit_0/Relu6_1` -> `enc_unit_0_relu6_1`."""
    scope, _, leaf = operation.rpartition("/")
    if leaf in ("Conv3D", "MaxPool3D"):
        scope = scope.removesuffix("/max_pooling3d")
    elif leaf == "add_1":
        scope = scope.removesuffix("/batchnorm")
    else:
        scope = f"{scope}/{leaf.lower()}"
    return scope.replace("/", "_")
