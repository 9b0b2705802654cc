"""Losses of several papers, written with `keras.ops` alone so that they run on every backend.

Sums over whole volumes are taken axis by axis: one float32 reduction over all axes at once adds
millions of numbers in a row on a CPU (78.66 was measured for the mean of a constant 77.3).
"""

from collections.abc import Sequence

from keras import backend, ops

from common.network.replicas import sum_over_replicas

Axes = int | Sequence[int] | None


def stable_sum(x, axes: Axes = None):
    """Sum over some axes, one axis after the other.

    Args:
        x: tensor of any shape whose rank is known.
        axes: axis or axes to sum over; None for all.
    Returns:
        Tensor of x's dtype without those axes.
    """
    for axis in _last_first(x, axes):
        x = ops.sum(x, axis=axis)
    return x


def stable_mean(x, axes: Axes = None):
    """Mean over some axes; see `stable_sum`. Integers give float32."""
    for axis in _last_first(x, axes):
        x = ops.mean(x, axis=axis)
    return x


def soft_dice(y_true, y_pred, *, axes: Axes, smooth_numerator: float, smooth_denominator: float):
    """Overlap of two maps, (2 sum(t p) + a) / (sum(t) + sum(p) + b). A loss is its negative.

    The papers differ in nothing but the arguments, so none has a default.

    Args:
        y_true: label map, any number type; used as weights, so 0 and 1 are what is expected.
        y_pred: probabilities of the same shape.
        axes: what one overlap is taken over: the spatial axes for one value per sample, None for
            one value over the whole batch.
        smooth_numerator: a; 0 makes the overlap with an empty label 0.
        smooth_denominator: b; together with an equal a, two empty maps overlap fully (1).
    Returns:
        float32 tensor (float64 for float64 maps) without `axes`.
    Raises:
        ValueError: the shapes differ (broadcasting would pair every sample with every other).
    Source: raseg, raseg_model.py, `dice_coeff` (a=0, b=1e-5, per sample); sarcoma, `dice_coef`
        (a=b=1, over the whole batch).
    """
    _check_same_shape(y_true, y_pred)
    dtype = _at_least_float32(y_true, y_pred)
    y_true, y_pred = ops.cast(y_true, dtype), ops.cast(y_pred, dtype)
    overlap = stable_sum(y_true * y_pred, axes)
    size = stable_sum(y_true, axes) + stable_sum(y_pred, axes)
    if 0 in _last_first(y_true, axes):
        # Of the whole batch, also where several devices share it.
        overlap, size = sum_over_replicas(overlap), sum_over_replicas(size)
    return (2.0 * overlap + smooth_numerator) / (size + smooth_denominator)


def sparse_cross_entropy(labels, logits):
    """Mean over all voxels of logsumexp(logits) - logits[label].

    Args:
        labels: (batch, ...) class numbers 0..C-1, any number type.
        logits: (batch, ..., C), before the softmax.
    Returns:
        Scalar, float32 (float64 for float64 logits).
    Raises:
        ValueError: the shapes do not fit each other.
    Source: fetal_brain train.py (the whole loss); raseg_model.py, `loss` (never called there).
    """
    logits = ops.cast(logits, _at_least_float32(logits))
    # Keras hands labels to a loss as floats; the cross-entropy indexes with them.
    labels = ops.cast(labels, "int32")
    return stable_mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))


def _last_first(x, axes):
    """Return the axes counted from the front, last first: removing one leaves the others valid."""
    rank = len(x.shape)
    if axes is None:
        axes = range(rank)
    elif isinstance(axes, int):
        axes = (axes,)
    if any(not -rank <= axis < rank for axis in axes):
        raise ValueError(f"axes {tuple(axes)} of a tensor of shape {tuple(x.shape)}")
    return sorted({axis % rank for axis in axes}, reverse=True)


def _check_same_shape(first, second):
    """Compare ranks and all sizes that are known."""
    shapes = tuple(first.shape), tuple(second.shape)
    known = [(a, b) for a, b in zip(*shapes, strict=False) if a is not None and b is not None]
    if len(shapes[0]) != len(shapes[1]) or any(a != b for a, b in known):
        raise ValueError(f"labels {shapes[0]} and predictions {shapes[1]} differ in shape")


def _at_least_float32(*tensors):
    """Return the tensors' common dtype, but float32 where they are half precision or integers."""
    dtypes = [backend.standardize_dtype(tensor.dtype) for tensor in tensors]
    return backend.result_type(*dtypes, "float32")
