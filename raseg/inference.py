"""Whole volumes through the network; every command that predicts comes through here.

Axis order (row, column, slice, channel). `predict`, the validation in `train` and the exported
model all come through `segment`, so that they cannot differ. It and what is built on it are
TensorFlow graphs; `on_volumes` makes them functions of arrays.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from common.inference.borders import extend
from common.inference.compiled import on_arrays
from common.inference.loops import join_tiles
from common.inference.windows import window_starts
from common.network.trained import load_trained
from common.runs.folder import load_config
from raseg.config import CHANNELS, Config
from raseg.model import build_for_any_size
from raseg.sampling import normalise_in_graph
from raseg.streaming import stream

STREAMED_VOXELS = 2**17
"""Volumes from this size on are streamed on a CPU, which takes less memory. It is 1.29 times as
fast on a Zen 3 at 96 x 96 x 20 voxels, 0.98 to 1.04 times on a Xeon from there to 256 x 256 x 20,
and slower below."""
LARGEST_WORD = 65535


def segment(
    network: keras.Model,
    image: tf.Tensor,
    config: Config,
    *,
    streamed_voxels: int | None = STREAMED_VOXELS,
) -> tf.Tensor:
    """Return the logits of a normalised volume in the pass that suits its size.

    With batch statistics [R22] every layer needs the moments of the whole volume: one plain pass.

    Args:
        network: of `build_for_any_size(config)`.
        image: (rows, columns, slices, channels) float32.
        config: uses batch_statistics, filters and top_kernels.
        streamed_voxels: volumes from this size on are streamed; None: none.
    Returns:
        (rows, columns, slices, 2) float32.

    Source: raseg_predict.py.
    """

    def plain():
        return network(image[tf.newaxis], training=False)[0]

    if streamed_voxels is None or config.batch_statistics:
        return plain()
    is_large = tf.reduce_prod(tf.shape(image)[:3]) >= streamed_voxels
    return tf.cond(is_large, lambda: stream(network, image, config), plain)


def segment_scan(
    network: keras.Model, scan: tf.Tensor, config: Config, **options
) -> dict[str, tf.Tensor]:
    """Prepare and segment a volume: what `predict` runs and `export` saves.

    Args:
        network: of `build_for_any_size(config)`.
        scan: (rows, columns, slices, channels) float32, scanner units.
        config: uses patch_shape, predict_from_stored and what `as_stored` and `segment` use.
        options: of `segment`.
    Returns:
        `labels`: (rows, columns, slices) uint8, a tie, such as two zeros, is background;
        `probabilities`: of the foreground, (rows, columns, slices) float32.
    """
    logits = logits_of_scan(network, scan, config, **options)
    background, foreground = logits[..., 0], logits[..., 1]
    return {
        "labels": tf.cast(foreground > background, tf.uint8),
        "probabilities": tf.sigmoid(foreground - background),
    }


def logits_of_scan(network: keras.Model, scan: tf.Tensor, config: Config, **options) -> tf.Tensor:
    """Return the logits (rows, columns, slices, 2) of a volume in scanner units."""

    def of_part(part):
        return segment(network, normalise_in_graph(part), config, **options)

    if config.predict_from_stored:
        scan = as_stored(scan, config)  # [R6] As the binaries do.
    if config.patch_shape is None:
        return of_part(scan)
    return predict_tiles(scan, config.patch_shape, of_part)


def as_stored(scan: tf.Tensor, config: Config) -> tf.Tensor:
    """Do as `raseg.binaries.encode`, and read the words as the configuration says [R4].

    A value that 16 bits cannot hold fails the request, unless values wrap.
    """
    words = truncate(scan)
    if config.wrap_intensities:
        words = tf.math.floormod(words, LARGEST_WORD + 1.0)
    else:
        told = "image: found a value below 0 or above 65535, which 16 bits cannot hold"
        least = tf.debugging.assert_non_negative(words, told)
        most = tf.debugging.assert_less_equal(words, float(LARGEST_WORD), told)
        with tf.control_dependencies([least, most]):
            words = tf.identity(words)
    if config.read_as_signed:
        words = tf.where(words > LARGEST_WORD // 2, words - (LARGEST_WORD + 1.0), words)
    return words


def truncate(values: tf.Tensor) -> tf.Tensor:
    """Cut fractions off towards zero."""
    return tf.sign(values) * tf.floor(tf.abs(values))


def predict_tiles(
    scan: tf.Tensor, patch: tuple[int, int, int], apply: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Tensor:
    """Predict a volume in patches side by side, each normalised on its own [R26].

    Along an axis the last patch is pushed back to end with the volume, and only its new part is
    kept: nothing is averaged. Axes shorter than the patch are continued with zeros.

    Source: branch full_image, fullconv.
    """
    rows, columns, slices, channels = *tf.unstack(tf.shape(scan)[:3]), scan.shape[-1]
    volume = extend(scan, patch)
    sizes = tf.unstack(tf.shape(volume)[:3])
    starts = [window_starts(size, edge, edge) for size, edge in zip(sizes, patch, strict=True)]

    def predict_tile(*numbers):
        low = [start[number] for start, number in zip(starts, numbers, strict=True)]
        piece = tf.ensure_shape(tf.slice(volume, [*low, 0], [*patch, channels]), (*patch, channels))
        # Where the last patch is pushed back, its first voxels are another's.
        known = [number * edge - first
                 for number, edge, first in zip(numbers, patch, low, strict=True)]  # fmt: skip
        return apply(piece)[known[0] :, known[1] :, known[2] :]

    kept = [
        tf.minimum(edge, size - tf.range(tf.size(start)) * edge)
        for start, size, edge in zip(starts, sizes, patch, strict=True)
    ]
    return join_tiles(predict_tile, kept, channels=2)[:rows, :columns, :slices]


def on_volumes(function: Callable, network: keras.Model, config: Config, **options) -> Callable:
    """Return one of the functions above as one from an array (rows, columns, slices, channels).

    Compiled once for all sizes; later changes of the network's weights are seen. A GPU streams
    nothing.
    """
    if tf.config.list_physical_devices("GPU"):
        options = {"streamed_voxels": None, **options}
    return on_arrays(lambda array: function(network, array, config, **options), volume_spec(config))


def volume_spec(config: Config) -> tf.TensorSpec:
    """Return the signature of a volume; with channels unknown Keras convolves with XLA, which on a
    CPU is ten times slower."""
    return tf.TensorSpec((None, None, None, len(CHANNELS[config.task])), tf.float32, name="image")


def load_network(run: Path, config: Config) -> keras.Model:
    """Load the trained network of a run, `model.keras`: the running means of the weights [R36].

    Raises:
        RunError: there is none, it cannot be read, or it is not the configuration's architecture.
    """
    return load_trained(build_for_any_size(config), run)


def load_run_network(run: Path) -> tuple[keras.Model, Config]:
    """Load the trained network of a run and its configuration; see `load_network`."""
    config = load_config(run, Config)
    return load_network(run, config), config
