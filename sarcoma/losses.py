"""Loss and Dice as the original measures them: over the whole batch, smooth 1, no threshold."""

from keras import ops

from common.network.losses import soft_dice


def batch_dice(y_true, y_pred):
    """Overlap of all maps (batch, rows, columns, 1), flattened together.

    [S20] One quotient for the batch, not a mean over samples, so that it depends on the batch size.
    Source: train.py, `dice_coef`.
    """
    # [S20] One quotient for the batch, not a mean over samples.
    return soft_dice(y_true, y_pred, axes=None, smooth_numerator=1.0, smooth_denominator=1.0)


def dice_loss(y_true, y_pred):
    """Minus `batch_dice`, from -1 (perfect) to 0. Source: train.py, `dice_coef_loss`."""
    return -batch_dice(y_true, y_pred)


def cross_entropy_of_probabilities(y_true, y_pred):
    """Mean of -log of the true class's probability; classes (batch, ...), a softmax's output.

    The code has no loss for the cascade and the dilated network; their papers minimise this one.
    """
    return ops.mean(ops.sparse_categorical_crossentropy(ops.cast(y_true, "int32"), y_pred))


def loss_of(config):
    """Return the loss of the configuration's network: `dice_loss` for the U-Net's masks."""
    return dice_loss if config.architecture == "unet2d" else cross_entropy_of_probabilities
