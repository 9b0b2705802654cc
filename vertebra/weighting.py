"""Weights of voxels in the loss: large where vertebrae touch the background."""

import numpy as np
from scipy.ndimage import distance_transform_edt

from vertebra.config import Config


def weight_of_distance(distance: np.ndarray, config: Config) -> np.ndarray:
    """Return alpha + beta exp(-d^2 / omega^2) as float32."""
    decay = np.exp(-np.square(distance, dtype=np.float64) / config.weight_omega**2)
    return (config.weight_alpha + config.weight_beta * decay).astype(np.float32)


def weight_map(mask: np.ndarray, config: Config) -> np.ndarray:
    """Return the weights (Z, Y, X) float32 of voxels by their distance to the surface of a mask.

    The distance of a voxel is that to the nearest voxel of the other kind, at least 1; every non-
    zero voxel belongs to the mask [V26]. All are 1 where it is empty or full, for which the
    original has arbitrary values. Source: data/preprocessing.py.
    """
    inside = np.asarray(mask) > 0
    if not inside.any() or inside.all():
        return np.ones(inside.shape, np.float32)
    distance = np.where(inside, distance_transform_edt(inside), distance_transform_edt(~inside))
    return weight_of_distance(distance, config)
