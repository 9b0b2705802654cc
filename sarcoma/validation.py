"""What is looked at after every epoch of training: a validation number and overlay pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import keras
import numpy as np

from common.data.prepared_store import PreparedCase
from common.evaluation.overlap import dice
from common.report.overlay import picture_of_overlay
from sarcoma.config import Config
from sarcoma.inference import on_volumes, segment
from sarcoma.sampling import PatchSampler, Stack, stack_examples


def make_validation(
    model: keras.Model,
    cases: Sequence[PreparedCase],
    held_back: np.ndarray,
    stack: Stack,
    config: Config,
    *,
    seed: int,
) -> Callable[[], Mapping[str, float]] | None:
    """Return the function that measures the network after an epoch, or None without data.

    What is measured depends on `validation` [S2]: the prepared patients in `cases`, or the patches
    `held_back` of the pool of `stack`, ordered and flipped by `seed`.
    """
    if config.validation == "patches":
        if len(held_back) < config.batch_size:
            return None
        return lambda: measure_patches(model, held_back, stack, config, seed=seed)
    if not cases:
        return None
    find = on_volumes(segment, model, config)
    return lambda: measure_patients(find, cases, config)


def measure_patients(find: Callable, cases: Sequence[PreparedCase], config: Config) -> dict:
    """Segment every validation patient and return the mean Dice."""
    values = []
    for case in cases:
        image, label = slices_of(case, config)
        values.append(dice(find(image) > config.threshold, label > 0))
    return {"val_dice": float(np.nanmean(values))}


def measure_patches(
    model: keras.Model, patches: np.ndarray, stack: Stack, config: Config, *, seed: int
) -> dict[str, float]:
    """Return the loss over held-back patches, weighted by batch as Keras 2 does.

    One pass; the original makes four and a half [S16]. With augment_validation the patches are
    flipped as training ones are, in the code without their labels [S1].
    """
    way = replace(config, augment=config.augment and config.augment_validation)
    sampler = PatchSampler(stack, patches, way, seed=seed)
    losses = []
    for batch in range(sampler.batches):  # [S16] one pass
        x, y = stack_examples(
            [sampler(batch * config.batch_size + i) for i in range(config.batch_size)]
        )
        losses.append(float(model.loss(y, model.predict_on_batch(x))))
    loss = float(np.mean(losses))
    return {"val_loss": loss} | ({"val_dice": -loss} if config.architecture == "unet2d" else {})


def slices_of(case: PreparedCase, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return image and label of the slices of a patient that are predicted [S24]."""
    arrays = case.arrays
    image, label = arrays["image"], arrays["label"]
    if config.test_slices == "window":
        start, stop = arrays["window"]
        image, label = image[start:stop], label[start:stop]
    return image, label


def make_overlay_pictures(
    model: keras.Model, cases: Sequence[PreparedCase], config: Config
) -> Callable[[], Mapping[str, np.ndarray]] | None:
    """Return the function that draws a slice of the first validation patient, or None."""
    if not cases:
        return None
    find = on_volumes(segment, model, config)

    def draw() -> dict[str, np.ndarray]:
        image, label = slices_of(cases[0], config)
        chosen = int((label > 0).sum(axis=(1, 2)).argmax())
        plane = np.asarray(image[chosen : chosen + 1])
        predicted = find(plane)[0] > config.threshold
        return {"validation": picture_of_overlay(plane[0, ..., -1], label[chosen] > 0, predicted)}

    return draw
