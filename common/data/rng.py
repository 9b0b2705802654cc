"""Random draws that depend on what is drawn, not on what was drawn before."""

import numpy as np


def rng_for(seed: int, *key: int) -> np.random.Generator:
    """Return a random generator that depends on nothing but its arguments.

    Args:
        seed: of the run, at least 0.
        key: what is drawn, such as (epoch, index); every entry at least 0.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
