"""What a network is trained with: optimiser, loss, Dice, early stopping, the original's state."""

from pathlib import Path

import keras

from common.network.meters import LabelDice
from sarcoma.config import Config
from sarcoma.early_stopping import EarlyStopping
from sarcoma.losses import batch_dice, loss_of
from sarcoma.model import build_model, make_optimizer
from sarcoma.original_weights import (
    assign_optimizer,
    assign_original,
    read_optimizer,
    read_original,
)


def build_for_training(config: Config, *, xla: bool, original: Path | None) -> keras.Model:
    """Build and compile the network; an original's file brings its weights, moments and step."""
    model = build_model(config)
    masks = config.architecture == "unet2d"
    model.compile(
        optimizer=make_optimizer(config),
        loss=loss_of(config),
        metrics=[batch_dice if masks else LabelDice(1, name="dice")],
        jit_compile=xla,
    )
    if original is not None:
        assign_original(model, read_original(original), source=str(original))
        assign_optimizer(model.optimizer, model, read_optimizer(original), source=str(original))
    return model


def make_callbacks(config: Config) -> list:
    """Return the early stopping of train.py, or nothing."""
    if config.early_stopping == "off":
        return []
    watched = config.early_stopping
    return [EarlyStopping(watched, min_delta=config.min_delta, patience=config.patience)]
