"""The loss of the iterative network, written with `keras.ops` alone.

Sums over a patch of two million voxels are taken axis by axis: one float32 reduction is off by up
to 6e-5 of its value on a CPU.
"""

from keras import ops

from common.network.losses import stable_sum

LOG_FLOOR = -100.0
"""Logarithms in the cross-entropy are not smaller than this (the original framework's rule)."""


def mask_errors(target, predicted, weight):
    """Return sum of weight (1 - t) p and of weight (1 - p) t over a patch: two scalars.

    Target, predicted probabilities and weight are (batch, z, y, x, 1). Source: utils/metrics.py.
    """
    target, weight = (ops.cast(x, predicted.dtype) for x in (target, weight))
    return (
        stable_sum(weight * (1.0 - target) * predicted),
        stable_sum(weight * (1.0 - predicted) * target),
    )


def mask_loss(target, predicted, weight, *, false_positive_weight: float):
    """Return false_positive_weight FP + FN of `mask_errors`."""
    false_positives, false_negatives = mask_errors(target, predicted, weight)
    return false_positive_weight * false_positives + false_negatives


def make_mask_loss(config):
    """Return `mask_loss` as Keras calls it; the target has two channels, mask and weights."""

    def loss_of_mask(y_true, y_pred):
        share = config.false_positive_weight
        return mask_loss(y_true[..., :1], y_pred, y_true[..., 1:], false_positive_weight=share)

    return loss_of_mask


def completeness_loss(target, predicted):
    """Binary cross-entropy of (batch, 1), mean over the batch; logarithms end at -100."""
    target = ops.cast(target, predicted.dtype)
    # A probability of exactly 0 or 1 has an infinite slope times zero: the floor is set before.
    tiny = 1e-37
    log_p = ops.maximum(ops.log(ops.maximum(predicted, tiny)), LOG_FLOOR)
    log_q = ops.maximum(ops.log(ops.maximum(1.0 - predicted, tiny)), LOG_FLOOR)
    floor = ops.cast(LOG_FLOOR, predicted.dtype)
    log_p = ops.where(predicted <= tiny, floor, log_p)
    log_q = ops.where(1.0 - predicted <= tiny, floor, log_q)
    return -ops.mean(target * log_p + (1.0 - target) * log_q)
