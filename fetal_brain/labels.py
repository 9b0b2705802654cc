"""Label maps of predictions: from class numbers to the ids in a file, and back."""

from dataclasses import replace

import numpy as np

from common.data.geometry import Volume
from common.data.labels import join_labels
from common.errors import DataError
from fetal_brain.config import Config


def write_ids(labels: np.ndarray, config: Config) -> np.ndarray:
    """Turn class numbers (Z, Y, X) into the ids that are written [F8], int32 as the original's.

    A class that joins several ids is written as the first of them.
    """
    if not config.output_label_ids:  # [F8]
        return labels.astype(np.int32)
    first_ids = [ids if isinstance(ids, int) else ids[0] for ids in config.label_ids]
    return np.asarray(first_ids, np.int32)[labels]


def read_ids(prediction: Volume, config: Config, *, source: str = "label map") -> Volume:
    """Turn a written label map back into class numbers, the reverse of `write_ids` [F8].

    A map that another preset wrote is told by its values: ids where they fit, else class numbers.
    `DataError`, which names the `source`: a value is neither.
    """
    numbers = np.arange(len(config.label_ids))
    swapped = replace(config, output_label_ids=not config.output_label_ids)
    for written in (write_ids(numbers, config), write_ids(numbers, swapped)):
        if np.isin(prediction.array, written).all():
            return replace(prediction, array=join_labels(prediction.array, written.tolist()))
    found = np.setdiff1d(prediction.array, write_ids(numbers, config))[0]
    expected = ", ".join(map(str, write_ids(numbers, config)))
    raise DataError(f"{source}: found the label {found}; expected {expected} (--label_ids)")
