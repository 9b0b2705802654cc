"""What the sides of a paper's benchmark have in common; see `common.cost.turns`.

Neither TensorFlow nor PyTorch is imported here: each side runs on one of them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from common.cost.turns import Contender
from common.runtime import configure_runtime
from common.suite.contests import MIXED_PRECISION

WEIGHTS = "weights.npz"
PROOF_STEPS = 2
"""The loss of the second step shows that the first one's gradient and update were the same."""


def configure(sizes: Mapping[str, Any]) -> dict:
    """Configure TensorFlow as training does, in bfloat16 where the side asks for it."""
    return configure_runtime(seed=0, mixed_precision=sizes.get(MIXED_PRECISION, False))


def share_weights(model: keras.Model, folder: Path) -> None:
    """Give a network, of any backend, the weights of the first side; which leaves its own."""
    path = folder / WEIGHTS
    if not path.is_file():
        np.savez(path, *model.get_weights())
        return
    with np.load(path, allow_pickle=False) as arrays:
        model.set_weights(list(arrays.values()))


def train_in_keras(
    model: keras.Model,
    inputs: Any,
    targets: Any,
    *,
    steps: int = 1,
    before_step: Callable[[], object] = lambda: None,
) -> Contender:
    """Return the side that trains a compiled model on one batch, over and over.

    Args:
        model: compiled.
        inputs, targets: arrays as `train_on_batch` takes them.
        steps: in one timed call.
        before_step: what `train` does before every step.
    """

    def take_step() -> float:
        before_step()
        model.reset_metrics()  # else the loss is the mean of all steps so far
        return np.ravel(model.train_on_batch(inputs, targets))[0]

    return repeat_steps(take_step, steps)


def train_in_torch(
    twin: Any,
    optimiser: Any,
    find_loss: Callable[[Any], Any],
    inputs: Sequence[Any],
    *,
    steps: int = 1,
    before_step: Callable[[], object] = lambda: None,
) -> Contender:
    """Return the side that trains a twin on one batch, over and over.

    Args:
        twin: of `torch_twin.make_twin`.
        optimiser: of its parameters.
        find_loss: from the twin's output to the loss, both tensors.
        inputs: tensors.
        steps: in one timed call.
        before_step: what `train` does before every step.
    """
    twin.train()

    def take_step() -> float:
        before_step()
        optimiser.zero_grad(set_to_none=True)
        loss = find_loss(twin(*inputs))
        loss.backward()
        optimiser.step()
        return loss.item()

    return repeat_steps(take_step, steps)


def repeat_steps(take_step: Callable[[], float], steps: int) -> Contender:
    """Return the side whose steps return a loss each."""
    return Contender(
        prove=lambda: [np.array([take_step()]) for _ in range(PROOF_STEPS)],
        work=lambda: [take_step() for _ in range(steps)],
        units=steps,
    )


def predict(run: Callable[[], np.ndarray]) -> Contender:
    """Return the side that predicts: `run` returns the result as an array."""
    return Contender(prove=lambda: [run()], work=run)
