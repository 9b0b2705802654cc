"""The weights with which the original was recorded, drawn again from their seed."""

import numpy as np


def draw_weights(model_variables, seed):
    """Weights of a network.

    Args:
        model_variables: {original name: shape of the original's variable}.
        seed: the recorded one.
    Returns:
        {original name: float32 array}, kernels [out, in, x, y, z], rolling arrays filled.
    """
    random = np.random.RandomState(seed)
    weights = {}
    for name in sorted(model_variables):
        shape = model_variables[name]
        base = name.split("/")[1].split("_")[0]
        if base == "W":
            value = random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        elif base == "aPrelu":
            value = random.uniform(0, 0.3, shape)
        elif base == "gBn":
            value = random.uniform(0.5, 1.5, shape)
        elif base == "muBnsForRollingAverage":
            centre = random.uniform(-0.1, 0.1, (1, shape[1]))
            value = centre + 0.05 * random.standard_normal(shape)
        elif base == "varBnsForRollingAverage":
            centre = random.uniform(0.5, 1.5, (1, shape[1]))
            value = centre * random.uniform(0.8, 1.2, shape)
        else:
            assert base in ("b", "bBn"), name
            value = random.uniform(-0.1, 0.1, shape)
        weights[name] = value.astype(np.float32)
    return weights


def original_shapes(named_variables):
    """{original name: shape in the original}, from `convert.name_variables`."""
    shapes = {}
    for name, variable in named_variables:
        shape = tuple(variable.shape)
        shapes[name] = (shape[4], shape[3], *shape[:3]) if len(shape) == 5 else shape
    return shapes
