"""The engine's own normalisation of intensities, off in every preset."""

import numpy as np

from dhcp_fetal.config import Config


def zscore(image: np.ndarray, config: Config, *, mask: np.ndarray | None = None) -> np.ndarray:
    """Shift and scale the chosen channels by the mean and deviation of their plausible voxels.

    Of the image (x, y, z, channels) only voxels with a mask (x, y, z) above 0 count. Returns the
    image itself where no channel is chosen, else a float64 copy.
    Source: preprocessing.py, `normalize_zscore_img`; specification 3.3.
    """
    channels = image.shape[-1]
    chosen = config.zscore_channels
    if chosen == "none":
        return image
    if chosen == "all":
        chosen = (True,) * channels
    inside = np.ones(image.shape[:3], dtype=bool) if mask is None else mask > 0
    result = image.astype(np.float64)
    for channel in range(channels):
        if chosen[channel]:
            values = result[..., channel]
            counted = values[_select(values, inside, config)]
            result[..., channel] = (values - counted.mean()) / counted.std()
    return result


def _select(values: np.ndarray, inside: np.ndarray, config: Config) -> np.ndarray:
    """Return the voxels that count: in the mask and within every limit that is set."""
    counted = inside.copy()
    masked = values[inside]
    if config.zscore_percentiles is not None:
        low, high = np.percentile(masked, config.zscore_percentiles)
        counted &= (values > low) & (values < high)
    if config.zscore_deviations is not None:
        below, above = config.zscore_deviations
        mean, deviation = masked.mean(), masked.std()
        counted &= (values > mean - below * deviation) & (values < mean + above * deviation)
    if config.zscore_above_mean:
        # The maximum itself does not count, as in the engine.
        counted &= (values > values.mean()) & (values < values.max())
    return counted
