"""What tf-keras, which still knows the format of Keras 2, computes from a file of the original."""

import json
from pathlib import Path

import numpy as np
import tf_keras

from sarcoma.data import open_hdf5
from sarcoma.original_weights import texts

READABLE_LAYERS = {
    "InputLayer", "Conv2D", "Conv2DTranspose", "MaxPooling2D", "Concatenate", "BatchNormalization",
    "Activation", "Dropout", "Flatten", "UpSampling2D", "ZeroPadding2D", "Softmax",
}  # fmt: skip
"""Layers that tf-keras may be asked to build from a file: none of them holds code."""


def describe_check(model, original: Path) -> str:
    """Compare a model with tf-keras' own reading of the file; return a line that says so."""
    patches = np.random.default_rng(0).normal(size=(4, *model.input_shape[1:])).astype(np.float32)
    try:
        expected = predict_with_tf_keras(original, patches)
    except (ValueError, TypeError, KeyError) as refusal:
        return f"Check: tf-keras cannot build this file ({str(refusal).splitlines()[0][:120]})"
    difference = np.abs(model.predict_on_batch(patches) - expected).max()
    return f"Check: outputs differ from those of tf-keras by at most {difference:.1e}"


def predict_with_tf_keras(path: Path, patches):
    """Return the output of the model that tf-keras itself builds from a file of `model.save`.

    Raises `ValueError` where it has no architecture, or layers that can hold code.
    """
    # The one reader that still knows this format: Keras 3 refuses files of later tf-keras.
    with open_hdf5(path) as file:
        architecture = texts([file.attrs.get("model_config", "")])[0]
    if not architecture:
        raise ValueError("it holds weights without an architecture")
    layers = json.loads(architecture)["config"]["layers"]
    unsafe = {layer["class_name"] for layer in layers} - READABLE_LAYERS
    if unsafe:
        raise ValueError(f"it has layers of the kind {min(unsafe)}")
    # [S9] Without compiling, the custom loss that the file names is not asked for.
    return tf_keras.models.load_model(str(path), compile=False).predict_on_batch(patches)
