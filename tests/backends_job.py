"""Build the networks of every paper on one Keras backend and write or repeat what they compute.

`python tests/backends_job.py write FOLDER` gives every network random weights and saves them, an
input and the outputs; `python tests/backends_job.py repeat FOLDER NAME` loads the weights, in both
formats, and writes what this backend makes of the inputs to NAME.npz. The backend is KERAS_BACKEND.
"""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def fetal_brain(presets):
    """The released network, and the paper's with slices as channels."""
    small = {"filters": (4, 4, 6, 4), "kernels": (5, 3, 3, 1), "dropout": 0.0}
    yield "code", replace(presets["code"], **small), (3, 24, 24, 1)
    yield "slices as channels", replace(presets["paper"], **small), (1, 24, 24, 3)


def raseg(presets):
    """Odd sizes, so that halving rounds up and the decoder has to cut."""
    small = {"filters": (2, 4, 6)}
    yield "port", replace(presets["port"], **small), (13, 10, 5, 2)
    yield "any size", replace(presets["code"], **small), (None, None, None, 2)
    yield "batch statistics", replace(presets["paper"], **small), (13, 10, 5, 2)


def sarcoma(presets):
    """All three architectures."""
    port = presets["port"]
    yield "U-Net", replace(port, filters=(4, 6, 8), batch_normalisation=True), None
    cascade = replace(port, architecture="cascade", cascade_filters=(2, 2, 3))
    yield "cascade", cascade, None
    yield "cascade of the code", replace(cascade, two_path=False), None
    dilated = (2, 2, 3, 3, 3, 4)
    yield "dilated", replace(port, architecture="dilated", dilated_input=380,
                             dilated_filters=dilated, dropout=0.0), None  # fmt: skip


def vertebra(presets):
    """All sources of statistics."""
    small = {"channels": 3, "patch_size": 16}
    for statistics in ("batch", "moving", "per_site"):
        changed = {"inference_statistics": statistics}
        yield statistics, replace(presets["port"], **small, **changed), (24, 16, 16, 2)


def dhcp_fetal(presets):
    """Both engines: in one the mirror stands before the batch norm; zero padding and elu too."""
    quick = replace(presets["quick"], fc_dropout=(0.0, 0.0), rolling_batches=3)
    yield "v0.8.4", quick, (17, 18, 19)
    yield "v0.7.0", replace(quick, compat="v0.7.0"), (17, 17, 17)
    other = replace(quick, activation="elu", rolling_batches=0, padding=("mirror",) * 4,
                    context_padding=("zero",) * 4)  # fmt: skip
    yield "padded", other, (17, 17, 17)


EXAMPLES = (fetal_brain, raseg, sarcoma, vertebra, dhcp_fetal)


def build_all():
    """Yield name and network of every example."""
    for examples in EXAMPLES:
        paper = examples.__name__
        presets = importlib.import_module(f"{paper}.config").PRESETS
        model = importlib.import_module(f"{paper}.model")
        for name, config, shape in examples(presets):
            yield f"{paper} {name}", model.build_model(config, shape)


def draw_weights(model, rng) -> None:
    """Give every variable numbers that matter; variances and scales stay positive."""
    values = []
    for variable in model.weights:
        if "int" in str(variable.dtype):
            value = np.zeros(variable.shape)
        elif len(variable.shape) > 2 or variable.name == "kernel":
            value = rng.normal(size=variable.shape) / np.sqrt(np.prod(variable.shape[:-1]))
        elif variable.name == "fixed":
            value = np.full(variable.shape, 0.25)
        elif any(word in variable.name for word in ("gamma", "variance")):
            value = rng.uniform(0.5, 1.5, variable.shape)
        else:
            value = rng.normal(0, 0.2, variable.shape)
        values.append(value)
    model.set_weights(values)


def draw_inputs(model, rng) -> list:
    """Draw a batch of two; where the network takes any size, odd ones."""
    sizes = (2, 13, 10, 5)
    return [
        rng.normal(size=[size or sizes[axis] for axis, size in enumerate(tensor.shape)]).astype(
            np.float32
        )
        for tensor in model.inputs
    ]


def compute(model, inputs) -> dict:
    """Return outputs at prediction and in training, and the statistics that training moved."""
    inputs = inputs if len(inputs) > 1 else inputs[0]
    found = {}
    for mode, training in (("predict", False), ("train", True)):
        for index, value in enumerate(keras.tree.flatten(model(inputs, training=training))):
            found[f"{mode} {index}"] = keras.ops.convert_to_numpy(value)
    for index, variable in enumerate(model.non_trainable_weights):
        found[f"state {index}"] = keras.ops.convert_to_numpy(variable.value)
    return found


def write(folder: Path) -> None:
    """Save weights, inputs and outputs of this backend."""
    rng = np.random.default_rng(0)
    for number, (_, model) in enumerate(build_all()):
        draw_weights(model, rng)
        inputs = draw_inputs(model, rng)
        model.save(folder / f"{number}.keras")
        model.save_weights(folder / f"{number}.weights.h5")
        np.savez(folder / f"{number}_inputs.npz", *inputs)
        np.savez(folder / f"{number}_{keras.backend.backend()}.npz", **compute(model, inputs))


def repeat(folder: Path) -> None:
    """Compute from the saved weights: the loaded model's outputs, and the weights' alone."""
    for number, (name, model) in enumerate(build_all()):
        with np.load(folder / f"{number}_inputs.npz") as arrays:
            inputs = list(arrays.values())
        loaded = keras.models.load_model(folder / f"{number}.keras", compile=False)
        model.load_weights(folder / f"{number}.weights.h5")
        for ours, stored in zip(model.weights, loaded.weights, strict=True):
            same = np.array_equal(*map(keras.ops.convert_to_numpy, (ours.value, stored.value)))
            assert same, f"{name}: {ours.path} differs between the two files"
        np.savez(folder / f"{number}_{keras.backend.backend()}.npz", **compute(loaded, inputs))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    {"write": write, "repeat": repeat}[sys.argv[1]](Path(sys.argv[2]))
