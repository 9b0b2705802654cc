"""What is looked at after every epoch of training: the Dice of whole volumes, and pictures."""

from collections.abc import Callable

import keras
import numpy as np

from common.evaluation.overlap import dice
from common.report.overlay import picture_of_overlay
from raseg.averages import WeightAverages
from raseg.binaries import Binaries, read_record
from raseg.config import Config
from raseg.data import normalise
from raseg.inference import on_volumes, segment
from raseg.masks import to_mask


def make_segmenter(
    network: keras.Model, averages: WeightAverages, binaries: Binaries, config: Config
) -> Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the function of a validation record's number to (image, label, mask).

    The running means of the network in training predict [R36].
    """
    logits_of = on_volumes(segment, network, config)

    def segment_record(number: int):
        record = binaries.validation[number]
        image, label = read_record(record, binaries.layout, signed=config.read_as_signed)
        with averages.in_place():
            mask = to_mask(logits_of(normalise(image)))
        return image, label, mask

    return segment_record


def measure(segment: Callable, count: int) -> dict[str, float]:
    """Return the mean Dice of `count` validation records."""
    found = (segment(number)[1:] for number in range(count))
    return {"val_dice": float(np.nanmean([dice(mask, label) for label, mask in found]))}


def draw(segment: Callable) -> dict[str, np.ndarray]:
    """Draw the first validation record for TensorBoard."""
    image, label, mask = segment(0)
    chosen = int(label.sum(axis=(0, 1)).argmax())
    picture = picture_of_overlay(image[..., chosen, 0], label[..., chosen], mask[..., chosen])
    return {"validation": picture}
