"""Every number of the vertebra paper and of its released code, once, with its source.

Files named below belong to leohsuofnthu/Pytorch-IterativeFCN at c9a1094. Ledger ids [V1]... are
explained in README.md. Lengths are voxels of the isotropic grid unless the name says otherwise.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Preset = Literal["paper", "code", "port", "quick"]
"""paper: what the paper states; code: what the released code does; port: what we recommend;
quick: the port made small."""
Layout = Literal["csi", "verse", "nnunet"]
"""csi: one flat folder, the paper's; verse: VerSe's rawdata and derivatives; nnunet: dataset.json,
imagesTr and labelsTr."""

SEGMENT = "vertebra"
"""What is found, as a DICOM Segmentation calls it."""
AXES = "zyx"
"""Of the arrays."""
ALIKE = ("spacing_mm", "patch_size")
"""Fields that the runs of an ensemble share."""
RUN = Path("weights")
"""Run folder where none is named; the original's --weight and --checkpoints."""
PHANTOM_SHAPE = (120, 112, 112)
"""Slices, rows, columns of a phantom where none are given."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the outcome of a run of this paper."""

    # Preparation
    spacing_mm: float = 1.0
    """Edge of the voxels that everything works on (data/preprocessing.py)."""
    image_interpolation: Literal["nearest", "linear", "bspline"] = "linear"
    """[V24] How scans are resampled; masks always by nearest neighbour."""
    outside: Literal["zero", "minimum"] = "minimum"
    """[V24] What a resampled voxel beyond the scan gets."""
    intensity: Literal["as_is", "detect", "hu", "unsigned"] = "detect"
    """[V34] The weights know unsigned values, air near 0 and water near 1024. hu: scans are in
    Hounsfield units and get 1024 added; negative values that remain become 0. detect: each scan's
    voxels tell, or it is refused."""
    split_by_id: bool = False
    """[V25] Train on ids below int(cases * split_ratio), as the code; else on the first cases."""
    split_ratio: float = 0.8
    """Share of the cases that is trained on (data/preprocessing.py)."""
    keep_geometry: bool = True
    """[V21] Keep the scan's place in cropped volumes and predictions."""
    weight_alpha: float = 1.0
    """Weight of a voxel far from any surface (data/preprocessing.py)."""
    weight_beta: float = 8.0
    """Additional weight at a surface."""
    weight_omega: float = 6.0
    """Distance scale of the weights."""
    weights: Literal["union", "target"] = "union"
    """[V26] Surfaces that weigh: of all vertebrae together, or of the one to be found."""

    # Network
    channels: int = 64
    """[V5] Of all blocks but the last (iterativeFCN.py; train.py builds 4)."""
    patch_size: int = 128
    """Edge of the cube that the network sees; a power of two."""
    inference_statistics: Literal["batch", "moving", "per_site"] = "per_site"
    """[V1] [V2] [V3] Normalisation at inference: statistics of the patch itself (batch), the moving
    average over all sites (moving), or fixed ones for each site (per_site)."""
    validation_statistics: Literal["batch", "moving", "per_site"] = "per_site"
    """[V1] The same while training; the code looks with moving averages and predicts without."""
    calibration_patches: int = 24
    """[V2] Training patches that the statistics of the sites are averaged over."""

    # Sampling and augmentation
    empty_every: int = 5
    """[V29] Every so many patches all vertebrae are in the memory and nothing is to be found."""
    window_limits: Literal["x_size", "per_axis"] = "per_axis"
    """[V7] The code keeps patches inside by the x size on every axis."""
    count_before_stretch: bool = True
    """[V8] Completeness by what is visible before the z-crop is stretched."""
    complete_fraction: float = 0.98
    """Visible share of a vertebra from which it counts as complete (data/dataset.py)."""
    elastic_alpha: float = 300.0
    """[V9] Strength of the deformation: 300 moves voxels by 2.3 (standard deviation), the code's 20
    by 0.15."""
    elastic_sigma: float = 5.0
    """Smoothness of the deformation."""
    integer_blur: bool = False
    """[V27] Blur integer images with truncation after each axis."""
    noise_sigma: float = 15.811388
    """50 * sqrt(0.1) (data/data_augmentation.py)."""
    crop_slices: int = 80
    """Slices that the z-crop keeps and stretches to a whole patch."""

    # Optimisation
    learning_rate: float = 1e-3
    """Adam (train.py)."""
    learning_rate_steps: tuple[int, ...] = (10_000, 20_000)
    """[V33] Steps after which the rate is a tenth of what it was (README: by hand)."""
    false_positive_weight: float = 0.1
    """Of the false positives in the loss (utils/metrics.py)."""
    completeness_weight: float = 1000.0
    """[V35] Of the completeness in the loss; the mask's part is 1e4 and more."""
    memory_gain: float = 1000.0
    """[V38] The first kernels begin so much larger for the memory, which is 0 or 1, than for the
    image, which is 0 to 4095."""
    sparse_begin: bool = True
    """[V38] The last normalisation begins with scale 4 and shift -4, where the released weights
    ended (4.16 and -4.03), instead of 1 and 0: a mask of few voxels, not of half of them. The
    convolution before it begins as the identity."""
    fix_statistics_after: int | None = 15_000
    """[V2] Training step from which the statistics of the patch give way to those of the sites, so
    that training ends with what inference uses; None: never."""
    fix_statistics_over: int = 5_000
    """[V2] Steps that this takes, best at a lowered learning rate; then the statistics of the sites
    stay as they are."""
    max_steps: int = 25_000
    """[V33] Training steps of one patch each (README: about 25 000)."""
    steps_per_evaluation: int = 500
    """[V18] Steps between two looks at the test patches; the code's --log_interval is 2."""
    eval_iters: int = 8
    """[V19] Test patches looked at (the code: 1)."""

    # Inference
    traversal: Literal["code", "port"] = "port"
    """[V10] [V11] [V12] [V13] [V14] [V15] [V16] The released search, or the mended one."""
    step: int = 64
    """[V30] Between windows of the search; the original's --patch_size sets twice this."""
    sigma: int = 2
    """Largest move of the centre, per axis, that counts as arrived."""
    min_vol: int = 1000
    """Voxels that a find must exceed."""
    max_alter: int = 20
    """Moves after which the search is forced to an end."""
    max_vertebrae: int = 30
    """[V16] The search ends after so many."""
    completeness_threshold: float = 0.5
    """Of the completeness output (train.py rounds it)."""
    remove_incomplete: bool = True
    """[V17] Leave vertebrae that the network calls incomplete out of the result."""
    largest_piece: bool = True
    """[V41] Only the largest connected piece of an answer counts and is written."""
    skip_air: bool = False
    """Do not ask the network about windows without enough voxels denser than air."""


PORT = Config()
PAPER = replace(
    PORT,
    image_interpolation="nearest",
    elastic_alpha=20.0,
    completeness_weight=1.0,
    memory_gain=1.0,
    sparse_begin=False,
    fix_statistics_after=None,
    inference_statistics="batch",
    validation_statistics="batch",
    learning_rate_steps=(),
    largest_piece=False,
)
CODE = replace(
    PAPER,
    outside="zero",
    intensity="as_is",
    split_by_id=True,
    keep_geometry=False,
    validation_statistics="moving",
    window_limits="x_size",
    count_before_stretch=False,
    integer_blur=True,
    max_steps=20,
    steps_per_evaluation=2,
    eval_iters=1,
    traversal="code",
    remove_incomplete=False,
)
QUICK = replace(
    PORT,
    spacing_mm=3.0,
    channels=16,
    patch_size=32,
    step=16,
    min_vol=37,
    crop_slices=20,
    elastic_alpha=80.0,
    weight_omega=2.0,
    learning_rate=4e-3,
    learning_rate_steps=(550,),
    # Voxels of 3 mm: with 0.1 masks reach a voxel too far on all sides.
    false_positive_weight=0.2,
    completeness_weight=100.0,
    # Its completeness is right for two patches of three only.
    remove_incomplete=False,
    max_steps=1200,
    fix_statistics_after=600,
    fix_statistics_over=300,
    steps_per_evaluation=200,
    eval_iters=10,
    max_vertebrae=12,
)

PRESETS = {"paper": PAPER, "code": CODE, "port": PORT, "quick": QUICK}

INFERENCE_FIELDS = (
    "inference_statistics", "traversal", "step", "sigma", "min_vol", "max_alter", "max_vertebrae",
    "completeness_threshold", "remove_incomplete", "largest_piece", "skip_air",
)  # fmt: skip
"""What may differ between training and inference: the network's weights do not depend on it."""
