"""Every number of the fetal-brain paper and of its released code, once, with its source.

Files named below belong to DLTK/models `fetal_brain_segmentation_mri` at 7fd907a unless a
library file of DLTK is named. Ledger ids [F1]... are explained in README.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from common.errors import OptionError

Preset = Literal["paper", "code", "port", "quick"]
"""paper: what the paper states; code: what the released code does; port: what we recommend;
quick: the port made small."""
SEGMENT = "brain"
"""What is found, as a DICOM Segmentation calls it."""
AXES = "zyx"
"""Of the arrays."""
ALIKE = ("label_ids",)
"""Fields that the runs of an ensemble share."""
RUN = Path("/tmp/fetal_segmentation")
"""Run folder where none is named; the original's --model_path."""
PHANTOM_SHAPE = (16, 144, 144)
"""Slices, rows, columns of a phantom where none are given."""
SPACING_TOLERANCE = 0.25
"""Share by which voxels of a scan may differ from those of the training."""
PLANE_MULTIPLE = 8
"""Rows and columns must halve three times on the way down (fetal_fcn.py)."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the outcome of a run of this paper."""

    # Data and labels
    label_ids: tuple[int | tuple[int, ...], ...] = (0, 2)
    """[F23] Label ids in the files, one entry per class; an entry may join several ids, as in
    (0, (1, 2, 3, 4)). Every other id becomes background (reader.py, map_labels)."""
    training_cases: int | None = None
    """Rows from the top of the list used for training; None: all that are not held out
    (train.py takes the first 30)."""
    validation_cases: int = 3
    """Rows just before the held-out ones, watched while training when training_cases is None."""
    held_out_cases: int = 7
    """[F12] Rows at the end of the list that are predicted and evaluated (deploy.py)."""
    allow_training_cases_in_test: bool = False
    """[F12] The original deploys on 7 rows although it trains on all but 6 of them."""

    # Network
    slices_as_channels: bool = False
    """[F26] The paper feeds three slices as channels and segments the middle one; the code puts
    them on a depth axis and segments all three (README of the original)."""
    batch_normalisation: bool = True
    """[F27] Before every ReLU and after every skip convolution; absent from the paper."""
    filters: tuple[int, ...] = (32, 32, 32, 32, 128)
    """Channels of the two convolutions of each scale (fetal_fcn.py)."""
    kernels: tuple[int, ...] = (5, 5, 5, 3, 1)
    """Edge of the cubic kernels of each scale (fetal_fcn.py)."""
    patch_shape: tuple[int, int, int] = (3, 128, 128)
    """Slices, rows, columns of a training patch (train.py)."""
    dropout: float = 0.5
    """[F2] Rate after each activation of the last scale; the code passes 0.5, which never acts."""
    l2_weight: float = 5e-4
    """[F1] Weight of sum(w**2)/2 over all convolution kernels; collected but never added to the
    loss by the code."""

    # Sampling and augmentation
    patches_per_volume: int = 20
    """Drawn from one pass over one volume, shared equally between the classes (train.py)."""
    offset_sigma: float = 1.0
    """[F18] Standard deviation of the intensity offset, in units of the whitened image."""
    augment_per_example: bool = True
    """[F15] One offset and flip for each patch, not for all patches of one pass over a volume."""
    shuffle_files: bool = True
    """[F14] A new order of the volumes at each pass; the code keeps the list's order."""
    restart_order_every_evaluation: bool = False
    """[F14] The code's input pipeline begins again at row 0 after each evaluation."""
    shuffle_window: int = 64
    """Patches in the shuffle buffer (train.py)."""
    pad_small_volumes: bool = True
    """[F10] [F11] Extend volumes smaller than the patch with the image's minimum and background
    labels; without it such a volume is refused."""

    # Optimisation
    batch_size: int = 10
    """Patches per step (train.py)."""
    learning_rate: float = 0.01
    """Constant (train.py)."""
    momentum: float = 0.9
    """Classical momentum, no Nesterov term (train.py)."""
    max_steps: int = 50_000
    """Optimiser steps of the whole run. [F21] A resumed run stops here too."""
    steps_per_evaluation: int = 500
    """Steps between two evaluations, called an epoch here (train.py)."""
    validation: Literal["patch_batch", "volumes"] = "volumes"
    """[F20] One batch of random patches from the first volumes (the code), or the brain Dice of
    every validation volume, segmented whole."""

    # Inference
    window: tuple[int, int, int] = (3, 384, 384)
    """Largest window the network is applied to. In plane, a volume that is smaller gets one window
    of its own size, rounded up to a multiple of 8."""
    window_stride: tuple[int, int, int] = (1, 320, 320)
    """Step between windows; the code takes half a window, at least one voxel (DLTK utils.py)."""
    windows_per_batch: int = 4
    """Windows per call of the network (deploy.py: 32)."""
    count_last_window_twice: bool = False
    """[F5] The original predicts its last window of a volume again and adds it twice."""
    output_label_ids: bool = True
    """[F8] Write the label file's ids (0 and 2) instead of class numbers (0 and 1)."""

    def __post_init__(self) -> None:
        """Refuse numbers that no run could be made of.

        Raises:
            OptionError: names the field, what was found and what was expected.
        """
        for name in ("batch_size", "max_steps", "steps_per_evaluation", "windows_per_batch"):
            if getattr(self, name) < 1:
                raise OptionError(f"--{name}: found {getattr(self, name)}; expected 1 or more")


def input_shape(config: Config, size: Sequence[int | None] | None = None) -> tuple:
    """Return the network's input (z, y, x, channels) for slices, rows, columns; None: a patch.

    [F26] The paper's network sees neighbouring slices as channels and segments the middle one.
    """
    slices, rows, columns = size or config.patch_shape
    return (1, rows, columns, slices) if config.slices_as_channels else (slices, rows, columns, 1)


PORT = Config()
CODE = replace(
    PORT,
    training_cases=30,
    validation_cases=0,
    allow_training_cases_in_test=True,
    dropout=0.0,
    l2_weight=0.0,
    augment_per_example=False,
    shuffle_files=False,
    restart_order_every_evaluation=True,
    pad_small_volumes=False,
    validation="patch_batch",
    window=(3, 128, 128),
    window_stride=(1, 64, 64),
    windows_per_batch=32,
    count_last_window_twice=True,
    output_label_ids=False,
)
PAPER = replace(
    CODE,
    allow_training_cases_in_test=False,
    training_cases=None,
    slices_as_channels=True,
    batch_normalisation=False,
    dropout=0.5,
    l2_weight=5e-4,
    count_last_window_twice=False,
)
QUICK = replace(
    PORT,
    validation_cases=1,
    held_out_cases=3,
    filters=(8, 8, 16, 16, 32),
    dropout=0.2,
    # So few steps of so small batches need a gentler offset: normalisation's averages lag behind.
    offset_sigma=0.1,
    batch_size=4,
    learning_rate=0.02,
    max_steps=300,
    steps_per_evaluation=60,
)

PRESETS = {"paper": PAPER, "code": CODE, "port": PORT, "quick": QUICK}

INFERENCE_FIELDS = ("pad_small_volumes", "window", "window_stride", "windows_per_batch",
                    "count_last_window_twice", "output_label_ids")  # fmt: skip
"""What may differ between training and inference: the network's weights do not depend on it."""
