"""What trains the network: optimiser, loss and Dice, and the original's state of them."""

from pathlib import Path

import tensorflow as tf

from common.errors import OptionError
from common.network.losses import sparse_cross_entropy
from common.network.meters import LabelDice
from fetal_brain.config import Config
from fetal_brain.model import make_optimizer
from fetal_brain.original_weights import assign_optimizer, assign_original, read_original


def compile_model(model, config: Config, *, xla: bool) -> None:
    """Give the network its optimiser, loss and the Dice shown while training."""
    model.compile(
        optimizer=make_optimizer(config),
        loss=sparse_cross_entropy,
        metrics=[LabelDice(1, name="dice")],
        jit_compile=xla,
    )


def go_on_from(original: Path, model, config: Config) -> None:
    """Give the compiled model the original's weights, momentum and step."""
    tensors = read_original(original)
    assign_original(model, tensors, source=str(original))
    assign_optimizer(model.optimizer, model, tensors, config.learning_rate)


def refuse_wrong_gradients(config: Config) -> None:
    """Refuse bfloat16 where TensorFlow's CPU kernels compute another gradient than asked for.

    Measured with TensorFlow 2.21: the gradient of a 5 x 5 x 5 kernel over three slices is off by
    as much as its own size (it holds uninitialised memory), from five slices on it is right.

    Raises:
        OptionError: there is no GPU and a kernel is deeper than the patch.
    """
    too_deep = not config.slices_as_channels and max(config.kernels) > config.patch_shape[0]
    if too_deep and not tf.config.list_physical_devices("GPU"):
        raise OptionError(
            f"--mixed_precision: without a GPU, TensorFlow's bfloat16 gradients are wrong for "
            f"kernels of {max(config.kernels)} slices in patches of {config.patch_shape[0]}; "
            "expected a GPU, or float32"
        )
