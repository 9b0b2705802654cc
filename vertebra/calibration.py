"""Statistics for every place where a shared block is applied, taken from given patches [V2].

The released weights work with the statistics of the patch alone, and with these the network cannot
answer "nothing here": its last normalisation makes something stand out of every patch. Fixed
statistics for each site keep the masks and let empty patches be empty.
"""

from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from common.errors import DataError
from vertebra.model import normalisations


def calibrate_sites(model: keras.Model, patches: Iterable[np.ndarray]) -> int:
    """Give every site the mean and variance that it has over patches (z, y, x, 2); count them.

    The patches run through the network with statistics of their own; a site gets the mean and the
    variance of all its values over all patches. At the coarse sites most of that variance is
    between patches; without it the completeness saturates. Raises `DataError` where there are no
    patches, or a statistic is not finite.
    """
    layers = dict(normalisations(model))
    sites = [(name, site) for name, layer in layers.items() for site in range(layer.sites)]
    measure = make_measure(model, sites)
    sums, count = None, 0
    for patch in patches:
        found = [np.asarray(part, np.float64) for part in measure(tf.constant(patch[None]))]
        pairs = zip(found[::2], found[1::2], strict=True)
        # First and second moment, so that patches can be averaged.
        moments = [part for mean, variance in pairs for part in (mean, variance + mean**2)]
        sums = moments if sums is None else [a + b for a, b in zip(sums, moments, strict=True)]
        count += 1
    if sums is None:
        raise DataError("no patches to calibrate with; expected at least one")
    averages = [total / count for total in sums]
    if not all(np.isfinite(part).all() for part in averages):
        raise DataError("a statistic of the calibration is not finite; expected other weights")
    for (name, site), mean, square in zip(sites, averages[::2], averages[1::2], strict=True):
        layers[name].site_means[site].assign(mean)
        layers[name].site_variances[site].assign(np.maximum(square - mean**2, 0))
    return count


def make_measure(model: keras.Model, sites):
    """Return the compiled function from a batch to the mean and variance of every site."""
    layers = dict(normalisations(model))
    names = {id(layer): name for name, layer in layers.items()}

    @tf.function
    def measure(batch):
        taken = []
        before = {name: layer.statistics for name, layer in layers.items()}
        for layer in layers.values():
            layer.statistics, layer.sink = "batch", taken.append
        try:
            model(batch, training=False)
        finally:
            for name, layer in layers.items():
                layer.statistics, layer.sink = before[name], None
        found = {(names[id(layer)], site): moments for layer, site, *moments in taken}
        return [part for site in sites for part in found[site]]

    return measure


def is_calibrated(model: keras.Model) -> bool:
    """Say whether the sites have statistics: fresh ones are all mean 0 and variance 1."""
    return any(
        np.any(np.asarray(mean) != 0) or np.any(np.asarray(variance) != 1)
        for _, layer in normalisations(model)
        for mean, variance in zip(layer.site_means, layer.site_variances, strict=True)
    )
