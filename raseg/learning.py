"""What trains the network: optimiser, loss and running means, and the original's state of them."""

from pathlib import Path

from common.network.bfloat16 import refuse_wrong_gradients
from common.network.kernel_gradient import speed_up_kernel_gradients
from common.network.meters import LabelDice
from common.network.trained import save_network
from raseg.averages import WeightAverages
from raseg.binaries import Binaries
from raseg.config import Config
from raseg.model import KERNEL, DiceLoss, build_for_any_size, build_model, make_optimizer
from raseg.original_weights import assign_original, assign_training_state, read_original
from raseg.rematerialise import Rematerialised


def build_for_training(config: Config, examples: int, *, xla: bool):
    """Build the network, the compiled model that trains it (itself or its rematerialised pass), and
    its running means. The number of `examples` sizes the schedule."""
    network = build_for_any_size(config)
    trained = Rematerialised(network, config) if config.rematerialise else network
    speed_up_kernel_gradients(network)
    trained.compile(
        optimizer=make_optimizer(config, examples),
        loss=DiceLoss(config),
        metrics=[LabelDice(1, name="dice")],
        jit_compile=xla,
    )
    return network, trained, WeightAverages(network.trainable_variables, config.ema_decay)


def refuse_wrong_bfloat16(config: Config, rows: int) -> None:
    """Refuse bfloat16 where its gradients are wrong, at the first level or the last."""
    rows = config.patch_shape[0] if config.patch_shape else rows
    refuse_wrong_gradients(max(config.top_kernels), rows)
    refuse_wrong_gradients(KERNEL, -(-rows // 2 ** (len(config.filters) - 1)))


def go_on_from(original: Path, trained, network, averages) -> None:
    """Give model, optimiser and running means the state of the original's checkpoint."""
    tensors = read_original(original)
    assign_original(network, tensors, weights="raw", source=str(original))
    assign_training_state(trained.optimizer, averages, network, tensors)


def save_averages(network, averages, binaries: Binaries, config: Config, path: Path) -> None:
    """Save the running means as a network of the volumes' size.

    Of a known size it consists of Keras' own layers alone and loads without this package (but for
    batch statistics).
    """
    fixed = build_model(config, (*binaries.layout.shape, binaries.layout.channels))
    with averages.in_place():  # [R36]
        fixed.set_weights(network.get_weights())
    save_network(fixed, path)
