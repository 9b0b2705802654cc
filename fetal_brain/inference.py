"""Whole volumes through the network: windows, averaging, labels.

Axis order (Z, Y, X). `predict`, the validation in `train` and the exported model all come through
`segment`, so that they cannot differ. It and what is built on it are TensorFlow graphs;
`on_volumes` makes them functions of arrays.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common.errors import OptionError
from common.inference.borders import extend
from common.inference.compiled import compiled_on_gpu, on_arrays
from common.inference.whitening import whiten_in_graph
from common.inference.windows import stitch_windows
from common.network.trained import load_trained
from common.runs.folder import load_config
from fetal_brain.config import PLANE_MULTIPLE, Config, input_shape
from fetal_brain.model import build_model


def segment(
    network: keras.Model,
    image: tf.Tensor,
    config: Config,
    *,
    keep: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
    progress: Callable[[int, int], None] | None = None,
) -> tf.Tensor:
    """Return the averaged class probabilities of a whole volume.

    Args:
        network: of `build_for_any_plane(config)`.
        image: (Z, Y, X) float32, whitened.
        config: uses the inference fields.
        keep: what is kept of the probabilities (n, Y, X, C) of some slices; else see
            `stitch_windows`, as for `progress`.

    Returns:
        (Z, Y, X, C) float32, or what was kept of it.

    Source: deploy.py; DLTK utils.py, sliding_window_segmentation_inference; ledger F5, F11.
    """
    depth, rows, columns = tf.unstack(tf.shape(image))
    window = fit_window((rows, columns), config)

    def classify(windows):
        windows = tf.ensure_shape(windows, (None, window[0], None, None, 1))
        return window_probabilities(network, windows, config)

    found = stitch_windows(
        extend(image, window, tf.reduce_min(image))[..., tf.newaxis],  # [F11]
        classify,
        window=window,
        stride=config.window_stride,
        batch_size=config.windows_per_batch,
        channels=len(config.label_ids),
        output_window=(output_depth(config), *window[1:]),
        count_last_window_twice=config.count_last_window_twice,  # [F5]
        keep=lambda probabilities: keep(probabilities[:, :rows, :columns]),
        progress=progress,
    )
    return found[:depth]


def fit_window(plane: Sequence[int | tf.Tensor], config: Config) -> tuple:
    """Return slices, rows and columns of the windows that cover a plane (rows, columns).

    A plane that fits into `config.window` is covered by one window of its own size, rounded up to a
    multiple of 8; a larger one is slid over.
    """
    depth, *largest = config.window
    rounded = [-(-size // PLANE_MULTIPLE) * PLANE_MULTIPLE for size in plane]
    return (depth, *map(tf.minimum, rounded, largest))


def window_probabilities(network: keras.Model, windows: tf.Tensor, config: Config) -> tf.Tensor:
    """Return softmax probabilities of windows (b, Z, Y, X, 1)."""
    if config.slices_as_channels:  # [F26] (b, 3, Y, X, 1) -> (b, 1, Y, X, 3)
        windows = tf.transpose(windows, (0, 4, 2, 3, 1))
    return tf.nn.softmax(network(windows, training=False))


def most_probable(probabilities: tf.Tensor) -> tf.Tensor:
    """Return the most probable class, uint8; ties go to the lower class (deploy.py; ledger F24)."""
    return tf.cast(tf.argmax(probabilities, axis=-1, output_type=tf.int32), tf.uint8)


def segment_labels(network: keras.Model, image: tf.Tensor, config: Config) -> tf.Tensor:
    """Return the most probable class of every voxel, (Z, Y, X) uint8; arguments as `segment`."""
    return segment(network, image, config, keep=most_probable)


def segment_scan(
    network: keras.Model,
    scan: tf.Tensor,
    config: Config,
    *,
    with_probabilities: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, tf.Tensor]:
    """Whiten and segment a scan: what `predict` runs and `export` saves.

    Args:
        network: of `build_for_any_plane(config)`.
        scan: (Z, Y, X) float32, scanner units.
        config: uses the inference fields.
        with_probabilities: without them the labels alone are held, not the probabilities.
        progress: see `stitch_windows`.

    Returns:
        `labels`: class numbers (Z, Y, X) uint8; `probabilities`: (Z, Y, X, C) float32.
    """
    image = whiten_in_graph(scan[..., tf.newaxis])[..., 0]
    if not with_probabilities:
        return {"labels": segment(network, image, config, keep=most_probable, progress=progress)}
    probabilities = segment(network, image, config, progress=progress)
    return {"labels": most_probable(probabilities), "probabilities": probabilities}


def on_volumes(function: Callable, network: keras.Model, config: Config, **options) -> Callable:
    """Return one of the functions above as one from an array (Z, Y, X) to arrays.

    Compiled once for all sizes; later changes of the network's weights are seen.
    """
    network = compiled_on_gpu(network)
    volume = tf.TensorSpec((None, None, None), tf.float32)
    return on_arrays(lambda array: function(network, array, config, **options), volume)


def build_for_any_plane(config: Config) -> keras.Model:
    """Build the network for any number of rows and columns that is a multiple of 8; `OptionError`:
    patch or window have other rows or columns, or differ in slices."""
    check_sizes(config)
    return build_model(config, input_shape(config, (config.patch_shape[0], None, None)))


def check_sizes(config: Config) -> None:
    """Refuse patches and windows that the network cannot take."""
    for name in ("patch_shape", "window"):
        slices, *plane = getattr(config, name)
        if slices < 1 or any(edge < 1 or edge % PLANE_MULTIPLE for edge in plane):
            raise OptionError(
                f"--{name}: found {getattr(config, name)}; expected slices, and rows and columns "
                f"that are multiples of {PLANE_MULTIPLE}"
            )
    if config.window[0] != config.patch_shape[0]:
        expected = f"those of --patch_shape, {config.patch_shape[0]}"
        raise OptionError(f"--window: found {config.window[0]} slices; expected {expected}")
    output = (output_depth(config), *config.window[1:])
    if np.any(np.less(config.window_stride, 1) | np.greater(config.window_stride, output)):
        raise OptionError(
            f"--window_stride: found {config.window_stride}; expected 1 to the window's "
            f"{output} along every axis"
        )


def output_depth(config: Config) -> int:
    """Return the slices of a window that are segmented: the middle one where they are channels."""
    return 1 if config.slices_as_channels else config.window[0]  # [F26]


def load_network(run: Path, config: Config) -> keras.Model:
    """Load the trained network of a run, `model.keras`.

    Raises:
        RunError: there is none, it cannot be read, or it is not the configuration's architecture.
    """
    return load_trained(build_for_any_plane(config), run)


def load_run_network(run: Path) -> tuple[keras.Model, Config]:
    """Load the trained network of a run and its configuration; see `load_network`.

    [F22] Only a finished run has a network; the original exported after an error as well.
    """
    config = load_config(run, Config)
    return load_network(run, config), config
