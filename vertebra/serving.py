"""The signature of the exported network: one window and its memory, as a TensorFlow graph."""

import keras
import numpy as np
import tensorflow as tf

from common.export import Endpoint, Example
from vertebra.config import Config
from vertebra.inference import make_ask
from vertebra.model import set_statistics


def make_endpoints(network: keras.Model, config: Config) -> list[Endpoint]:
    """Return the signature of the model.

    `serving_default`: image and memory (Z, Y, X) float32 -> mask (Z, Y, X) float32, completeness
    (1,) float32. Every axis a multiple of 8 from `patch_size` to below twice that.

    Args:
        network: of `build_for_any_size(config)`.
        config: uses `inference_statistics`, which become part of the graph.
    """
    set_statistics(network, config.inference_statistics)
    window = [tf.TensorSpec((None, None, None), tf.float32, name=name)
              for name in ("image", "memory")]  # fmt: skip

    def serve_window(image, memory):
        found = network(tf.stack([image, memory], axis=-1)[None], training=False)
        return {"mask": found["mask"][0, ..., 0], "completeness": found["completeness"][0]}

    return [Endpoint("serving_default", serve_window, window)]


def make_examples(network: keras.Model, config: Config) -> dict[str, Example]:
    """Return what the signature is compared on: a bright body in noise, half of it remembered."""
    rng = np.random.default_rng(0)
    edge = config.patch_size
    image = rng.normal(1064, 30, (edge, edge, edge + 8)).astype(np.float32)
    body = (slice(edge // 4, edge // 2), slice(edge // 3, edge // 2), slice(edge // 3, edge // 2))
    image[body] += 500
    memory = np.zeros_like(image)
    memory[: edge // 3][image[: edge // 3] > 1300] = 1
    mask, completeness = make_ask(network, config)(image, memory)
    expected = {"mask": mask, "completeness": np.array([completeness], np.float32)}
    return {"serving_default": Example({"image": image, "memory": memory}, expected)}
