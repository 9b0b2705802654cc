"""Whole slices and volumes through a network: patches cut, applied, averaged where they overlap.

Axis order (Z, Y, X), images standardised. `predict`, the validation in `train` and `export` all
segment through here. The original stops at patches.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common.errors import OptionError
from common.inference.windows_in_numpy import stitch_volume
from common.network.trained import load_trained
from common.runs.folder import load_config
from sarcoma.config import LABEL, MARGIN, PATCH, Config
from sarcoma.model import build_model
from sarcoma.sampling import centre_slice, reflected


def segment(
    apply: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    config: Config,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the probability of lesion in every voxel of a stack of slices.

    Args:
        apply: what `make_apply` returns for this configuration.
        image: (Z, Y, X, C) float32, standardised; may be memory-mapped.
        config: uses architecture, window_stride, cascade_step and windows_per_batch.
        progress: called with the number of patches (dilated: slices) done and their total.
    Returns:
        (Z, Y, X) float32.
    Raises:
        OptionError: the steps between patches leave voxels out.
    """
    if not len(image):
        return np.zeros(image.shape[:3], np.float32)
    if config.architecture == "dilated":
        return segment_reflected(apply, image, progress)
    output, stride, shift = steps_of(config)
    if not 1 <= config.window_stride <= LABEL or not 1 <= config.cascade_step <= LABEL:
        raise OptionError(
            f"window_stride {config.window_stride} and cascade_step {config.cascade_step}: "
            f"expected 1 to {LABEL} for both"
        )
    rows, columns = image.shape[1:3]
    extra = [max(output - size, 0) for size in (rows, columns)]
    if shift or any(extra):
        image = np.pad(image, [(0, 0), *((shift, more) for more in extra), (0, 0)])
    found = stitch_volume(
        image,
        apply,
        window=(1, PATCH, PATCH),
        stride=(1, stride, stride),
        batch_size=config.windows_per_batch,
        output_window=(1, output, output),
        progress=progress,
    )
    return found[:, :rows, :columns, 0]


def steps_of(config: Config) -> tuple[int, int, int]:
    """Return edge of a patch's output, step between patches, and how far on its voxel lies.

    The class of a patch is that of the voxel `shift` rows and columns further on [S3].
    """
    if config.architecture == "cascade":
        return config.cascade_step, config.cascade_step, config.centre_index - (PATCH // 2 - 1)
    return LABEL, config.window_stride, 0


def segment_reflected(apply, image: np.ndarray, progress=None) -> np.ndarray:
    """Segment slice by slice, each continued by reflection as far as the dilated network needs."""
    rows, columns = image.shape[1:3]
    out = np.empty(image.shape[:3], np.float32)
    index = [reflection_index(size) for size in (rows, columns)]
    for z, plane in enumerate(image):
        found = apply(np.ascontiguousarray(plane[index[0][:, None], index[1]][None]))
        low = [(found.shape[axis + 1] - size) // 2 for axis, size in enumerate((rows, columns))]
        out[z] = found[0, low[0] : low[0] + rows, low[1] : low[1] + columns, 0]
        if progress:
            progress(z + 1, len(image))
    return out


def reflection_index(size: int) -> np.ndarray:
    """Return the pixels of an axis that the dilated network's input shows, one after the other."""
    covered = 8 * -(-size // 8)
    first = -((covered - size) // 2) - MARGIN // 2
    return reflected(np.arange(first, first + covered + MARGIN), size)


def make_apply(model: keras.Model, config: Config) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that `segment` calls: a batch of inputs to probabilities of lesion.

    Args:
        model: of `build_for_inference(config)`.
        config: the model's configuration.
    Returns:
        Function of (b, 1, 56, 56, C) -> (b, 1, m, m, 1); for the dilated network of
        (b, n, n, C) -> (b, m, m, 1).
    """

    @tf.function(jit_compile=bool(tf.config.list_physical_devices("GPU")), autograph=False)
    def probabilities(patches):
        return lesion_probability(model, patches, config)

    if config.architecture == "dilated":
        return lambda inputs: probabilities(tf.constant(inputs)).numpy()
    return lambda windows: probabilities(tf.constant(windows[:, 0])).numpy()[:, None]


def lesion_probability(network: keras.Model, patches, config: Config):
    """Return the probability of lesion as a tensor (b, m, m, 1) for inputs (b, n, n, C).

    The cascade's one number stands for a square of `cascade_step` pixels.
    """
    if config.architecture == "cascade":
        centres = patches[:, centre_slice(), centre_slice()]
        found = network([patches, centres], training=False)[:, 1:]
        return keras.ops.tile(
            found[:, None, None], (1, config.cascade_step, config.cascade_step, 1)
        )
    found = network(patches, training=False)
    return found[..., 1:2] if config.architecture == "dilated" else found


def build_for_inference(config: Config) -> keras.Model:
    """Build the network for the inputs that `segment` gives it."""
    if config.architecture == "dilated":
        return build_model(config, (None, None, len(config.modalities)))
    return build_model(config)


def load_network(run: Path, config: Config) -> keras.Model:
    """Load the trained network of a run and hold it to the run's configuration.

    Raises:
        RunError: there is no trained network, it cannot be read, or it is another architecture.
    """
    return load_trained(build_for_inference(config), run)


def load_run_network(run: Path) -> tuple[keras.Model, Config]:
    """Load the trained network of a run and its configuration; see `load_network`."""
    config = load_config(run, Config)
    return load_network(run, config), config
