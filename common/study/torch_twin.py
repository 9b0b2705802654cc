"""A network of Keras' functional API as the same network in PyTorch, with the same weights.

The twin is what one would write for PyTorch by hand, channels after the batch and no tensor held
longer than needed, with the same outputs and gradients up to rounding: time and memory can be
compared. A paper adds rules for its own layers: name of a Keras class -> maker of a module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import torch
from torch import nn
from torch.nn import functional

Rules = Mapping[str, Callable[[keras.layers.Layer], nn.Module]]

LAYOUTS_2D = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
LAYOUTS_3D = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last_3d}
ADDED_BY_KERAS = {"mask", "training"}
"""Arguments that a call has without having been given them."""


def make_twin(model: keras.Model, rules: Rules | None = None) -> "Twin":
    """Return the twin of a functional model, in evaluation mode.

    Args:
        model: of any backend; its weights are copied.
        rules: for the paper's own layers.
    Raises:
        NotImplementedError: no rule fits a layer; names its class.
    """
    return Twin(model, {**RULES, **(rules or {})}).eval()


class Tensor(int):
    """A tensor of the graph by its number; those that enter the network come first."""


@dataclass
class Application:
    """One use of a layer."""

    layer: str
    inputs: list[Tensor]
    output: Tensor
    options: Mapping[str, Any]
    """Further arguments of the call, such as the site of a layer that is used at several."""
    last_uses: set[Tensor] = field(default_factory=set)
    """Tensors that nothing needs after it."""


class Twin(nn.Module):
    """Applies a layer after the other.

    Takes one tensor (batch, channels, ...) per input of the Keras model; returns a tensor, or a
    dict of tensors where the Keras model does.
    """

    def __init__(self, model: keras.Model, rules: Rules):
        super().__init__()
        self.layers = nn.ModuleDict({
            layer.name: make_module(layer, rules)
            for layer in model.layers
            if not isinstance(layer, keras.layers.InputLayer)
        })  # fmt: skip
        self.applications, self.results = trace(model)

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Return the network's output."""
        held = dict(enumerate(inputs))
        for step in self.applications:
            entering = [held[number] for number in step.inputs]
            for number in step.last_uses:
                del held[number]
            held[step.output] = self.layers[step.layer](*entering, **step.options)
            del entering
        return keras.tree.map_structure(held.__getitem__, self.results)


def trace(model: keras.Model) -> tuple[list[Application], Any]:
    """Return the applications of a model's layers in order, and its results in their structure."""
    applications = []

    def visit(layer):
        def record(*arguments, **options):
            inputs = [each for each in keras.tree.flatten(arguments) if isinstance(each, Tensor)]
            output = Tensor(len(model.inputs) + len(applications))
            given = {name: value for name, value in options.items() if name not in ADDED_BY_KERAS}
            applications.append(Application(layer.name, inputs, output, given))
            return output

        return record

    # Keras' own way through the graph of a model, here with numbers in the place of tensors.
    numbers = [Tensor(number) for number in range(len(model.inputs))]
    results = model._run_through_graph(numbers, operation_fn=visit)
    needed = set(keras.tree.flatten(results))
    for step in reversed(applications):
        step.last_uses = set(step.inputs) - needed
        needed |= step.last_uses
    return applications, results


def make_module(layer: keras.layers.Layer, rules: Rules) -> nn.Module:
    """Return the module of one layer."""
    kind = type(layer).__name__
    if kind not in rules:
        raise NotImplementedError(f"no rule makes a PyTorch module of a layer {kind}")
    return rules[kind](layer)


class Convolution(nn.Module):
    """Convolution, 2-D or 3-D, with the layer's activation."""

    def __init__(self, layer):
        super().__init__()
        self.weight = parameter(layer.kernel, (-1, -2, *range(layer.rank)))
        self.bias = parameter(layer.bias) if layer.use_bias else None
        self.activate = ACTIVATIONS[layer.activation.__name__]
        self.sizes = layer.kernel_size, layer.strides, layer.dilation_rate
        self.same = layer.padding == "same"
        self.convolve = {2: functional.conv2d, 3: functional.conv3d}[layer.rank]

    def forward(self, x):
        kernel, strides, dilation = self.sizes
        padding = 0
        if self.same:
            x, padding = surround(x, kernel, strides, dilation)
        x = self.convolve(x, self.weight, self.bias, strides, padding, dilation)
        return self.activate(x)


class TransposedConvolution(nn.Module):
    """Transposed convolution, 2-D or 3-D, of padding "same", with the layer's activation."""

    def __init__(self, layer):
        super().__init__()
        excess = [max(k - s, 0) for k, s in zip(layer.kernel_size, layer.strides, strict=True)]
        if layer.padding != "same" or any(size % 2 for size in excess):
            raise NotImplementedError(f"{layer.name}: only 'same', cut alike on both sides")
        self.weight = parameter(layer.kernel, (-1, -2, *range(layer.rank)))
        self.bias = parameter(layer.bias) if layer.use_bias else None
        self.activate = ACTIVATIONS[layer.activation.__name__]
        self.strides, self.padding = layer.strides, [size // 2 for size in excess]
        self.convolve = {2: functional.conv_transpose2d, 3: functional.conv_transpose3d}[layer.rank]

    def forward(self, x):
        x = self.convolve(x, self.weight, self.bias, self.strides, self.padding)
        return self.activate(x)


class Normalisation(nn.Module):
    """Batch normalisation with moving statistics."""

    def __init__(self, layer):
        super().__init__()
        self.weight = parameter(layer.gamma)
        self.bias = parameter(layer.beta)
        self.register_buffer("mean", as_tensor(layer.moving_mean))
        self.register_buffer("variance", as_tensor(layer.moving_variance))
        self.share, self.epsilon = 1 - layer.momentum, layer.epsilon

    def forward(self, x):
        return functional.batch_norm(
            x, self.mean, self.variance, self.weight, self.bias, self.training, self.share,
            self.epsilon,
        )  # fmt: skip


class Pooling(nn.Module):
    """Maximum over windows, 2-D or 3-D."""

    def __init__(self, layer):
        super().__init__()
        self.pool = {2: functional.max_pool2d, 3: functional.max_pool3d}[len(layer.pool_size)]
        self.sizes = layer.pool_size, layer.strides
        self.same = layer.padding == "same"

    def forward(self, x):
        size, strides = self.sizes
        padding = 0
        if self.same:
            x, padding = surround(x, size, strides, (1,) * len(size), value=float("-inf"))
        return self.pool(x, size, strides, padding)


class Linear(nn.Module):
    """Fully connected layer with the layer's activation."""

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias = parameter(layer.kernel, (1, 0)), parameter(layer.bias)
        self.activate = ACTIVATIONS[layer.activation.__name__]

    def forward(self, x):
        return self.activate(functional.linear(x, self.weight, self.bias))


class Apply(nn.Module):
    """A function of tensors without weights."""

    def __init__(self, function: Callable[..., torch.Tensor]):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def surround(
    x: torch.Tensor, kernel: Sequence[int], strides: Sequence[int], dilation: Sequence[int],
    value: float = 0.0,
) -> tuple[torch.Tensor, list[int]]:  # fmt: skip
    """Pad as TensorFlow's "same" does, which adds an odd element at the end of an axis.

    Args:
        x: (batch, channels, ...).
        kernel, strides, dilation: per axis.
        value: of what is added.
    Returns:
        The tensor, padded by what only one side gets, and what is left to add on both sides of
        every axis, which PyTorch's own operations do without a copy.
    """
    both, extra = [], []
    for size, edge, step, spread in zip(x.shape[2:], kernel, strides, dilation, strict=True):
        missing = max((-(-size // step) - 1) * step + (edge - 1) * spread + 1 - size, 0)
        both.append(missing // 2)
        extra.append(missing % 2)
    if any(extra):
        x = functional.pad(x, [n for after in reversed(extra) for n in (0, after)], value=value)
    return x, both


def crop(layer: keras.layers.Layer) -> nn.Module:
    """Return the module that cuts the borders of every axis, 2-D or 3-D."""
    spans = [slice(before, -after or None) for before, after in layer.cropping]
    return Apply(lambda x: x[(..., *spans)])


def concatenate(layer: keras.layers.Layer) -> nn.Module:
    """Return the module that joins the channels of several tensors."""
    if layer.axis != -1:
        raise NotImplementedError(f"{layer.name}: only the last axis can be joined")
    return Apply(lambda *tensors: torch.cat(tensors, 1))


def enlarge(layer: keras.layers.Layer) -> nn.Module:
    """Return the module that repeats every element, 2-D or 3-D."""
    return nn.Upsample(scale_factor=tuple(map(float, layer.size)))


def clip(layer: keras.layers.Layer) -> nn.Module:
    """Return the module of a ReLU that may have an upper limit."""
    if layer.negative_slope or layer.threshold:
        raise NotImplementedError(f"{layer.name}: only a threshold and slope of 0")
    # In place: nothing but this layer reads what a convolution or a normalisation gives.
    if layer.max_value is None:
        return nn.ReLU(inplace=True)
    return nn.Hardtanh(0.0, float(layer.max_value), inplace=True)


def parameter(variable, axes: Sequence[int] | None = None) -> nn.Parameter:
    """Return a Keras variable as a parameter, its axes in another order; trained as it is there."""
    value = as_tensor(variable)
    value = value if axes is None else value.permute(*axes).contiguous()
    return nn.Parameter(value, requires_grad=variable.trainable)


def as_tensor(variable) -> torch.Tensor:
    """Return a copy of a Keras variable."""
    return torch.from_numpy(np.array(keras.ops.convert_to_numpy(variable)))


def channels_first(array: np.ndarray, layout: torch.memory_format) -> torch.Tensor:
    """Return an array (batch, ..., channels) as a tensor (batch, channels, ...) of a layout."""
    return torch.from_numpy(array).movedim(-1, 1).contiguous(memory_format=layout)


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor (batch, channels, ...) as an array (batch, ..., channels)."""
    return tensor.detach().movedim(1, -1).contiguous().numpy()


class Adam(torch.optim.Adam):
    """PyTorch's Adam with epsilon where Keras has it, outside the correction of the bias.

    Args:
        parameters: to train.
        optimiser: Keras' Adam, whose numbers count; its learning rate is that of the first step.
    """

    def __init__(self, parameters, optimiser: keras.optimizers.Adam):
        betas = (optimiser.beta_1, optimiser.beta_2)
        super().__init__(parameters, float(optimiser.learning_rate), betas, fused=True)
        self.epsilon, self.count = optimiser.epsilon, 0

    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            group["eps"] = self.epsilon / (1 - group["betas"][1] ** self.count) ** 0.5
        return super().step(closure)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": lambda x: x,
    "relu": torch.relu_,
    "elu": functional.elu_,
    "sigmoid": torch.sigmoid_,
    "softmax": lambda x: torch.softmax(x, 1),
}
"""In place: a layer needs its own output no more once it is clipped."""
RULES: Rules = {
    "Conv2D": Convolution,
    "Conv3D": Convolution,
    "Conv2DTranspose": TransposedConvolution,
    "Conv3DTranspose": TransposedConvolution,
    "BatchNormalization": Normalisation,
    "Dense": Linear,
    "MaxPooling2D": Pooling,
    "MaxPooling3D": Pooling,
    "GlobalMaxPooling3D": lambda layer: Apply(lambda x: x.amax((2, 3, 4))),
    "UpSampling2D": enlarge,
    "UpSampling3D": enlarge,
    "Cropping2D": crop,
    "Cropping3D": crop,
    "Concatenate": concatenate,
    "Add": lambda layer: Apply(lambda first, second: first + second),
    "ReLU": clip,
    "Softmax": lambda layer: Apply(lambda x: torch.softmax(x, 1)),
    "Activation": lambda layer: Apply(ACTIVATIONS[layer.activation.__name__]),
    "Dropout": lambda layer: nn.Dropout(layer.rate),
    # Keras has the channels last.
    "Flatten": lambda layer: Apply(lambda x: x.movedim(1, -1).flatten(1)),
}
