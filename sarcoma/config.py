"""Every number of the sarcoma networks and of their released code, once, with its source.

Files named below belong to jchen42703/segmenting-sts at 9e1cf4a. Ledger ids [S1]... are explained
in README.md. Sizes in pixels of the 5 mm grid.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Preset = Literal["paper", "code", "port", "quick"]
"""paper: what the architecture papers and the README state; code: what the released code does;
port: what we recommend; quick: the port made small."""
Architecture = Literal["unet2d", "cascade", "dilated"]

POSITIVE_SLICES = {
    "STS_002": (53, 63),
    "STS_003": (9, 24),
    "STS_005": (90, 123),
    "STS_012": (11, 39),
    "STS_021": (150, 189),
    "STS_023": (121, 172),
    "STS_031": (11, 41),
}
"""Slices [start, stop) that hold all of a patient's lesion (preprocess.py)."""

PATCH = 56
"""Edge of a patch, the input of the U-Net and of the cascade's first stage (preprocess.py)."""
LABEL = 28
"""Edge of the central label patch, and of the cascade's second input (preprocess.py)."""
MARGIN = 372
"""Pixels that the dilated network's input is larger than its output."""


DATA = Path("input/lab_petct_vox_5.00mm.h5")
"""Where the original looks for its data, relative to the working directory."""
AXES = " yx"
"""Of flips: the networks see slices, whose order means nothing to them."""
ALIKE = ("modalities", "test_slices")
"""Fields that the runs of an ensemble share."""
RUN = Path("runs/sarcoma")
"""Run folder where none is named."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the outcome of a run of this paper."""

    architecture: Architecture = "unet2d"
    """Which of the three networks of models/model.py."""

    # Data
    modalities: tuple[str, ...] = ("ct", "pet")
    """[S23] Channels of the network; the code cuts patches of both and trains on CT alone."""
    standardise: Literal["slice", "patient"] = "patient"
    """[S30] What gets zero mean and unit variance at a time; by slice, as in the code, the height
    of an uptake is lost, and noise in an empty slice is raised to that of a full one."""
    training_patients: tuple[str, ...] = ("STS_002", "STS_005", "STS_021", "STS_023")
    """Patients that are trained on (preprocess.py; there STS_031 as well)."""
    validation_patients: tuple[str, ...] = ("STS_031",)
    """[S2] Patients watched while training."""
    test_patients: tuple[str, ...] = ("STS_003", "STS_012")
    """Patients that are predicted and evaluated (preprocess.py)."""
    training_slices: Literal["window", "all"] = "all"
    """[S24] Slices that patches are drawn from: those of the positive window, or all."""
    test_slices: Literal["window", "all"] = "all"
    """[S24] Slices that are predicted; the window is only known from the labels."""
    balance: bool = True
    """[S25] As many patches around background as around lesion; without it every patch."""
    avid_share: float = 0.5
    """[S28] Share of the background patches that is cut around voxels far above the mean
    (in the last modality), as organs with uptake are."""
    split_index: int = 33822
    """[S2] Patches before this place of the shuffled pool are trained on (train.py); of a smaller
    pool the same share."""
    validation: Literal["patches", "patients"] = "patients"
    """[S2] Watch the rest of the same pool, as the code, or whole patients that are held out."""
    centre_index: int = 27
    """[S3] Pixel of a patch whose label is the patch's class; 27 is the voxel the patch is cut
    around, 28, the code's, its neighbour."""
    pad_small_slices: bool = False
    """[S26] Accept slices smaller than the patch; zeros surround them, as in the code."""

    # Augmentation
    augment: bool = True
    """Random flips of rows and of columns (train.py)."""
    flip_labels: bool = True
    """[S1] Flip the labels with the image; Keras' generator flips the image alone."""
    augment_validation: bool = False
    """[S1] The code flips its validation patches too, again without their labels."""

    # U-Net
    label_geometry: Literal["half", "pooled", "centre"] = "centre"
    """[S4] How the output meets the 28 x 28 central labels: a half-resolution view of the whole
    patch, taken as if it were the centre (half: train.py; pooled: the notebook's, one more decoder
    level and a pooling), or the full-resolution centre itself."""
    filters: tuple[int, ...] = (32, 64, 128, 256)
    """Channels of the U-Net's levels (models/model.py)."""
    batch_normalisation: bool = False
    """After every ReLU of a 3 x 3 convolution; the notebook of the other branch has it."""

    # Cascade
    two_path: bool = True
    """[S11] The 13 x 13 path sees the input, as in Havaei's paper; in the code it sees what the
    local path ends with."""
    cascade_filters: tuple[int, int, int] = (64, 64, 160)
    """Maps of local path 1 and 2 and of the 13 x 13 path (models/model.py)."""
    maxout_pieces: int = 4
    """Maps that a maxout takes the largest of (models/model.py)."""

    # Dilated network
    dilated_filters: tuple[int, ...] = (64, 128, 256, 512, 512, 4096)
    """Channels of the five blocks and of fc6 and fc7 (models/model.py)."""
    dilated_input: int = 404
    """[S12] Edge of the training input, at least 380; 404 gives 32 x 32 outputs."""
    context_init: Literal["identity", "glorot"] = "identity"
    """[S14] Start of the context layers; the paper asks for the identity."""
    context_upsampling: Literal["bilinear", "random"] = "bilinear"
    """[S13] The fixed enlargement at the end; the code freezes a random kernel."""
    dropout: float = 0.5
    """Rate after fc6 and fc7 (models/model.py)."""

    # Optimisation
    batch_size: int = 18
    """Patches per step (train.py)."""
    epochs: int = 5
    """At most (train.py)."""
    steps_per_epoch: int | None = None
    """Steps between two looks at the validation; None: one pass over the training patches."""
    learning_rate: float = 1e-5
    """Adam, constant (train.py)."""
    early_stopping: Literal["loss", "val_loss", "off"] = "loss"
    """[S17] What must keep falling; the code watches the training loss."""
    min_delta: float = 3e-4
    """Fall of it that counts (train.py)."""
    patience: int = 2
    """Epochs without such a fall after which training ends (train.py)."""

    # Inference
    window_stride: int = 14
    """Pixels between neighbouring 28 x 28 outputs; where they overlap, they are averaged."""
    cascade_step: int = 4
    """Pixels between voxels that the cascade classifies; each stands for its neighbourhood."""
    windows_per_batch: int = 64
    """Patches per call of the network."""
    threshold: float = 0.5
    """Probability above which a voxel is lesion; the code has none."""


PORT = Config()
CODE = replace(
    PORT,
    modalities=("ct",),
    standardise="slice",
    training_patients=("STS_002", "STS_005", "STS_021", "STS_023", "STS_031"),
    validation_patients=(),
    training_slices="window",
    test_slices="window",
    avid_share=0.0,
    validation="patches",
    centre_index=28,
    pad_small_slices=True,
    flip_labels=False,
    augment_validation=True,
    label_geometry="half",
    two_path=False,
    context_init="glorot",
    context_upsampling="random",
)
PAPER = replace(
    CODE,
    flip_labels=True,
    augment_validation=False,
    two_path=True,
    context_init="identity",
    context_upsampling="bilinear",
)
QUICK = replace(
    PORT,
    filters=(8, 16, 32, 64),
    cascade_filters=(8, 8, 16),
    dilated_filters=(4, 8, 16, 32, 32, 64),
    dilated_input=404,
    epochs=8,
    steps_per_epoch=240,
    learning_rate=1e-3,
    window_stride=28,
    cascade_step=10,
)

PRESETS = {"paper": PAPER, "code": CODE, "port": PORT, "quick": QUICK}

INFERENCE_FIELDS = ("test_slices", "window_stride", "cascade_step", "windows_per_batch",
                    "threshold")  # fmt: skip
"""What may differ between training and inference: the network's weights do not depend on it."""
