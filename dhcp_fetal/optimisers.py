"""The engine's optimisers, which Keras has no equal of.

Momentum may be normalised (the gradient's share is then 1 - momentum) and follows a schedule, so it
is a variable. All state begins at 0.
"""

import keras
from keras import ops

from dhcp_fetal.config import Config


class _WithMomentum(keras.optimizers.Optimizer):
    """Momentum of the engine's kind; a subclass scales the gradient.

    With g the scaled gradient and c = 1 - m if normalised, else 1:
    v becomes m v - c lr g, and the variable moves by v, or by m v - c lr g with Nesterov.
    """

    def __init__(self, learning_rate, *, momentum, nesterov, normalised, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.initial_momentum = momentum
        self.nesterov = nesterov
        self.normalised = normalised

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        start = keras.initializers.Constant(self.initial_momentum)
        self.momentum = self.add_variable((), initializer=start, name="momentum")
        self.velocities = [self.add_variable_from_reference(v, name="velocity") for v in variables]

    def scale(self, gradient, variable):
        """Return the gradient as momentum takes it."""
        return gradient

    def update_step(self, gradient, variable, learning_rate):
        rate = ops.cast(learning_rate, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        momentum = ops.cast(self.momentum, variable.dtype)
        velocity = self.velocities[self._get_variable_index(variable)]
        if self.normalised:
            rate = rate * (1.0 - momentum)
        step = rate * self.scale(gradient, variable)
        moved = momentum * velocity - step
        self.assign(velocity, moved)
        self.assign_add(variable, momentum * moved - step if self.nesterov else moved)

    def get_config(self):
        own = {"momentum": self.initial_momentum, "nesterov": self.nesterov}
        return super().get_config() | own | {"normalised": self.normalised}


@keras.saving.register_keras_serializable("dhcp_fetal")
class EngineSGD(_WithMomentum):
    """Gradient descent with the engine's momentum. Source: optimizers.py, `SgdOptimizer`."""


@keras.saving.register_keras_serializable("dhcp_fetal")
class EngineRMSprop(_WithMomentum):
    """RMSProp with its epsilon inside the root. Source: optimizers.py, `RmsPropOptimizer`."""

    def __init__(self, learning_rate, *, decay, epsilon, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.decay = decay
        self.epsilon = epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.squares = [self.add_variable_from_reference(v, name="square") for v in variables]

    def scale(self, gradient, variable):
        squares = self.squares[self._get_variable_index(variable)]
        mean = self.decay * squares + (1.0 - self.decay) * ops.square(gradient)
        self.assign(squares, mean)
        return gradient / ops.sqrt(mean + self.epsilon)

    def get_config(self):
        return super().get_config() | {"decay": self.decay, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("dhcp_fetal")
class EngineAdam(keras.optimizers.Optimizer):
    """[D15] Adam with its correction in the rate and its epsilon outside the root.

    Source: optimizers.py, `AdamOptimizer`; v0.7.0 fails with it.
    """

    def __init__(self, learning_rate, *, betas, epsilon, **kwargs):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.betas = betas
        self.epsilon = epsilon

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.means = [self.add_variable_from_reference(v, name="mean") for v in variables]
        self.squares = [self.add_variable_from_reference(v, name="square") for v in variables]

    def update_step(self, gradient, variable, learning_rate):
        first, second = self.betas
        index = self._get_variable_index(variable)
        gradient = ops.cast(gradient, variable.dtype)
        count = ops.cast(self.iterations + 1, variable.dtype)
        mean = first * self.means[index] + (1.0 - first) * gradient
        square = second * self.squares[index] + (1.0 - second) * ops.square(gradient)
        self.assign(self.means[index], mean)
        self.assign(self.squares[index], square)
        correction = ops.sqrt(1.0 - ops.power(second, count)) / (1.0 - ops.power(first, count))
        rate = ops.cast(learning_rate, variable.dtype) * correction
        self.assign_sub(variable, rate * mean / (ops.sqrt(square) + self.epsilon))

    def get_config(self):
        return super().get_config() | {"betas": self.betas, "epsilon": self.epsilon}


def make_optimiser(config: Config) -> keras.optimizers.Optimizer:
    """Return the optimiser that a configuration names. Source: specification 6.2."""
    rate, betas, epsilon = config.learning_rate, config.adam_betas, config.adam_epsilon
    if config.optimiser == "adam":
        return EngineAdam(rate, betas=betas, epsilon=epsilon)
    momentum = {"momentum": config.momentum, "nesterov": config.nesterov}
    momentum["normalised"] = config.normalised_momentum
    if config.optimiser == "sgd":
        return EngineSGD(rate, **momentum)
    return EngineRMSprop(rate, decay=config.rms_decay, epsilon=config.rms_epsilon, **momentum)


def freeze_layers(model: keras.Model, config: Config) -> None:
    """Take whole blocks out of training: kernel, normalisation, activation, the softmax bias.

    Rolling statistics go on moving, as in the engine. Call before the optimiser is built.
    """
    frozen = {f"normal_{n}_" for n in config.frozen_layers}
    pathways = range(1, len(config.context_factors) + 1)
    frozen |= {f"context_{p}_{n}_" for p in pathways for n in config.frozen_context_layers}
    frozen |= {f"fc_{n}_" for n in config.frozen_fc_layers}
    if len(config.fc_filters) + 1 in config.frozen_fc_layers:
        frozen.add("softmax_")
    for layer in model.layers:
        layer.trainable = not layer.name.startswith(tuple(frozen))
