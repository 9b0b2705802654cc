"""What trains the network: optimiser, loss and Dice, and the original's state of them."""

from pathlib import Path

from common.network.bfloat16 import refuse_wrong_gradients
from common.network.kernel_gradient import speed_up_kernel_gradients
from common.network.losses import sparse_cross_entropy
from common.network.meters import LabelDice
from fetal_brain.config import Config
from fetal_brain.model import make_optimizer
from fetal_brain.original_weights import assign_optimizer, assign_original, read_original


def compile_model(model, config: Config, *, xla: bool) -> None:
    """Give the network its optimiser, loss and the Dice shown while training."""
    speed_up_kernel_gradients(model)
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


def refuse_wrong_bfloat16(config: Config) -> None:
    """Refuse bfloat16 where its gradients are wrong; see `common.network.bfloat16`."""
    if not config.slices_as_channels:
        refuse_wrong_gradients(max(config.kernels), config.patch_shape[0])
