"""What is looked at after every epoch of training: the Dice of whole volumes, and pictures."""

from collections.abc import Callable, Mapping

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

    Args:
        network: in training; of `build_for_any_size`.
        averages: its running means, which predict [R36].
        binaries: with validation records.
        config: of the run.
    """
    logits_of = on_volumes(segment, network, config)

    def segment_record(number: int):
        record = binaries.validation[number]
        image, label = read_record(record, binaries.layout, signed=config.read_as_signed)
        with averages.in_place():
            mask = to_mask(logits_of(normalise(image)))
        return image, label, mask

    return segment_record


def make_validation(segment: Callable, binaries: Binaries) -> Callable[[], Mapping[str, float]]:
    """Return the function that measures the network after an epoch.

    Args:
        segment: of `make_segmenter`.
        binaries: with validation records.
    """

    def measure() -> dict[str, float]:
        found = (segment(number)[1:] for number in range(len(binaries.validation)))
        scores = [dice(mask, label) for label, mask in found]
        return {"val_dice": float(np.nanmean(scores))}

    return measure


def make_pictures(segment: Callable) -> Callable[[], Mapping[str, np.ndarray]]:
    """Return the function that draws the first validation record for TensorBoard."""

    def draw() -> dict[str, np.ndarray]:
        image, label, mask = segment(0)
        chosen = int(label.sum(axis=(0, 1)).argmax())
        picture = picture_of_overlay(image[..., chosen, 0], label[..., chosen], mask[..., chosen])
        return {"validation": picture}

    return draw
