"""The recipe of the recorded weights, and what of an activation was recorded."""

import numpy as np

SEED = 1000


def fill(shapes, seed):
    """Arrays by name, drawn in the order of the sorted names; returned in the order given.

    Args:
        shapes: {name: shape}, the last part of a name being kernel, bias, gamma, ...
        seed: of the draws.
    """
    drawn = dict(draw_each(shapes, seed))
    return {name: drawn[name] for name in shapes}


def draw_each(shapes, seed):
    """Name and array of one after the other, for networks too large to hold twice."""
    random = np.random.RandomState(seed)
    for name in sorted(shapes):
        yield name, draw(random, name, shapes[name])


def draw(random, name, shape):
    kind = name.rpartition("/")[2].partition(":")[0]
    if kind == "kernel":
        fan_in = np.prod(shape[:-1])
        if "conv2d_transpose" in name:
            fan_in = shape[0] * shape[1] * shape[3]
        values = draw_normal(random, shape)
        values *= np.float32(np.sqrt(2 / fan_in))
        return values
    if kind in ("gamma", "moving_variance"):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    return random.uniform(-0.1, 0.1, shape).astype(np.float32)


def draw_normal(random, shape, part=2**20):
    """The float32 of `random.standard_normal(shape)`, which takes twice the memory, in parts."""
    values = np.empty(shape, np.float32)
    flat = values.reshape(-1)
    for begin in range(0, flat.size, part):
        few = flat[begin : begin + part]
        few[:] = random.standard_normal(few.size)
    return values


def keras2_names(model):
    """{name as Keras 2 gives it: shape} of a model whose layers have no sublayers."""
    return {f"{v.path}:0": tuple(v.shape) for layer in model.layers for v in layer.weights}


def assign(model, tensors):
    """Give a model arrays named `<path>:0`, or with other endings as its variables' paths."""
    for layer in model.layers:
        for variable in layer.weights:
            name = variable.path if variable.path in tensors else f"{variable.path}:0"
            variable.assign(tensors[name])


def moments(value):
    """Mean and population deviation per channel, float64, over batch and space."""
    flat = np.asarray(value, np.float64).reshape(-1, value.shape[-1])
    return flat.mean(0), flat.std(0)
