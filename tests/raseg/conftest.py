"""What the original was recorded with: weights, volumes, and a loader of what was recorded."""

import json
from dataclasses import replace

import pytest

from raseg.config import CODE, DRAFT, PAPER


@pytest.fixture(scope="session")
def golden(golden):
    """Recorded arrays by file name: `golden("small_a")["logits"]`."""
    return golden("raseg")


@pytest.fixture(scope="session")
def recipe(recipe):
    """The module `recipes/raseg.py`."""
    return recipe("raseg")


@pytest.fixture(scope="session")
def tables(golden_dir):
    """Recorded learning rates, decay steps and averages."""
    return json.loads((golden_dir / "raseg" / "tables.json").read_text())


THIN = replace(CODE, filters=(2, 4, 8, 16, 32))
NETWORKS = {
    "full_forward": CODE,
    "small_a": CODE,
    "small_b": CODE,
    "small_c": CODE,
    "thin_a": THIN,
    "draft4_a": replace(DRAFT, top_kernels=(5, 3)),
    "bn_bme_a": replace(PAPER, task="bme"),
    "bn_a": PAPER,
}


@pytest.fixture(scope="session")
def rebuild(recipe, golden):
    """Return a function: name of a recorded file -> (model with its weights, recorded, input)."""
    import tensorflow as tf

    from raseg.model import build_model
    from raseg.original_weights import assign_original, variables_by_name

    # On a GPU, TF32 convolutions round far outside the tolerances of a recorded comparison.
    tf.config.experimental.enable_tensor_float_32_execution(False)

    def make(name):
        recorded, config = golden(name), NETWORKS[name]
        shape = tuple(int(size) for size in recorded["shape"])
        model = build_model(config, shape)
        shapes = {key: v.shape for key, v in variables_by_name(model).items()}
        weights = recipe.make_weights(shapes, int(recorded["seed"]))
        assert recipe.sha256(*(weights[key] for key in sorted(weights))) == str(
            recorded["weights_sha256"]
        )
        assign_original(model, weights)
        image, label = recipe.make_volume(shape, int(recorded["seed"]) + 1, shape[3])
        assert recipe.sha256(image) == str(recorded["image_sha256"])
        assert recipe.sha256(label) == str(recorded["label_sha256"])
        return model, recorded, recipe.whiten(image)[None], label[None]

    return make
