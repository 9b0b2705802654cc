"""From the keys of configuration files to the fields of `Config`, with the engine's defaults.

Source: modelParams.py, trainSessionParams.py and testSessionParams.py of DeepMedic v0.7.0 and
v0.8.4; specification 8.
"""

from dataclasses import replace
from pathlib import Path

from common.errors import OptionError
from dhcp_fetal.cfg.files import CfgFile, read_cfg
from dhcp_fetal.cfg.keys import DERIVED, KEYS, MODEL, NEW, OLD, REQUIRED
from dhcp_fetal.cfg.values import choice, flag, list_of, number, rate, table_of, whole
from dhcp_fetal.config import CODE, PRESETS, Compat, Config, Preset
from dhcp_fetal.geometry import receptive_field

# [G15] v0.8.4 pads for some spellings of "no padding" when it reckons sizes; here they are one.
PADDING = {"none": "valid", "valid": "valid", "zero": "zero", "same": "zero", "mirror": "mirror"}
SAMPLING = ("foreground_background", "uniform", "whole_image", "per_class")
SCHEDULES = {"predef": "predefined", "expon": "exponential"}
LOSSES = {"xentr": "cross_entropy_weight", "iou": "iou_weight", "dsc": "dice_weight"}
KEY_OF = {key.field: name for name, key in MODEL.items()}
WEIGHTINGS = {None: "none", "freq": "frequency", "per_c": "fixed"}


def from_cfg(
    path: Path, *, train: Path | None = None, test: Path | None = None, base: Config = CODE,
    compat: Compat | None = None,
) -> Config:  # fmt: skip
    """Resolve the original's configuration files as its engine would.

    Args:
        path: model cfg, which settles the network. A training or test cfg alone is refused.
        train: training cfg, which settles sampling, augmentation, loss and optimisation.
        test: test cfg, which settles preparation and the tiles per call of inference.
        base: gives what no file settles, and the switches the engine does not have.
        compat: engine version; None: v0.7.0 where the model cfg holds that version's keys.
    Returns:
        `Config`; keys absent from a given file have the engine's defaults, not those of `base`.
    Raises:
        OptionError: names the file, the line and the key, what was found and what was expected.
        DataError: a file is missing or is not UTF-8 text.
    Source: modelParams.py, trainSessionParams.py, testSessionParams.py of DeepMedic.
    """
    model = read_cfg(path, "model")
    # [D1] [D2] [G2] The keys tell the version.
    is_old = any(KEYS["model"][name].compat == OLD for name in model.lines)
    compat = compat or (OLD if is_old else NEW)
    _check_version(model, compat)
    fields = {"compat": compat} | network_fields(model, compat)
    if train is not None:
        session = read_cfg(train, "train")
        _check_version(session, compat)
        fields |= training_fields(session, compat)
    if test is not None:
        session = read_cfg(test, "test")
        _check_version(session, compat)
        inference = inference_fields(session, compat)
        _check_same_preparation(fields, inference, session)
        fields |= inference
    try:
        return replace(base, **fields)
    except OptionError as mistake:
        field, _, reason = str(mistake).partition(": ")
        raise OptionError(f"{model.where(KEY_OF.get(field, field))}: {reason}") from None


def resolve_config(
    config: Config, preset: Preset, *, model: Path | None = None, train: Path | None = None,
    test: Path | None = None,
) -> Config:  # fmt: skip
    """Return the configuration that a command line means.

    Without a model file: `config`. With one, the files settle what they speak of, the preset the
    rest, and options given by hand, in `config`, win over both. The engine does not normalise
    scans by itself, so neither does a configuration of its files.
    """
    if model is None:
        if train or test:
            raise OptionError("-train and -test need -model, expected the model cfg beside them")
        return config
    base = PRESETS[preset]
    by_hand = {name: value for name, value in vars(config).items() if value != vars(base)[name]}
    resolved = from_cfg(model, train=train, test=test, base=replace(base, normalisation="none"))
    return replace(resolved, **by_hand)


def _check_version(file: CfgFile, compat: str) -> None:
    for name in file.lines:
        owner = KEYS[file.kind][name].compat
        if owner not in (None, compat):
            hint = "; write kernelDimPerLayerFC and padTypePerLayerFC = ['mirror', None, ...]"
            raise OptionError(
                f"{file.where(name)}: a key of DeepMedic {owner}, but this is read as {compat}, "
                f"which ignores it{hint if name == 'kernelDimFor1stFcLayer' else ''}"
            )


def _direct_fields(file: CfgFile) -> dict[str, object]:
    """Return the fields that are the values of keys as they stand."""
    return {
        key.field: file.require(name) if key.default is REQUIRED else file.get(name, key.default)
        for name, key in KEYS[file.kind].items()
        if key.default is not DERIVED
    }


def network_fields(model: CfgFile, compat: str) -> dict[str, object]:
    """Return the fields that a model file settles."""
    filters = model.require("numberFMsPerLayerNormal")
    segment = model.require("segmentsDimTrain")
    initialisation, scale = _initialisation(model)
    fields = _direct_fields(model) | {
        "padding": _padding(model, "padTypePerLayerNormal", len(filters)),
        "inference_segment": model.get("segmentsDimInference", segment),
        "initialisation": initialisation,
        "initialisation_scale": scale,
        "rolling_batches": max(0, model.get("rollAverageForBNOverThatManyBatches", 60)),
    }
    fields |= _context_fields(model, compat, fields) | _fc_fields(model, compat)
    fc_layers = zip(fields["fc_kernels"], fields["fc_padding"], strict=False)
    shrinking = [kernel for kernel, mode in fc_layers if mode == "valid"]
    one_voxel = receptive_field((*fields["kernels"], *shrinking))
    fields["validation_segment"] = model.get("segmentsDimVal", one_voxel)
    if compat == OLD:  # [D2]
        batch = model.require("batchSizeTrain")
        fields["batch_size"] = batch
        fields["validation_batch_size"] = model.get("batchSizeVal", batch)
        fields["inference_batch_size"] = model.get("batchSizeInfer", batch)
    return fields


def _context_fields(model: CfgFile, compat: str, normal: dict[str, object]) -> dict[str, object]:
    if not model.get("useSubsampledPathway", False):
        names = ("factors", "filters", "kernels", "padding", "residual_layers", "dropout")
        return {f"context_{name}": () for name in names}
    filters = list(model.get("numberFMsPerLayerSubsampled", (normal["filters"],)))
    factors = list(model.get("subsampleFactor", ((3, 3, 3),)))
    if len(filters) > len(factors) and compat == NEW:
        where = model.where("numberFMsPerLayerSubsampled")
        raise OptionError(f"{where}: expected {len(factors)} lists, one per subsampleFactor")
    while len(factors) < len(filters):  # [D13]
        factors.append(tuple(step + 2 for step in factors[-1]))
    filters += filters[-1:] * (len(factors) - len(filters))
    kernels = model.get("kernelDimPerLayerSubsampled", normal["kernels"])
    residual = normal["residual_layers"]
    return {
        "context_factors": tuple(factors),
        "context_filters": tuple(filters),
        "context_kernels": kernels,
        "context_padding": _padding(model, "padTypePerLayerSubsampled", len(kernels)),
        "context_residual_layers": model.get("layersWithResidualConnSubsampled", residual),
        "context_dropout": model.get("dropoutRatesSubsampled", ()),
    }


def _fc_fields(model: CfgFile, compat: str) -> dict[str, object]:
    filters = model.get("numberFMsPerLayerFC", ())
    layers = len(filters) + 1
    if compat == OLD:  # [D1]
        first = model.get("kernelDimFor1stFcLayer", (1, 1, 1))
        kernels = (first, *((1, 1, 1),) * len(filters))
        padding = ("mirror", *("valid",) * len(filters))
    else:
        kernels = model.get("kernelDimPerLayerFC", ((1, 1, 1),) * layers)
        padding = _padding(model, "padTypePerLayerFC", layers)
    default = (0.0, *(0.5,) * len(filters)) if filters else (0.5,)
    return {
        "fc_kernels": kernels,
        "fc_padding": padding,
        "fc_dropout": model.get("dropoutRatesFc", default),
    }


def _padding(model: CfgFile, name: str, layers: int) -> tuple[str, ...]:
    modes = model.get(name, ("valid",) * layers)
    for mode in modes:
        if mode.lower() not in PADDING:
            expected = "None, 'valid', 'zero', 'same' or 'mirror'"
            raise OptionError(f"{model.where(name)}: expected {expected}, found {mode!r}")
    return tuple(PADDING[mode.lower()] for mode in modes)


def _initialisation(model: CfgFile) -> tuple[str, float]:
    method, scale = model.get("convWeightsInit", ("fanIn", 2))
    if method not in ("fanIn", "normal") or not isinstance(scale, int | float):
        where = model.where("convWeightsInit")
        raise OptionError(f'{where}: expected ["fanIn", scale] or ["normal", deviation]')
    return {"fanIn": "fan_in", "normal": "normal"}[method], float(scale)


def training_fields(train: CfgFile, compat: str) -> dict[str, object]:
    """Return the fields that a training file settles."""
    fields = _direct_fields(train) | _sampling_fields(train, compat) | _affine_fields(train)
    fields |= _segment_fields(train) | _loss_fields(train, fields["epochs"])
    fields |= _optimiser_fields(train)
    kind = train.require("typeOfLearningRateSchedule")
    if kind == "predef":
        train.require("predefinedSchedule")
    fields |= {"schedule": SCHEDULES.get(kind, kind)} | preparation_fields(train)
    if compat == NEW:  # [D2]
        fields["batch_size"] = train.require("batchsize_train")
        fields["validation_batch_size"] = train.get("batchsize_val_samples", 50)
        fields["inference_batch_size"] = train.get("batchsize_val_whole", 10)
    return fields


def inference_fields(test: CfgFile, compat: str) -> dict[str, object]:
    """Return the fields that a test file settles."""
    fields = _direct_fields(test) | preparation_fields(test)
    if compat == NEW:  # [D2]
        fields["inference_batch_size"] = test.get("batchsize", 10)
    return fields


def preparation_fields(file: CfgFile) -> dict[str, object]:
    """Return the fields of a case's preparation, which training and test files settle."""
    readers = {
        "apply_to_all_channels": flag,
        "apply_per_channel": list_of(flag),
        "cutoff_percents": list_of(number, length=2),
        "cutoff_times_std": list_of(number, length=2),
        "cutoff_below_mean": flag,
    }
    table = _entries(file, "norm_zscore_prms", readers)
    everywhere, chosen = table.get("apply_to_all_channels"), table.get("apply_per_channel")
    if everywhere and chosen is not None:
        where = file.where("norm_zscore_prms")
        raise OptionError(f"{where}: expected apply_per_channel None beside apply_to_all_channels")
    return {
        "zscore_channels": "all" if everywhere else chosen or "none",
        "zscore_percentiles": table.get("cutoff_percents"),
        "zscore_deviations": table.get("cutoff_times_std"),
        "zscore_above_mean": table.get("cutoff_below_mean", False),
    }


def _check_same_preparation(fields: dict, inference: dict, test: CfgFile) -> None:
    for name in inference.keys() & fields.keys() - {"inference_batch_size"}:
        if fields[name] != inference[name]:
            raise OptionError(
                f"{test.path}: {name} is {inference[name]!r}, but {fields[name]!r} in the training "
                "file; a network must be used on images prepared as those it was trained on"
            )


def _sampling_fields(train: CfgFile, compat: str) -> dict[str, object]:
    fields = {
        "sampling": "foreground_background" if compat == OLD else "per_class",
        "sampling_proportions": None,
        "validation_sampling": "uniform",
        "validation_proportions": None,
    }
    # [D9] v0.7.0 reads its sampling keys only where its own default is switched off.
    if compat == NEW or not train.get("useDefaultTrainingSamplingFromGtAndRoi", True):
        fields["sampling"] = SAMPLING[train.get("typeOfSamplingForTraining", 3)]
        key = "proportionOfSamplesToExtractPerCategoryTraining"
        fields["sampling_proportions"] = train.get(key)
    if compat == NEW or not train.get("useDefaultUniformValidationSampling", True):
        fields["validation_sampling"] = SAMPLING[train.get("typeOfSamplingForVal", 1)]
        key = "proportionOfSamplesToExtractPerCategoryVal"
        fields["validation_proportions"] = train.get(key)
    return fields


def _affine_fields(train: CfgFile) -> dict[str, object]:
    readers = {
        "prob": rate,
        "max_rot_xyz": list_of(number, length=3),
        "max_scaling": number,
        "seed": whole,
        "boundary_mode": choice("nearest", "min", "constant", "reflect", "mirror", "wrap"),
        "cval": number,
    }
    orders = ("interp_order_imgs", "interp_order_lbls", "interp_order_roi", "interp_order_wmaps")
    readers |= {name: whole for name in orders}
    table = _entries(train, "augm_img_prms_tr", {"affine": table_of(readers)}).get("affine", {})
    return {
        "affine_probability": table.get("prob", 0.0),
        "affine_rotation_deg": table.get("max_rot_xyz", (45.0, 45.0, 45.0)),
        "affine_scaling": table.get("max_scaling", 0.1),
        "affine_seed": table.get("seed"),
        "affine_orders": tuple(map(table.get, orders, (1, 0, 0, 1))),
        "affine_boundary": table.get("boundary_mode", "nearest"),
        "affine_fill": table.get("cval", 0.0),
    }


def _segment_fields(train: CfgFile) -> dict[str, object]:
    """Read flips, turns and intensity changes, from the keys of either version. [D11]"""
    normal = table_of({"mu": number, "std": number})
    angles = ("0", "90", "180", "270")
    turning = table_of({angle: number for angle in angles})
    readers = {
        "hist_dist": table_of({"shift": normal, "scale": normal}),
        "reflect": list_of(rate, length=3),
        "rotate90": table_of({"xy": turning, "yz": turning, "xz": turning}),
    }
    table = _entries(train, "augm_sample_prms_tr", readers)
    intensity = table.get("hist_dist", {})
    fields = {
        f"intensity_{name}": (intensity[name].get("mu", 0.0), intensity[name].get("std", 0.0))
        if name in intensity
        else None
        for name in ("shift", "scale")
    }
    fields["flip_probabilities"] = table.get("reflect")
    if train.get("performIntAugm", False):
        fields["intensity_shift"] = train.get("sampleIntAugmShiftWithMuAndStd", (0.0, 0.05))
        fields["intensity_scale"] = train.get("sampleIntAugmMultiWithMuAndStd", (1.0, 0.01))
    if "reflectImagesPerAxis" in train.values:
        fields["flip_probabilities"] = tuple(0.5 * on for on in train.get("reflectImagesPerAxis"))
    turns = table.get("rotate90")
    fields["turn_probabilities"] = turns and tuple(
        tuple(turns.get(plane, {}).get(angle, 0.0) for angle in angles)
        for plane in ("xy", "yz", "xz")
    )
    return fields


def _loss_fields(train: CfgFile, epochs: int) -> dict[str, object]:
    losses = {"xentr": 1.0}
    if "losses_and_weights" in train.values:
        losses = _entries(train, "losses_and_weights", {name: number for name in LOSSES})
    schedule = list_of(whole, length=2)
    readers = {"type": choice("freq", "per_c"), "prms": list_of(number), "schedule": schedule}
    weighting = _entries(train, "reweight_classes_in_cost", readers)
    return {
        **{field: losses.get(name) for name, field in LOSSES.items()},
        "class_weighting": WEIGHTINGS[weighting.get("type")],
        "class_weights": weighting.get("prms"),
        "class_weighting_epochs": weighting.get("schedule", (0, epochs)),
    }


def _optimiser_fields(train: CfgFile) -> dict[str, object]:
    frozen = train.get("layersToFreezeNormal", ())
    return {
        "optimiser": ("sgd", "adam", "rmsprop")[train.get("sgd0orAdam1orRms2", 2)],
        "nesterov": bool(train.get("classicMom0OrNesterov1", 1)),
        "normalised_momentum": bool(train.get("momNonNorm0orNormalized1", 1)),
        "adam_betas": (train.get("b1Adam", 0.9), train.get("b2Adam", 0.999)),
        "frozen_layers": frozen,
        "frozen_context_layers": train.get("layersToFreezeSubsampled", frozen),
    }


def _entries(file: CfgFile, name: str, readers: dict) -> dict:
    """Return the entries of a dictionary-valued key, each read; absent where it is None."""
    try:
        return table_of(readers)(file.get(name, {}))
    except ValueError as mistake:
        raise OptionError(f"{file.where(name)}: expected {mistake}") from None
