"""Whole volumes through the network: windows, averaging, and the graph that does it when served.

Axis order (Z, Y, X), images whitened. `predict`, the validation in `train` and `export` all segment
through here, so that they cannot differ.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from common.errors import DataError, OptionError
from common.inference.windows import stitch_windows
from common.network.trained import load_trained
from common.runs.folder import load_config
from fetal_brain.config import Config
from fetal_brain.model import build_model

PLANE_MULTIPLE = 8
"""Rows and columns must halve three times on the way down (fetal_fcn.py)."""


@dataclass(frozen=True)
class WindowPlan:
    """How one volume is covered: window and step, and the shape it is extended to first."""

    window: tuple[int, int, int]
    stride: tuple[int, int, int]
    padded_shape: tuple[int, int, int]


def plan_windows(shape: tuple[int, int, int], config: Config) -> WindowPlan:
    """Choose the windows for a volume.

    In plane, a volume that fits into `config.window` is covered by one window of its own size,
    rounded up to a multiple of 8; a larger one is slid over.

    Args:
        shape: (Z, Y, X) of the volume.
        config: uses `window`, `window_stride`, `pad_small_volumes`.

    Raises:
        DataError: the volume is smaller than the window and `pad_small_volumes` is off [F11].
    """
    if not config.pad_small_volumes and any(
        size < window for size, window in zip(shape, config.window, strict=True)
    ):
        raise DataError(
            f"volume of {shape} slices, rows, columns is smaller than the window {config.window}; "
            "expected at least the window, or --pad_small_volumes true"
        )
    depth = config.window[0]
    plane = [
        window if size > window else -(-size // PLANE_MULTIPLE) * PLANE_MULTIPLE
        for size, window in zip(shape[1:], config.window[1:], strict=True)
    ]
    window = (depth, *plane)
    padded = tuple(max(size, edge) for size, edge in zip(shape, window, strict=True))
    return WindowPlan(window=window, stride=config.window_stride, padded_shape=padded)


def segment(
    apply: Callable, image: np.ndarray, config: Config, *, progress: Callable | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Stream the averaged class probabilities of a whole volume, slab by slab.

    Args:
        apply: what `make_apply` returns.
        image: (Z, Y, X) float32, whitened; may be memory-mapped.
        config: uses the inference fields.
        progress: called with the number of windows done and their total.

    Yields:
        First slice and probabilities (n, Y, X, C) float32 of the next n slices, in order; memory
        does not grow with the number of slices.

    Source: deploy.py; DLTK utils.py, sliding_window_segmentation_inference; ledger F5, F11.
    """
    plan = plan_windows(image.shape, config)
    depth, rows, columns = image.shape
    extra = [(0, edge - size) for edge, size in zip(plan.padded_shape, image.shape, strict=True)]
    if any(after for _, after in extra):
        image = np.pad(image, extra, constant_values=image.min())
    output_depth = 1 if config.slices_as_channels else plan.window[0]
    for first, slab in stitch_windows(
        image[..., None],
        apply,
        window=plan.window,
        stride=plan.stride,
        batch_size=config.windows_per_batch,
        output_window=(output_depth, *plan.window[1:]),
        count_last_window_twice=config.count_last_window_twice,  # [F5]
        progress=progress,
    ):
        if first < depth:
            yield first, slab[: depth - first, :rows, :columns]


def segment_labels(apply: Callable, image: np.ndarray, config: Config, **options) -> np.ndarray:
    """Return the most probable class of every voxel, (Z, Y, X) uint8; ties go to the lower class.

    Arguments as `segment`. Source: deploy.py (argmax of the averaged probabilities); ledger F24.
    """
    labels = np.empty(image.shape, np.uint8)
    for first, slab in segment(apply, image, config, **options):
        labels[first : first + len(slab)] = slab.argmax(axis=-1)
    return labels


def make_apply(model: keras.Model, config: Config) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function that `segment` calls: a batch of windows to class probabilities.

    Compiled once per window shape, with XLA only where there is a GPU; later changes of the
    model's weights are seen.

    Args:
        model: a network of `build_for_any_plane(config)`.
        config: the model's configuration.

    Returns:
        Function from (b, Z, Y, X, 1) float32 to (b, Z, Y, X, C) float32; Z is 1 in the output when
        the slices are channels.
    """
    import tensorflow as tf

    @tf.function(jit_compile=bool(tf.config.list_physical_devices("GPU")), autograph=False)
    def probabilities(windows):
        return window_probabilities(model, windows, config)

    return lambda windows: probabilities(tf.constant(windows)).numpy()


def build_for_any_plane(config: Config) -> keras.Model:
    """Build the network for any number of rows and columns that is a multiple of 8.

    Raises:
        OptionError: patch or window have other rows or columns, or differ in slices.
    """
    check_sizes(config)
    if config.slices_as_channels:
        return build_model(config, (1, None, None, config.patch_shape[0]))
    return build_model(config, (config.patch_shape[0], None, None, 1))


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
        raise OptionError(
            f"--window: found {config.window[0]} slices; expected those of --patch_shape, "
            f"{config.patch_shape[0]}"
        )
    pairs = zip(config.window_stride, config.window, strict=True)
    if any(not 1 <= step <= edge for step, edge in pairs):
        raise OptionError(
            f"--window_stride: found {config.window_stride}; expected 1 to the window's "
            f"{config.window} along every axis"
        )


def window_probabilities(network: keras.Model, windows, config: Config):
    """Return softmax probabilities of windows (b, Z, Y, X, 1) as a tensor."""
    if config.slices_as_channels:  # [F26] (b, 3, Y, X, 1) -> (b, 1, Y, X, 3)
        windows = keras.ops.transpose(windows, (0, 4, 2, 3, 1))
    return keras.ops.softmax(network(windows, training=False), axis=-1)


def load_network(run: Path, config: Config) -> keras.Model:
    """Load the trained network of a run and hold it to the run's configuration.

    Args:
        run: run folder with `model.keras`.
        config: the run's configuration.

    Raises:
        RunError: there is no trained network, it cannot be read, or it is another architecture.
    """
    return load_trained(build_for_any_plane(config), run)


def load_run_network(run: Path) -> tuple[keras.Model, Config]:
    """Load the trained network of a run and its configuration; see `load_network`.

    [F22] Only a finished run has a network; the original exported after an error as well.
    """
    config = load_config(run, Config)
    return load_network(run, config), config
