"""How the network learns: its losses and measures, and the patches its statistics come from."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

from common.data.prepared_store import PreparedCase
from common.errors import OptionError
from common.network.losses import stable_sum
from vertebra.config import Config
from vertebra.losses import completeness_loss, make_mask_loss
from vertebra.model import build_model, make_optimizer, normalisations
from vertebra.original_weights import assign_optimizer, assign_original, is_snapshot, read_original
from vertebra.sampling import CALIBRATION, TrainingSampler


def compile_model(model: keras.Model, config: Config, *, xla: bool) -> None:
    """Give the network its optimiser, losses and the measures shown while training.

    The target of `mask` has two channels: the mask and the weights of its voxels. Source: train.py;
    utils/metrics.py.
    """
    model.compile(
        optimizer=make_optimizer(config),
        loss={"mask": make_mask_loss(config), "completeness": completeness_loss},
        # [V35] Two unlike terms are added: 1e4 to 2.5e5, and about 1.
        loss_weights={"mask": 1.0, "completeness": config.completeness_weight},
        metrics={"mask": [patch_dice], "completeness": [agreement]},
        jit_compile=xla,
    )


def refuse_replicas(runtime: Mapping) -> None:
    """Refuse several devices: they share a batch, and every step here trains on one patch."""
    if runtime.get("replicas", 1) > 1:
        raise OptionError(
            f"--strategy {runtime['strategy']}: found {runtime['replicas']} devices, but each step "
            "of this paper trains on one patch, which they cannot share; expected one device: "
            "leave --strategy out, or give each device a run of its own"
        )


def choose_begin(model: keras.Model, config: Config) -> None:
    """Change fresh weights so that training begins nearer to its end [V38].

    The first kernels for the memory are multiplied by `memory_gain`. With `sparse_begin` the last
    normalisation begins with the scale and shift of a mask of few voxels, and the convolution of
    one channel before it as the identity: with random weights it may be 0 everywhere, for good.
    """
    if config.sparse_begin:
        conv, last = model.get_layer("conv_final").conv_3, model.get_layer("conv_final").norm_5
        identity = np.zeros(conv.kernel.shape, np.float32)
        identity[1, 1, 1] = 1.0
        conv.kernel.assign(identity)
        conv.bias.assign([0.0])
        last.gamma.assign([4.0])
        last.beta.assign([-4.0])
    kernel = model.get_layer("conv_initial").conv_0.kernel
    gain = np.array([1.0, config.memory_gain], np.float32)[:, None]
    kernel.assign(np.asarray(kernel) * gain)


class FixStatistics(keras.callbacks.Callback):
    """Lets the statistics of the sites take the place of the patch's, little by little [V2].

    Suddenly done, it kills the single channel of the last block. The share depends on the step
    alone, so that a resumed run goes on alike.
    """

    def __init__(self, config: Config):
        super().__init__()
        self._after, self._over = config.fix_statistics_after, config.fix_statistics_over
        self._share = None

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Set the share of the coming step."""
        if self._after is None:
            return
        share = fixed_share(int(self.model.optimizer.iterations.numpy()), self._after, self._over)
        if share != self._share:
            self._share = share
            for _, layer in normalisations(self.model):
                layer.fixed.assign(share)


def fixed_share(step: int, after: int, over: int) -> float:
    """Return 0 until `after`, then rising to 1 within `over` steps."""
    return min(max((step - after) / max(over, 1), 0.0), 1.0)


def is_fixed(model: keras.Model) -> bool:
    """Say whether a model is trained with the statistics of its sites."""
    return all(layer.fixed.numpy() >= 1 for _, layer in normalisations(model))


def patch_dice(y_true, y_pred):
    """Dice of a patch after thresholding; both masks are inverted where the target is empty.

    `y_true` holds target and weight (batch, z, y, x, 2), `y_pred` probabilities (batch, z, y, x,
    1). Source: utils/metrics.py, DiceCoeff; both empty is 1.
    """
    target = ops.cast(y_true[..., :1] > 0.5, "float32")
    found = ops.cast(y_pred > 0.5, "float32")
    empty = ops.equal(stable_sum(target), 0.0)
    target = ops.where(empty, 1.0 - target, target)
    found = ops.where(empty, 1.0 - found, found)
    return 2.0 * stable_sum(target * found) / (stable_sum(target) + stable_sum(found))


def agreement(y_true, y_pred):
    """Return whether the completeness, rounded, is right."""
    return ops.cast(ops.equal(y_true > 0.5, y_pred > 0.5), "float32")


def calibration_patches(
    cases: Sequence[PreparedCase], config: Config, seed: int
) -> Iterator[np.ndarray]:
    """Yield the unchanged training patches that the statistics of the sites are taken from [V2]."""
    sampler = TrainingSampler(cases, config, seed=seed, augment=False, stream=CALIBRATION)
    for index in range(config.calibration_patches):
        yield sampler(index)[0]


def build_for_training(config: Config, *, xla: bool, original: Path | None) -> keras.Model:
    """Build and compile the network with fresh weights [V38], or those of an original's file.

    A snapshot of the original also brings Adam's moments and step.
    """
    model = build_model(config)
    compile_model(model, config, xla=xla)
    if original is None:
        choose_begin(model, config)
        return model
    assign_original(model, read_original(original), source=str(original))
    if is_snapshot(original):
        assign_optimizer(model.optimizer, model, original)
    return model
