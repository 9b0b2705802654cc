"""A network in PyTorch is the network in Keras: outputs in either layout, gradients, optimisers."""

import importlib
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.cost.workloads import draw, load_workload
from common.papers import find_papers

torch = pytest.importorskip("torch")

from common.study.torch_twin import (  # noqa: E402
    LAYOUTS_2D,
    LAYOUTS_3D,
    Adam,
    channels_first,
    channels_last,
    make_twin,
)

VARIANTS = (
    ("fetal_brain", "", {"slices_as_channels": True, "batch_normalisation": False}),
    ("raseg", "", {"batch_statistics": True, "relu_logits": True}),
    ("sarcoma", "unet2d", {"label_geometry": "pooled", "batch_normalisation": True}),
    ("vertebra", "", {"inference_statistics": "batch"}),
    ("vertebra", "", {"inference_statistics": "moving"}),
    ("dhcp_fetal", "", {"activation": "elu", "rolling_batches": 0}),
)
"""With layers that the small networks do not have."""
WITHOUT_DROPOUT = {"fetal_brain": {"dropout": 0.0}, "dhcp_fetal": {"fc_dropout": ()}}


SMALL = [(paper, name, config) for paper in find_papers("workload.py")
         for name, config in load_workload(paper).small().items()]  # fmt: skip


def list_variants():
    """Return paper, changes and configuration of networks that differ from the small ones."""
    return [
        (paper, str(changes), replace(load_workload(paper).small()[name], **changes))
        for paper, name, changes in VARIANTS
    ]


def build_both(paper, config):
    """Return network, twin and inputs; every weight has a value of its own."""
    rng = np.random.default_rng(0)
    module = load_workload(paper)
    model = module.build_network(config)
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable)
        if variable.path.endswith("kernel"):
            variable.assign(rng.normal(0, 0.2, value.shape))
        elif variable.dtype == "float32" and variable.name != "fixed":
            # Variances and slopes stay positive; `fixed` would mix statistics in training [V2].
            variable.assign(np.abs(value + rng.normal(0, 0.1, value.shape)))
    written = model
    if paper == "fetal_brain":  # of a known depth its pooling consists of operations, not layers
        written = importlib.import_module(f"{paper}.model").build_model(
            config, (None, *model.input_shape[2:])
        )
        written.set_weights(model.get_weights())
    twin = make_twin(written, importlib.import_module(f"{paper}.study.torch_twin").RULES)
    inputs = draw(module.workload_of(config).training_shapes, rng)
    return model, twin, inputs


def as_pairs(ours, theirs):
    """Return the outputs of both as arrays, channels last."""
    names = list(ours) if isinstance(ours, dict) else [None]
    for name in names:
        first, second = (ours, theirs) if name is None else (ours[name], theirs[name])
        yield np.asarray(first), channels_last(second) if second.ndim > 2 else second.numpy()


@pytest.mark.parametrize(("paper", "name", "config"), [*SMALL, *list_variants()])
def test_outputs(paper, name, config):
    model, twin, inputs = build_both(paper, config)
    expected = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    for layout in (LAYOUTS_2D if inputs[0].ndim == 4 else LAYOUTS_3D).values():
        tensors = [channels_first(array, layout) for array in inputs]
        with torch.inference_mode():
            found = twin.to(memory_format=layout)(*tensors)
        for ours, theirs in as_pairs(expected, found):
            # Statistics of a batch are rounded differently.
            np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())


@pytest.mark.parametrize(("paper", "name", "config"), SMALL)
def test_gradients(paper, name, config):
    """In training, of a random weighting of the outputs with respect to the first input."""
    config = replace(config, **WITHOUT_DROPOUT.get(paper, {}))
    model, twin, inputs = build_both(paper, config)
    tensors = [tf.constant(array) for array in inputs]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        outputs = keras.tree.flatten(model(tensors if len(tensors) > 1 else tensors[0],
                                           training=True))  # fmt: skip
        rng = np.random.default_rng(1)
        weights = [rng.normal(size=output.shape).astype(np.float32) for output in outputs]
        total = sum(tf.reduce_sum(w * output) for w, output in zip(weights, outputs, strict=True))
    expected = tape.gradient(total, tensors[0]).numpy()

    images = [channels_first(array, torch.contiguous_format) for array in inputs]
    images[0].requires_grad_()
    outputs = keras.tree.flatten(twin.train()(*images))
    weights = [torch.from_numpy(w) for w in weights]
    sum((w * (output.movedim(1, -1) if output.ndim > 2 else output)).sum()
        for w, output in zip(weights, outputs, strict=True)).backward()  # fmt: skip
    found = channels_last(images[0].grad)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_a_layer_without_a_rule_is_named():
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, keras.layers.DepthwiseConv2D(3)(image))
    with pytest.raises(NotImplementedError, match="a layer DepthwiseConv2D"):
        make_twin(model)


def test_no_tensor_is_held_longer_than_it_is_needed():
    """The skip of a U-Net is held until it is joined, everything else for one layer."""
    image = x = keras.Input((8, 8, 1))
    skip = x = keras.layers.ReLU(name="skip")(x)
    x = keras.layers.MaxPooling2D(2, name="down")(x)
    x = keras.layers.UpSampling2D(2, name="up")(x)
    x = keras.layers.Concatenate(name="join")([skip, x])
    twin = make_twin(keras.Model(image, keras.layers.ReLU(name="end")(x)))
    assert [(step.layer, sorted(step.last_uses)) for step in twin.applications] == [
        ("skip", [0]), ("down", []), ("up", [2]), ("join", [1, 3]), ("end", [4]),
    ]  # fmt: skip


def test_adam_puts_epsilon_where_keras_does():
    """With an epsilon as large as the gradients its place decides the step."""
    start, gradients = np.array([1.0, -2.0], np.float32), [0.3, -0.01]
    optimiser = keras.optimizers.Adam(0.1, epsilon=0.1)
    variable, weight = keras.Variable(start), torch.nn.Parameter(torch.from_numpy(start.copy()))
    twin = Adam([weight], optimiser)
    for step in range(3):
        gradient = np.array(gradients, np.float32) * (step + 1)
        optimiser.apply([tf.constant(gradient)], [variable])
        weight.grad = torch.from_numpy(gradient)
        twin.step()
    np.testing.assert_allclose(weight.detach(), np.asarray(variable), rtol=1e-6)


def test_rmsprop_of_the_engine():
    from dhcp_fetal.config import CODE
    from dhcp_fetal.optimisers import make_optimiser
    from dhcp_fetal.study.torch_twin import RMSprop

    start = np.array([1.0, -2.0], np.float32)
    variable, weight = keras.Variable(start), torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimiser, twin = make_optimiser(CODE), RMSprop([weight], CODE)
    for step in range(3):
        gradient = np.array([0.3, -0.01], np.float32) * (step + 1)
        optimiser.apply([tf.constant(gradient)], [variable])
        weight.grad = torch.from_numpy(gradient)
        twin.step()
    np.testing.assert_allclose(weight.detach(), np.asarray(variable), rtol=1e-6)
