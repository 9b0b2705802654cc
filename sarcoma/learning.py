"""What a network is trained with: optimiser, loss, Dice, early stopping, the original's state."""

from pathlib import Path

import keras

from common.network.meters import LabelDice
from sarcoma.config import Config
from sarcoma.early_stopping import EarlyStopping
from sarcoma.losses import batch_dice, cross_entropy_of_probabilities, dice_loss
from sarcoma.model import build_model, make_optimizer
from sarcoma.original_weights import (
    assign_optimizer,
    assign_original,
    read_optimizer,
    read_original,
)


def build_for_training(config: Config, *, xla: bool, original: Path | None) -> keras.Model:
    """Build and compile the network of a configuration; arguments as for `compile_model`."""
    model = build_model(config)
    compile_model(model, config, xla=xla, original=original)
    return model


def compile_model(model, config: Config, *, xla: bool, original: Path | None = None) -> None:
    """Give the network its optimiser, loss and Dice, and perhaps the state of the original's."""
    masks = config.architecture == "unet2d"
    model.compile(
        optimizer=make_optimizer(config),
        loss=dice_loss if masks else cross_entropy_of_probabilities,
        metrics=[batch_dice if masks else LabelDice(1, name="dice")],
        jit_compile=xla,
    )
    if original is not None:
        go_on_from(original, model)


def go_on_from(original: Path, model) -> None:
    """Give the compiled model the original's weights, moments and step."""
    assign_original(model, read_original(original), source=str(original))
    assign_optimizer(model.optimizer, model, read_optimizer(original), source=str(original))


def make_callbacks(config: Config) -> list:
    """Return the early stopping of train.py, or nothing."""
    if config.early_stopping == "off":
        return []
    return [
        EarlyStopping(config.early_stopping, min_delta=config.min_delta, patience=config.patience)
    ]
