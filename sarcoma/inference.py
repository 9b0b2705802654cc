"""Whole slices and volumes through a network: patches cut, applied, averaged where they overlap.

Axis order (Z, Y, X). `predict`, the validation in `train` and the exported model all come through
`segment`, so that they cannot differ. It and what is built on it are TensorFlow graphs;
`on_volumes` makes them functions of arrays. The original stops at patches.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from common.errors import OptionError
from common.inference.borders import extend, reflect
from common.inference.compiled import compiled_on_gpu, on_arrays
from common.inference.whitening import whiten_in_graph
from common.inference.windows import stitch_windows
from common.network.trained import load_trained
from common.runs.folder import load_config
from sarcoma.config import LABEL, MARGIN, PATCH, Config
from sarcoma.model import build_for_inference
from sarcoma.sampling import CENTRE


def segment(
    network: keras.Model,
    image: tf.Tensor,
    config: Config,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tf.Tensor:
    """Return the probability of lesion in every voxel of a stack of slices.

    Args:
        network: of `build_for_inference(config)`.
        image: (Z, Y, X, C) float32, standardised.
        config: uses architecture, window_stride, cascade_step and windows_per_batch.
        progress: called with the number of patches done and their total; not by the dilated
            network.
    Returns:
        (Z, Y, X) float32.
    Raises:
        OptionError: the steps between patches leave voxels out.
    """
    slices, rows, columns, _ = tf.unstack(tf.shape(image))
    if config.architecture == "dilated":
        return segment_reflected(network, extend(image, (1,)), config)[:slices]
    if not 1 <= config.window_stride <= LABEL or not 1 <= config.cascade_step <= LABEL:
        raise OptionError(
            f"window_stride {config.window_stride} and cascade_step {config.cascade_step}: "
            f"expected 1 to {LABEL} for both"
        )
    output, stride, shift = steps_of(config)
    shifted = tf.pad(image, [[0, 0], [shift, 0], [shift, 0], [0, 0]])  # [S3]

    def classify(windows):
        windows = tf.ensure_shape(windows, (None, 1, PATCH, PATCH, image.shape[-1]))
        return lesion_probability(network, windows[:, 0], config)[:, tf.newaxis]

    found = stitch_windows(
        extend(shifted, (1, output + shift, output + shift)),  # [S26]
        classify,
        window=(1, PATCH, PATCH),
        stride=(1, stride, stride),
        batch_size=config.windows_per_batch,
        channels=1,
        output_window=(1, output, output),
        keep=lambda probabilities: probabilities[:, :rows, :columns, 0],
        progress=progress,
    )
    return found[:slices]


def steps_of(config: Config) -> tuple[int, int, int]:
    """Return edge of a patch's output, step between patches, and how far on its voxel lies [S3]."""
    if config.architecture == "cascade":
        return config.cascade_step, config.cascade_step, config.centre_index - (PATCH // 2 - 1)
    return LABEL, config.window_stride, 0


def lesion_probability(network: keras.Model, patches: tf.Tensor, config: Config) -> tf.Tensor:
    """Return the probability of lesion (b, m, m, 1) for inputs (b, n, n, C).

    The cascade's one number stands for a square of `cascade_step` pixels.
    """
    if config.architecture == "cascade":
        centres = patches[:, CENTRE, CENTRE]
        found = network([patches, centres], training=False)[:, tf.newaxis, tf.newaxis, 1:]
        return tf.tile(found, (1, config.cascade_step, config.cascade_step, 1))
    found = network(patches, training=False)
    return found[..., 1:2] if config.architecture == "dilated" else found


def segment_reflected(network: keras.Model, image: tf.Tensor, config: Config) -> tf.Tensor:
    """Segment slice by slice, each continued by reflection to a multiple of 8 and by the margin."""
    rows, columns = tf.unstack(tf.shape(image)[1:3])
    above, left = -rows % 8 // 2, -columns % 8 // 2
    margin = MARGIN // 2

    def of_slice(plane):
        plane = reflect(plane, 0, margin + above, margin + -rows % 8 - above)
        plane = reflect(plane, 1, margin + left, margin + -columns % 8 - left)
        found = lesion_probability(network, plane[tf.newaxis], config)[0, ..., 0]
        return found[above : above + rows, left : left + columns]

    spec = tf.TensorSpec((None, None), tf.float32)
    return tf.map_fn(of_slice, image, fn_output_signature=spec, parallel_iterations=1)


def segment_scan(
    network: keras.Model,
    scan: tf.Tensor,
    config: Config,
    *,
    window: tuple[int | tf.Tensor, int | tf.Tensor | None] = (0, None),
    progress: Callable[[int, int], None] | None = None,
) -> tf.Tensor:
    """Standardise and segment a patient: what `predict` runs and `export` saves.

    Args:
        network: of `build_for_inference(config)`.
        scan: (Z, Y, X, C) float32, the file's units.
        config: uses standardise and the inference fields.
        window: slices [start, stop) that are segmented [S24]; statistics are the patient's.
        progress: see `segment`.
    Returns:
        Probability of lesion (slices of the window, Y, X) float32.
    """
    image = standardise(scan, config)[window[0] : window[1]]
    return segment(network, image, config, progress=progress)


def standardise(scan: tf.Tensor, config: Config) -> tf.Tensor:
    """Do as `sarcoma.data.prepare_patient` in a graph; at most a rounding differs [S30]."""
    if config.standardise == "patient":
        return whiten_in_graph(scan)

    def of_slice(plane):
        pixels = tf.cast(tf.reduce_prod(tf.shape(plane)[:-1]), tf.float64)
        return whiten_in_graph(plane[tf.newaxis], least_deviation=1 / tf.sqrt(pixels))[0]

    spec = tf.TensorSpec(scan.shape[1:], tf.float32)
    return tf.map_fn(of_slice, scan, fn_output_signature=spec, parallel_iterations=1)


def on_volumes(function: Callable, network: keras.Model, config: Config, **options) -> Callable:
    """Return `segment` or `segment_scan` as a function of an array (Z, Y, X, C).

    Compiled once for all sizes; later changes of the network's weights are seen.
    """
    network = compiled_on_gpu(network)
    return on_arrays(lambda array: function(network, array, config, **options), volume_spec(config))


def on_windows(network: keras.Model, config: Config, **options) -> Callable:
    """Return `segment_scan` as a function of arrays: scan, and window (2,)."""
    network = compiled_on_gpu(network)

    def run(scan, window):
        return segment_scan(network, scan, config, window=tf.unstack(window), **options)

    return on_arrays(run, volume_spec(config), tf.TensorSpec((2,), tf.int32))


def volume_spec(config: Config) -> tf.TensorSpec:
    """Return the signature of a patient's images."""
    return tf.TensorSpec((None, None, None, len(config.modalities)), tf.float32, name="image")


def load_network(run: Path, config: Config) -> keras.Model:
    """Load the trained network of a run and check it against the run's configuration."""
    return load_trained(build_for_inference(config), run)


def load_run_network(run: Path) -> tuple[keras.Model, Config]:
    """Load the trained network of a run and its configuration; see `load_network`."""
    config = load_config(run, Config)
    return load_network(run, config), config
