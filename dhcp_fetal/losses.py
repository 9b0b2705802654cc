"""The engine's cost: cross-entropy, overlap terms, class weights, penalties on the kernels.

Probabilities and one-hot labels are (batch, x, y, z, classes) float32, labels (batch, x, y, z)
class numbers.
"""

import keras
from keras import ops

from common.network.losses import soft_dice, stable_mean, stable_sum
from common.network.replicas import sum_over_replicas
from dhcp_fetal.config import Config

CROSS_ENTROPY_OFFSET = 1e-6
"""Added to probabilities, so that the logarithm of 0 is finite."""
OVERLAP_OFFSET = 1e-5
COUNT_OFFSET = 1e-6


def cross_entropy(one_hot, probabilities, weights=None):
    """Return the mean over voxels of -w ln(p + 1e-6) of the true class.

    The sum is divided by the number of voxels, not by the sum of the weights, (classes,); None: 1.
    Source: cost_functions.py, `x_entr`; specification 5.
    """
    logarithms = ops.log(probabilities + CROSS_ENTROPY_OFFSET) * one_hot
    if weights is not None:
        logarithms = logarithms * weights
    return -stable_mean(ops.sum(logarithms, axis=-1))


def iou_loss(one_hot, probabilities):
    """Return 1 - the mean over classes of the soft intersection over union of the whole batch.

    Source: cost_functions.py, `iou`.
    """
    space = (0, 1, 2, 3)
    overlap = stable_sum(probabilities * one_hot, space)
    union = stable_sum(probabilities * (1.0 - one_hot), space) + stable_sum(one_hot, space)
    overlap, union = sum_over_replicas(overlap), sum_over_replicas(union)
    return 1.0 - ops.mean((overlap + OVERLAP_OFFSET) / (union + OVERLAP_OFFSET))


def dice_loss(one_hot, probabilities):
    """Return 1 - the mean over classes of the soft Dice of the whole batch.

    Source: cost_functions.py, `dsc`.
    """
    smooth = {"smooth_numerator": OVERLAP_OFFSET, "smooth_denominator": OVERLAP_OFFSET}
    return 1.0 - ops.mean(soft_dice(one_hot, probabilities, axes=(0, 1, 2, 3), **smooth))


def class_weights(one_hot, epochs_trained, config: Config):
    """Return the weights of the classes in the cross-entropy, or None where all are 1.

    They go from those of the batch ("frequency") or of the configuration ("fixed") in a straight
    line to 1, between the two epochs of `class_weighting_epochs`.
    Source: cost_functions.py, `calc_weights_per_class`.
    """
    if config.class_weighting == "none":
        return None
    if config.class_weighting == "frequency":
        counts = sum_over_replicas(stable_sum(one_hot, (0, 1, 2, 3)))
        first = ops.sum(counts) / config.classes / (counts + COUNT_OFFSET)
    else:
        first = ops.convert_to_tensor(config.class_weights, "float32")
    begin, end = config.class_weighting_epochs
    epoch = ops.clip(ops.cast(epochs_trained, "float32"), float(begin), float(end))
    return first + (epoch - begin) * (1.0 - first) / float(max(end - begin, 1))


def kernel_penalty(kernels, config: Config):
    """Return the weighted L1 and L2 penalties of convolution kernels, no other variable.

    [G22] Kernels that are frozen count as well.
    """
    absolute = sum(ops.sum(ops.abs(kernel)) for kernel in kernels)
    squares = sum(ops.sum(ops.square(kernel)) for kernel in kernels)
    return config.l1_weight * absolute + config.l2_weight * squares


@keras.saving.register_keras_serializable("dhcp_fetal")
class EngineCost(keras.losses.Loss):
    """What the engine minimises, for `model.compile`.

    Args:
        model: whose convolution kernels are penalised.
        config: uses the loss's fields.
    """

    def __init__(self, model: keras.Model, config: Config):
        super().__init__(name="cost", reduction=None)
        self.config = config
        self.kernels = [layer.kernel for layer in model.layers if layer.name.endswith("_conv")]
        self.epochs_trained = keras.Variable(0.0, trainable=False, name="epochs_trained")

    def call(self, labels, probabilities):
        """Return the scalar cost of labels and probabilities."""
        config = self.config
        one_hot = ops.one_hot(ops.cast(labels, "int32"), config.classes, dtype="float32")
        probabilities = ops.cast(probabilities, "float32")
        weights = class_weights(one_hot, self.epochs_trained, config)
        cost = kernel_penalty(self.kernels, config)
        if config.cross_entropy_weight is not None:
            cost += config.cross_entropy_weight * cross_entropy(one_hot, probabilities, weights)
        if config.iou_weight is not None:
            cost += config.iou_weight * iou_loss(one_hot, probabilities)
        if config.dice_weight is not None:
            cost += config.dice_weight * dice_loss(one_hot, probabilities)
        return cost
