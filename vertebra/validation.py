"""What is looked at after every epoch of training: test patches, and a picture."""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from common.data.prepared_store import PreparedCase
from common.report.overlay import picture_of_overlay
from vertebra.config import Config
from vertebra.inference import make_ask
from vertebra.learning import agreement, patch_dice
from vertebra.losses import completeness_loss, make_mask_loss
from vertebra.model import set_statistics
from vertebra.sampling import VALIDATION, TrainingSampler


def make_validation(
    model: keras.Model, cases: Sequence[PreparedCase], config: Config, seed: int
) -> Callable[[], Mapping[str, float]] | None:
    """Return the function that measures the network after an epoch, or None without cases.

    Always the same `eval_iters` patches [V19], unchanged, with the statistics of
    `validation_statistics` [V1].
    """
    if not cases or not config.eval_iters:
        return None
    sampler = TrainingSampler(cases, config, seed=seed, augment=False, stream=VALIDATION)
    ask = make_ask_for_validation(model, config)

    def measure() -> dict[str, float]:
        rows = [measure_patch(ask, *sampler(index), config) for index in range(config.eval_iters)]
        return {f"val_{name}": float(np.mean([row[name] for row in rows])) for name in rows[0]}

    return measure


def make_ask_for_validation(model: keras.Model, config: Config) -> Callable:
    """Return `make_ask` with the statistics of the validation."""
    ask = make_ask(model, config)

    def with_statistics(image, memory):
        # Chosen when the function is traced; training itself always uses the patch's own.
        set_statistics(model, config.validation_statistics)
        return ask(image, memory)

    return with_statistics


def measure_patch(
    ask: Callable, patch: np.ndarray, targets: Mapping[str, np.ndarray], config: Config
) -> dict[str, float]:
    """Return losses, Dice and agreement of one patch."""
    mask, completeness = ask(patch[..., 0], patch[..., 1])
    found, truth = mask[None, ..., None], targets["mask"][None]
    guess, label = np.array([[completeness]], np.float32), targets["completeness"][None]
    return {
        "mask_loss": float(make_mask_loss(config)(truth, keras.ops.convert_to_tensor(found))),
        "completeness_loss": float(completeness_loss(label, keras.ops.convert_to_tensor(guess))),
        "dice": float(patch_dice(truth, found)),
        "agreement": float(agreement(label, guess)[0, 0]),
    }


def make_overlay_pictures(
    model: keras.Model, cases: Sequence[PreparedCase], config: Config, seed: int
) -> Callable[[], Mapping[str, np.ndarray]] | None:
    """Return the function that draws the first test patch, seen from the side, or None."""
    if not cases or not config.eval_iters:
        return None
    sampler = TrainingSampler(cases, config, seed=seed, augment=False, stream=VALIDATION)
    ask = make_ask_for_validation(model, config)

    def draw() -> dict[str, np.ndarray]:
        patch, targets = sampler(0)
        mask, _ = ask(patch[..., 0], patch[..., 1])
        target = targets["mask"][..., 0]
        column = int(target.sum(axis=(0, 1)).argmax())
        sides = (patch[::-1, :, column, 0], target[::-1, :, column], mask[::-1, :, column] > 0.5)
        return {"patch": picture_of_overlay(*sides)}

    return draw
