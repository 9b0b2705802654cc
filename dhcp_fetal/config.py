"""Every number of the fetal system and of the engine under it, once, with its source.

The system (afetit/fetal-mri-segmentation at 409a7b) is two networks of one shape run by DeepMedic.
"cgm cfg" below is its `cgm_model_config.cfg`; names in camelCase are keys of the engine's
configuration files; "example cfg" is the training example of DeepMedic v0.7.0, taken as default
because the fetal training was not published. Ledger ids [D1]... and [G1]... are explained in
README.md.
"""

from dataclasses import dataclass, replace
from typing import Literal

from dhcp_fetal.geometry import Triple, check_architecture

Preset = Literal["paper", "code", "port", "quick"]
"""paper: what the papers state; code: what the released code does; port: what we recommend; quick:
the port made small."""
Compat = Literal["v0.7.0", "v0.8.4"]
Padding = Literal["valid", "zero", "mirror"]
Activation = Literal["linear", "relu", "prelu", "elu"]
Sampling = Literal["foreground_background", "uniform", "whole_image", "per_class"]
MeanStd = tuple[float, float]
Turns = tuple[float, float, float, float]


SEGMENT = "structure"
"""What is found, as a DICOM Segmentation calls it: the run knows no name."""
AXES = "xyz"
"""Of the arrays."""
ALIKE = ("classes", "input_channels")
"""Fields that the runs of an ensemble share."""
RUN = None
"""Run folder where none is named: there is none, a command has to name it."""
PHANTOM_SHAPE = (92, 110, 92)
"""Voxels (x, y, z) of a phantom where none are given."""


@dataclass(frozen=True)
class Config:
    """Everything that decides the outcome of a run of this paper.

    Raises:
        OptionError: fields that cannot belong to one network (see `geometry.check_architecture`).
    """

    compat: Compat = "v0.8.4"
    """Engine whose behaviour is followed where versions differ: v0.7.0 trained the published
    weights. [D3] [D4] the first fully connected block, [D5] [G27] context in training,
    [D7] absent channels, [D10] shares of the cases, [D11] flips."""

    # Network
    model_name: str = "deepmedic"
    """modelName; begins the names of checkpoints."""
    classes: int = 2
    """numberOfOutputClasses, background included (cgm cfg)."""
    label_ids: tuple[int | tuple[int, ...], ...] | None = None
    """Ids in the label files, one entry per class, which may join several, as in [0, [5, 6]]; every
    other id is background. None: the files hold class numbers, as the engine has it."""
    input_channels: int = 1
    """numberOfInputChannels: T2w (cgm cfg)."""
    filters: tuple[int, ...] = (30, 30, 40, 40, 40, 40, 50, 50)
    """numberFMsPerLayerNormal (cgm cfg)."""
    kernels: tuple[Triple, ...] = ((3, 3, 3),) * 8
    """kernelDimPerLayerNormal (cgm cfg)."""
    padding: tuple[Padding, ...] = ("valid",) * 8
    """padTypePerLayerNormal, spelt one way. [G15]"""
    residual_layers: tuple[int, ...] = (4, 6, 8)
    """layersWithResidualConnNormal: layer n adds the input of layer n-1; from 1 (cgm cfg)."""
    context_factors: tuple[Triple, ...] = ((3, 3, 3), (5, 5, 5))
    """subsampleFactor, one low-resolution pathway each; empty: none (cgm cfg)."""
    context_filters: tuple[tuple[int, ...], ...] = ((30, 30, 40, 40, 40, 40, 50, 50),) * 2
    """numberFMsPerLayerSubsampled, one list per pathway (cgm cfg)."""
    context_kernels: tuple[Triple, ...] = ((3, 3, 3),) * 8
    """kernelDimPerLayerSubsampled; their receptive field equals the normal one (cgm cfg)."""
    context_padding: tuple[Padding, ...] = ("valid",) * 8
    """padTypePerLayerSubsampled."""
    context_residual_layers: tuple[int, ...] = (4, 6, 8)
    """layersWithResidualConnSubsampled (cgm cfg)."""
    fc_filters: tuple[int, ...] = (250, 250)
    """numberFMsPerLayerFC: hidden layers after the pathways are joined (cgm cfg)."""
    fc_kernels: tuple[Triple, ...] = ((3, 3, 3), (1, 1, 1), (1, 1, 1))
    """[D1] kernelDimFor1stFcLayer, or kernelDimPerLayerFC; the last is the classifier's."""
    fc_padding: tuple[Padding, ...] = ("mirror", "valid", "valid")
    """[D1] Always mirror in v0.7.0, padTypePerLayerFC in v0.8.4."""
    fc_residual_layers: tuple[int, ...] = (2,)
    """layersWithResidualConnFC (cgm cfg)."""
    train_segment: Triple = (25, 25, 25)
    """segmentsDimTrain, voxels (cgm cfg)."""
    validation_segment: Triple = (17, 17, 17)
    """segmentsDimVal, voxels (cgm cfg)."""
    inference_segment: Triple = (45, 45, 45)
    """[G5] segmentsDimInference, voxels: another size moves about 2 % of the labels (cgm cfg)."""
    dropout: tuple[float, ...] = ()
    """dropoutRatesNormal, one rate per layer; empty: none (cgm cfg)."""
    context_dropout: tuple[float, ...] = ()
    """dropoutRatesSubsampled (cgm cfg)."""
    fc_dropout: tuple[float, ...] = (0.0, 0.5, 0.5)
    """[G21] dropoutRatesFc: rates that scale inference, too (cgm cfg)."""
    activation: Activation = "prelu"
    """[G28] activationFunction (cgm cfg); selu and low-rank layers are not built."""
    initialisation: Literal["fan_in", "normal"] = "fan_in"
    """convWeightsInit: variance scale / fan-in, or a fixed standard deviation (cgm cfg)."""
    initialisation_scale: float = 2.0
    """convWeightsInit, second entry."""
    rolling_batches: int = 60
    """[G10] rollAverageForBNOverThatManyBatches: training steps whose statistics inference
    averages; 0: biases instead of batch normalisation (cgm cfg)."""
    centred_context: bool = False
    """[G3] Centre the first context voxel on its block of voxels. The engine puts it on the block's
    first voxel; weights learn that."""
    align_context_at_border: bool = False
    """[G4] Keep the context's grid where it begins outside the image. The engine starts it anew at
    voxel 0, up to factor-1 voxels off."""

    # Data
    validation_cases: int = 0
    """Rows of a table just before the held-out ones; the original's files list both by name."""
    held_out_cases: int = 0
    """Rows at the end of a table that are kept for testing."""

    # Preparation of a case
    normalisation: Literal["none", "volume", "brain"] = "brain"
    """[G25] [G29] Mean 0 and deviation 1 over the whole volume, background included
    (normalise_t2w_images.py), or over the region of interest where there is one; none: as read."""
    pad_inputs: bool = True
    """[G26] padInputImagesBool: reflect the image by the network's margin; without it the margin
    stays unpredicted."""
    zscore_channels: tuple[bool, ...] | Literal["all", "none"] = "none"
    """norm_zscore_prms: which channels are normalised by the engine, after padding. [G29]"""
    zscore_percentiles: tuple[float, float] | None = None
    """cutoff_percents of the voxels in the mask."""
    zscore_deviations: tuple[float, float] | None = None
    """cutoff_times_std below and above the mean in the mask."""
    zscore_above_mean: bool = False
    """cutoff_below_mean: only voxels above the whole image's mean count."""

    # Sampling
    sampling: Sampling = "foreground_background"
    """[D9] typeOfSamplingForTraining (example cfg: half and half)."""
    sampling_proportions: tuple[float, ...] | None = None
    """proportionOfSamplesToExtractPerCategoryTraining; None: equal."""
    epochs: int = 35
    """numberOfEpochs (example cfg)."""
    subepochs: int = 20
    """numberOfSubepochs per epoch (example cfg)."""
    cases_per_subepoch: int = 50
    """numOfCasesLoadedPerSubepoch (example cfg)."""
    segments_per_subepoch: int = 1000
    """numberTrainingSegmentsLoadedOnGpuPerSubep (example cfg)."""
    batch_size: int = 5
    """[D2] batchSizeTrain or batchsize_train (cgm cfg)."""
    validate_on_samples: bool = False
    """performValidationOnSamplesThroughoutTraining (engine's default)."""
    validation_sampling: Sampling = "uniform"
    """typeOfSamplingForVal (engine's default)."""
    validation_proportions: tuple[float, ...] | None = None
    """proportionOfSamplesToExtractPerCategoryVal; None: equal."""
    validation_segments_per_subepoch: int = 3000
    """numberValidationSegmentsLoadedOnGpuPerSubep (engine's default)."""
    validation_batch_size: int = 25
    """[D2] batchSizeVal or batchsize_val_samples (cgm cfg)."""
    validate_on_volumes: bool = False
    """performFullInferenceOnValidationImagesEveryFewEpochs (engine's default)."""
    epochs_between_volumes: int = 1
    """numberOfEpochsBetweenFullInferenceOnValImages (engine's default)."""
    select_best_epoch: bool = False
    """[G30] Keep the epoch with the best whole-volume Dice, not the last; needs
    `validate_on_volumes`."""

    # Augmentation of whole images
    affine_probability: float = 0.0
    """augm_img_prms_tr, prob: chance that a case is turned and scaled."""
    affine_rotation_deg: tuple[float, float, float] = (45.0, 45.0, 45.0)
    """max_rot_xyz, degrees."""
    affine_scaling: float = 0.1
    """max_scaling: factor between 1-s and 1+s."""
    affine_seed: int | None = None
    """[G19] seed: one and the same transform for every case of every subepoch."""
    affine_orders: tuple[int, int, int, int] = (1, 0, 0, 1)
    """interp_order of images, labels, masks and weight maps."""
    affine_boundary: Literal["nearest", "min", "constant", "reflect", "mirror", "wrap"] = "nearest"
    """boundary_mode; min: constant at the image's minimum."""
    affine_fill: float = 0.0
    """cval, where the boundary is constant."""

    # Augmentation of segments
    intensity_shift: MeanStd | None = (0.0, 0.05)
    """hist_dist, shift: normal draw per channel, added first (example cfg)."""
    intensity_scale: MeanStd | None = (1.0, 0.01)
    """hist_dist, scale: normal draw per channel, multiplied second (example cfg)."""
    flip_probabilities: tuple[float, float, float] | None = (0.5, 0.0, 0.0)
    """[D11] reflect per axis: of each segment in v0.8.4, of the whole image in v0.7.0
    (example cfg)."""
    turn_probabilities: tuple[Turns, Turns, Turns] | None = None
    """rotate90: weights of 0, 90, 180, 270 degrees in the planes xy, yz, xz."""

    # Loss
    cross_entropy_weight: float | None = 1.0
    """losses_and_weights, xentr (engine's default)."""
    iou_weight: float | None = None
    """losses_and_weights, iou."""
    dice_weight: float | None = None
    """losses_and_weights, dsc."""
    class_weighting: Literal["none", "frequency", "fixed"] = "none"
    """reweight_classes_in_cost, type None, 'freq' or 'per_c'."""
    class_weights: tuple[float, ...] | None = None
    """reweight_classes_in_cost, prms of 'per_c'."""
    class_weighting_epochs: tuple[int, int] = (0, 35)
    """reweight_classes_in_cost, schedule: full before the first, gone after the second."""
    l1_weight: float = 1e-6
    """[G22] L1_reg, over all kernels, frozen ones too (engine's default)."""
    l2_weight: float = 1e-4
    """[G22] L2_reg: sum of squares without a half (engine's default)."""

    # Optimisation
    optimiser: Literal["sgd", "adam", "rmsprop"] = "rmsprop"
    """sgd0orAdam1orRms2 (slots in the published index)."""
    learning_rate: float = 1e-3
    """learningRate (example cfg)."""
    momentum: float = 0.6
    """momentumValue (example cfg)."""
    nesterov: bool = True
    """classicMom0OrNesterov1 (example cfg)."""
    normalised_momentum: bool = True
    """momNonNorm0orNormalized1: gradient scaled by 1-momentum (example cfg)."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """b1Adam, b2Adam."""
    adam_epsilon: float = 1e-8
    """epsilonAdam."""
    rms_decay: float = 0.9
    """rhoRms."""
    rms_epsilon: float = 1e-4
    """epsilonRms, inside the root."""
    schedule: Literal["stable", "predefined", "poly", "exponential", "auto"] = "predefined"
    """[G11] typeOfLearningRateSchedule (example cfg)."""
    schedule_epochs: tuple[int, ...] = (17, 22, 27, 30, 33)
    """[G14] predefinedSchedule: the listed epoch itself keeps the old rate (example cfg)."""
    schedule_divisor: float = 2.0
    """whenDecreasingDivideLrBy (engine's default)."""
    schedule_wait: int | None = None
    """numEpochsToWaitBeforeLoweringLr; None: a third of the epochs, or 5 with auto."""
    schedule_least_gain: float = 0.0
    """min_incr_of_val_acc_considered (auto)."""
    schedule_targets: tuple[float, float] = (1 / 256, 0.9)
    """[G13] paramsForExpSchedForLrAndMom: rate and momentum at the end, absolute."""
    momentum_overshoots: bool = False
    """[G12] The exponential schedule of the engine adds its rise to the target instead of to the
    start, so that momentum begins at .9 and ends at 1.2."""
    frozen_layers: tuple[int, ...] = ()
    """layersToFreezeNormal, from 1."""
    frozen_context_layers: tuple[int, ...] = ()
    """layersToFreezeSubsampled, from 1."""
    frozen_fc_layers: tuple[int, ...] = ()
    """layersToFreezeFC, from 1."""

    # Inference
    tiling: Literal["engine", "lattice"] = "lattice"
    """[G5] engine: its grid, on which the outcome depends. lattice: contexts keep one grid for the
    whole volume and tiles overlap, so that the outcome depends on neither place nor size of
    tiles."""
    lattice_shifts: int = 1
    """Lattices, displaced against each other, whose probabilities are averaged."""
    inference_batch_size: int = 5
    """[D2] batchSizeInfer, batchsize or batchsize_val_whole: tiles per call (cgm cfg)."""
    multiply_by_mask: bool = False
    """[G8] The engine multiplies outputs by the mask's values; the port asks whether they are
    above 0."""
    copy_header: bool = True
    """[G24] Outputs keep the image's units and codes; the engine drops them."""
    normalise_to_float: bool = True
    """[G25] Normalised images are float32; the original's script keeps the input's type."""

    def __post_init__(self) -> None:
        check_architecture(self)


PORT = Config()
CODE = replace(
    PORT,
    compat="v0.7.0",
    model_name="model_cortical_gm_segmentation",
    normalisation="volume",
    tiling="engine",
    momentum_overshoots=True,
    multiply_by_mask=True,
    copy_header=False,
    normalise_to_float=False,
)
# The publications describe the context as centred and mention none of the engine's accidents.
PAPER = replace(
    PORT,
    compat="v0.7.0",
    normalisation="volume",
    tiling="engine",
    centred_context=True,
    align_context_at_border=True,
)
QUICK = replace(
    PORT,
    held_out_cases=3,
    filters=(8, 8, 12, 12),
    kernels=((3, 3, 3),) * 4,
    padding=("valid",) * 4,
    residual_layers=(4,),
    context_factors=((3, 3, 3),),
    context_filters=((8, 8, 12, 12),),
    context_kernels=((3, 3, 3),) * 4,
    context_padding=("valid",) * 4,
    context_residual_layers=(4,),
    fc_filters=(24,),
    fc_kernels=((3, 3, 3), (1, 1, 1)),
    fc_padding=("mirror", "valid"),
    fc_residual_layers=(),
    fc_dropout=(0.0, 0.2),
    train_segment=(17, 17, 17),
    validation_segment=(17, 17, 17),
    inference_segment=(33, 33, 33),
    rolling_batches=20,
    epochs=5,
    subepochs=4,
    segments_per_subepoch=300,
    batch_size=10,
    schedule="poly",
    schedule_epochs=(),
)

INFERENCE_FIELDS = (
    "tiling",
    "lattice_shifts",
    "inference_batch_size",
    "multiply_by_mask",
    "copy_header",
)
"""What may differ between training and inference: the network's weights do not depend on it."""
PRESETS = {"paper": PAPER, "code": CODE, "port": PORT, "quick": QUICK}
