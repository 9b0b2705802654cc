"""What is looked at after every epoch of training: a validation number and overlay pictures."""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from common.data.prepared_store import PreparedCase
from common.evaluation.overlap import dice
from common.report.overlay import picture_of_overlay
from fetal_brain.config import Config
from fetal_brain.inference import on_volumes, segment_labels
from fetal_brain.sampling import draw_validation_batch


def make_validation(
    model: keras.Model, cases: Sequence[PreparedCase], config: Config, seed: int
) -> Callable[[], Mapping[str, float]] | None:
    """Return the function that measures the network after an epoch, or None without cases.

    `validation` [F20]: "volumes" segments every case whole and gives the mean Dice of the
    foreground; "patch_batch" gives loss and Dice of one batch of patches.
    """
    if not cases:
        return None
    if config.validation == "patch_batch":
        return lambda: measure_patch_batch(model, cases, config, seed)
    label = on_volumes(segment_labels, model, config)
    return lambda: measure_volumes(label, cases, config)


def measure_volumes(
    label: Callable[[np.ndarray], np.ndarray], cases: Sequence[PreparedCase], config: Config
) -> dict[str, float]:
    """Segment prepared cases (Z, Y, X) whole and return the mean Dice of each foreground class."""
    numbers = range(1, len(config.label_ids))
    names = ["val_dice"] if len(numbers) == 1 else [f"val_dice_{number}" for number in numbers]
    scores = []
    for case in cases:
        predicted = label(case.arrays["image"][..., 0])
        scores.append([dice(predicted == n, case.arrays["label"] == n) for n in numbers])
    columns = zip(names, zip(*scores, strict=True), strict=True)
    return {name: float(np.nanmean(values)) for name, values in columns}


def measure_patch_batch(
    model: keras.Model, cases: Sequence[PreparedCase], config: Config, seed: int
) -> dict[str, float]:
    """Return loss and Dice of one batch of random patches of the first cases, as the original."""
    epoch = int(model.optimizer.iterations.numpy()) // config.steps_per_evaluation
    images, labels = draw_validation_batch(cases, config, seed, epoch)
    logits = model.predict_on_batch(images)
    loss = float(model.loss(labels, logits))
    return {"val_loss": loss, "val_dice": float(dice(logits.argmax(-1) == 1, labels == 1))}


def make_overlay_pictures(
    model: keras.Model, cases: Sequence[PreparedCase], config: Config
) -> Callable[[], Mapping[str, np.ndarray]] | None:
    """Return the function that draws the first validation case for TensorBoard, or None."""
    if not cases:
        return None
    segment = on_volumes(segment_labels, model, config)

    def draw() -> dict[str, np.ndarray]:
        label = cases[0].arrays["label"]
        middle = int(np.argmax([np.count_nonzero(slice_) for slice_ in label]))
        start = min(max(middle - config.window[0] // 2, 0), max(len(label) - config.window[0], 0))
        slab = slice(start, start + config.window[0])
        image = np.asarray(cases[0].arrays["image"][slab, ..., 0])
        predicted = segment(image)
        row = middle - start
        return {"validation": picture_of_overlay(image[row], label[middle], predicted[row])}

    return draw
