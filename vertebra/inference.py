"""The network as the search sees it: a window and its memory in, probabilities out."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common.errors import DataError, OptionError
from common.inference.compiled import compiled_on_gpu, on_arrays
from common.network.trained import load_trained
from common.runs.folder import load_config
from vertebra.calibration import is_calibrated
from vertebra.config import Config
from vertebra.model import MULTIPLE, build_model, set_statistics
from vertebra.original_weights import assign_original, read_original, with_channels_of

WINDOW = [tf.TensorSpec((None, None, None), tf.float32, name=name) for name in ("image", "memory")]
"""What the search shows: a part of the scan, and what was found in it before."""


def look(network: keras.Model, image: tf.Tensor, memory: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return what the network says of a window: what the search runs and `export` saves.

    Image and memory are (z, y, x) float32; `mask` holds probabilities (z, y, x) float32,
    `completeness` (1,) float32.
    """
    found = network(tf.stack([image, memory], axis=-1)[tf.newaxis], training=False)
    return {
        "mask": tf.ensure_shape(found["mask"][0, ..., 0], (None, None, None)),
        "completeness": tf.ensure_shape(found["completeness"][0], (1,)),
    }


def on_windows(model: keras.Model, config: Config) -> Callable:
    """Return `look` as a function of arrays, compiled once; it sees later changes of weights."""
    set_statistics(model, config.inference_statistics)
    network = compiled_on_gpu(model)
    return on_arrays(lambda image, memory: look(network, image, memory), *WINDOW)


def make_ask(model: keras.Model, config: Config) -> Callable:
    """Return the function that the search asks, with the `inference_statistics`.

    It takes image and memory (z, y, x) float32 and returns probabilities (z, y, x) float32 and the
    completeness; it raises `DataError` for a window that the network cannot take.
    """
    run = on_windows(model, config)

    def ask(image: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, float]:
        check_window(image.shape, config)
        found = run(image, memory)
        return found["mask"], float(found["completeness"][0])

    return ask


def check_window(shape: tuple[int, ...], config: Config) -> None:
    """Raise `DataError` for a window that the network cannot take."""
    edge = config.patch_size
    if any(size % MULTIPLE or not edge <= size < 2 * edge for size in shape):
        raise DataError(
            f"a window of {shape} voxels, which the network cannot take: the released search breaks"
            " down here; expected --traversal port"
        )


def build_for_any_size(config: Config) -> keras.Model:
    """Build the network for any legal patch."""
    return build_model(config, (None, None, None, 2))


def load_network(run: Path, config: Config) -> keras.Model:
    """Load the trained network of a run and check it against the run's configuration.

    Raises `RunError` where it is absent, unreadable or another architecture, `OptionError` where
    per-site statistics are asked for and were never taken.
    """
    network = load_trained(build_for_any_size(config), run)
    if config.inference_statistics == "per_site" and not is_calibrated(network):
        raise OptionError(
            f"--inference_statistics per_site: {run} has no statistics of its sites; expected"
            f" `calibrate --run {run}` first, or --inference_statistics batch"
        )
    return network


def load_run_network(run: Path) -> tuple[keras.Model, Config]:
    """Load the trained network of a run and its configuration; see `load_network`."""
    config = load_config(run, Config)
    return load_network(run, config), config


def load_original(weights: Path, config: Config) -> tuple[keras.Model, Config]:
    """Build the network of an original's .pth file; return it with the configuration that fits it.

    Raises `DataError` where `read_original` does, `OptionError` for per-site statistics, which no
    .pth file holds.
    """
    if config.inference_statistics == "per_site":
        raise OptionError(
            f"--inference_statistics per_site: {weights} holds no statistics of sites; expected"
            " `convert` and `calibrate` first, or --inference_statistics batch"
        )
    tensors = read_original(weights)
    config = with_channels_of(tensors, config, source=str(weights))
    network = build_for_any_size(config)
    assign_original(network, tensors, source=str(weights))
    return network, config
