"""Every number of the synovitis paper, of its older draft and of its released code, once.

Files named below belong to cosmicac/ucsf-mri-seg at d4a278e. "paper" is `paper/raseg.pdf`, the
final text; "draft" is `paper/raseg.tex`, an older one. Ledger ids [R1]... are explained in
README.md.
"""

from dataclasses import dataclass, replace
from typing import Literal

from common.errors import OptionError

Preset = Literal["paper", "code", "port", "draft", "quick"]
"""paper: the final text; code: what the released code does; port: what we recommend; draft: the
older text (patches, two tasks); quick: the port made small."""

VOLUME_SHAPE = (512, 512, 20)
"""Rows, columns, slices of the original's volumes; the port takes any size [R16]."""
TRAINING_VOLUMES = 51
"""Volumes that the original trains on (raseg_input.py)."""
PHANTOM_SHAPE = (96, 96, 20)
"""Rows, columns, slices of a phantom where none are given."""
PHANTOM_TRAINING_VOLUMES = 8
"""Of the twelve phantoms of `reproduce --preset quick`: three are held out and one is watched."""
CHANNELS = {"synovitis": ("post", "pre"), "bme": ("t2",)}
"""Images of a volume by task: after and before gadolinium [R25], or one T2 scan."""
AXES = "yxz"
"""Of the arrays: row, column, slice."""
ALIKE = ("task",)
"""Fields that the runs of an ensemble share."""
RUN = None
"""Run folder where none is named: there is none, a command has to name it."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the outcome of a run of this paper."""

    # Data
    task: Literal["synovitis", "bme"] = "synovitis"
    """[R25] Synovitis from T1 before and after contrast, or bone marrow oedema from T2."""
    patch_shape: tuple[int, int, int] | None = None
    """[R26] Rows, columns, slices of a training patch; None: whole volumes."""
    patches_per_volume: int = 100
    """Cut when the binaries are written, half of them around a foreground voxel (draft)."""
    validation_volumes: int = 3
    """[R12] Volumes just before the held-out ones that are written to a binary of their own and
    watched while training; the original forgot to write any."""
    wrap_intensities: bool = False
    """[R4] Write intensities outside 0..65535 modulo 65536, as the original; else refuse them."""
    read_as_signed: bool = False
    """[R4] Read the 16-bit words as signed, so that 40000 becomes -25536 (raseg_input.py)."""
    predict_from_stored: bool = True
    """[R6] Truncate intensities at prediction as the binaries do; the original does not."""

    # Network
    filters: tuple[int, ...] = (32, 64, 128, 256, 512)
    """[R28] Channels of each level (raseg_model.py)."""
    top_kernels: tuple[int, int] = (5, 5)
    """[R38] Edge of the kernels at full resolution, on the way down and up; 3 elsewhere."""
    batch_statistics: bool = False
    """[R29] Normalise by the batch's own moments after every ReLU, at prediction too."""
    relu_logits: bool = False
    """[R2] Pass the logits through a ReLU, as the original; heads can die of it."""

    # Augmentation
    augment: bool = True
    """[R3] Distort volumes while training; the original's condition for it is never true."""
    point_noise_px: float = 1.0
    """Noise on three points 25 pixels apart that define the affine map (raseg_input.py)."""
    rotation_degrees: float = 10.0
    """Largest in-plane rotation, either way."""
    mirror: bool = True
    """Swap left and right half of the time (an older commit of the original)."""

    # Optimisation
    batch_size: int = 1
    """[R31] Volumes or patches per step."""
    learning_rate: float = 1e-4
    """[R30] At the first step (raseg_model.py)."""
    decay_factor: float = 0.15
    """[R30] What the rate is multiplied with at every drop."""
    epochs_per_decay: int = 4
    """[R30] Epochs between drops where `drops` is None."""
    examples_per_epoch: int | None = None
    """Examples the schedule counts as an epoch; None: those there are (raseg_input.py: 51)."""
    drops: int | None = 2
    """[R20] Drops of the rate, spread evenly over the run; None: one every `epochs_per_decay`
    epochs, however long the run is."""
    adam_epsilon: float = 1e-4
    """[R32] Outside the bias correction, as TensorFlow 1 and Keras have it."""
    ema_decay: float = 0.9999
    """[R8] Largest decay of the running mean of the weights, which predicts [R36]."""
    dice_smooth_numerator: float = 0.0
    """[R33] Added to the numerator of the Dice loss."""
    dice_smooth_denominator: float = 1e-5
    """[R33] Added to its denominator."""
    epochs: int | None = 20
    """[R20] Passes over the training set; None: `max_steps` decides alone."""
    max_steps: int | None = None
    """[R20] Optimiser steps of the whole run (raseg_train.py: 1 000 000)."""
    shuffle: Literal["files", "records"] = "records"
    """[R17] Shuffle the five files and read each in order (the original), or every record."""
    rematerialise: bool = True
    """Compute activations of large volumes again in the backward pass instead of keeping them: the
    same gradient, less memory, up to a third more work."""


PORT = Config()
CODE = replace(
    PORT,
    validation_volumes=0,
    wrap_intensities=True,
    read_as_signed=True,
    predict_from_stored=False,
    relu_logits=True,
    augment=False,
    examples_per_epoch=51,
    drops=None,
    epochs=None,
    max_steps=1_000_000,
    shuffle="files",
)
PAPER = replace(CODE, batch_statistics=True)
DRAFT = replace(
    CODE,
    patch_shape=(128, 128, 16),
    filters=(32, 64, 128, 256),
    batch_size=8,
    learning_rate=1e-3,
    decay_factor=0.25,
    epochs_per_decay=10,
    examples_per_epoch=2400,
    dice_smooth_numerator=1e-5,
)
QUICK = replace(
    PORT,
    validation_volumes=1,
    filters=(8, 16, 32, 32, 64),
    learning_rate=2e-3,
    epochs=30,
    rematerialise=False,
)

PRESETS = {"paper": PAPER, "code": CODE, "port": PORT, "draft": DRAFT, "quick": QUICK}


def count_steps(config: Config, examples: int) -> int:
    """Return the optimiser steps of a run on so many records; the smaller limit counts.

    `OptionError`: neither limit is given.
    """
    limits = [] if config.max_steps is None else [config.max_steps]
    if config.epochs is not None:
        limits.append(config.epochs * steps_per_epoch(config, examples))
    if not limits:
        raise OptionError("--epochs and --max_steps are both null; expected at least one")
    return min(limits)


def steps_per_epoch(config: Config, examples: int) -> int:
    """Return the steps of one pass over the training set, at least one."""
    return max(examples // config.batch_size, 1)


def count_decay_steps(config: Config, examples: int) -> int:
    """Return the steps between two drops of the learning rate, training on so many records.

    Source: raseg_model.py, `train`; ledger R9, R20.
    """
    if config.drops is not None:
        # [R20] Sized to the run: the rate cannot vanish long before the run ends.
        return max(-(-count_steps(config, examples) // (config.drops + 1)), 1)
    # [R9] Python 2 divides whole numbers first: 51 // 2 * 4 is 100, not 102.
    counted = examples if config.examples_per_epoch is None else config.examples_per_epoch
    return max(counted // config.batch_size * config.epochs_per_decay, 1)
