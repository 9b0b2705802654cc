"""The keys of the original's configuration files and the kind of value each holds.

Source: modelConfig.py, trainConfig.py and testConfig.py of DeepMedic v0.7.0 and v0.8.4.
"""

from collections.abc import Callable
from dataclasses import dataclass

from dhcp_fetal.cfg.values import (
    choice,
    feature_ranges,
    flag,
    list_of,
    number,
    one_or_more,
    positive,
    rate,
    switched_off,
    table,
    text,
    whole,
)

OLD, NEW = "v0.7.0", "v0.8.4"
DERIVED, REQUIRED = object(), object()
"""Defaults of a field that `cfg.fields` works out, and of one that the file has to give."""


@dataclass(frozen=True)
class Key:
    """One key: how its value is read, and what it is in `Config`."""

    read: Callable[[object], object]
    compat: str | None = None
    """Version that alone knows it; None: both."""
    field: str | None = None
    default: object = DERIVED
    """What the engine takes for the field where the file does not give it."""


wholes = list_of(positive)
triple = list_of(positive, length=3)
triples = list_of(triple)
rates = list_of(rate)
texts = list_of(text)
flags = list_of(flag)
padding_names = list_of(lambda value: "none" if value is None else text(value))

MODEL = {
    "modelName": Key(text, field="model_name", default="deepmedic"),
    "folderForOutput": Key(text),
    "numberOfOutputClasses": Key(positive, field="classes", default=REQUIRED),
    "numberOfInputChannels": Key(positive, field="input_channels", default=REQUIRED),
    "numberFMsPerLayerNormal": Key(wholes, field="filters", default=REQUIRED),
    "kernelDimPerLayerNormal": Key(triples, field="kernels", default=REQUIRED),
    "padTypePerLayerNormal": Key(padding_names, NEW, field="padding"),
    "layersWithResidualConnNormal": Key(wholes, field="residual_layers", default=()),
    "lowerRankLayersNormal": Key(switched_off),  # [G28]
    "useSubsampledPathway": Key(flag),
    "numberFMsPerLayerSubsampled": Key(one_or_more(wholes), field="context_filters"),
    "kernelDimPerLayerSubsampled": Key(triples, field="context_kernels"),
    "padTypePerLayerSubsampled": Key(padding_names, NEW, field="context_padding"),
    "subsampleFactor": Key(one_or_more(triple)),
    "layersWithResidualConnSubsampled": Key(wholes, field="context_residual_layers"),
    "lowerRankLayersSubsampled": Key(switched_off),  # [G28]
    "numberFMsPerLayerFC": Key(wholes, field="fc_filters", default=()),
    "kernelDimFor1stFcLayer": Key(triple, OLD),
    "kernelDimPerLayerFC": Key(triples, NEW, field="fc_kernels"),
    "padTypePerLayerFC": Key(padding_names, NEW, field="fc_padding"),
    "layersWithResidualConnFC": Key(wholes, field="fc_residual_layers", default=()),
    "segmentsDimTrain": Key(triple, field="train_segment", default=REQUIRED),
    "segmentsDimVal": Key(triple, field="validation_segment"),
    "segmentsDimInference": Key(triple, field="inference_segment"),
    "dropoutRatesNormal": Key(rates, field="dropout", default=()),
    "dropoutRatesSubsampled": Key(rates, field="context_dropout"),
    "dropoutRatesFc": Key(rates, field="fc_dropout"),
    "convWeightsInit": Key(list_of(lambda value: value, length=2)),
    "activationFunction": Key(
        choice("linear", "relu", "prelu", "elu"), field="activation", default="prelu"
    ),  # [G28]
    "rollAverageForBNOverThatManyBatches": Key(whole),
    "batchSizeTrain": Key(positive, OLD),
    "batchSizeVal": Key(positive, OLD),
    "batchSizeInfer": Key(positive, OLD),
}

_EVERY_SESSION = {
    "sessionName": Key(text),
    "folderForOutput": Key(text),
    "cnnModelFilePath": Key(text),
    "run_input_checks": Key(flag),
    "padInputImagesBool": Key(flag, field="pad_inputs", default=True),
    "norm_verbosity_lvl": Key(choice(0, 1, 2), NEW),
    "norm_zscore_prms": Key(table, NEW),  # [D18]
}

_SAVED = {
    "saveSegmentation": Key(flag),
    "saveProbMapsForEachClass": Key(flags),
    "suffixForSegmAndProbsDict": Key(table, NEW),
    "saveIndividualFms": Key(flag),
    "saveAllFmsIn4DimImage": Key(switched_off),  # [D19]
    "minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathway": Key(feature_ranges),
    "minMaxIndicesOfFmsToSaveFromEachLayerOfSubsampledPathway": Key(feature_ranges),
    "minMaxIndicesOfFmsToSaveFromEachLayerOfFullyConnectedPathway": Key(feature_ranges),
    "namesForPredictionsPerCase": Key(text),
}

TEST = {
    **_EVERY_SESSION,
    **_SAVED,
    "dataframe": Key(text, NEW),
    "channels": Key(texts),
    "roiMasks": Key(text),
    "gtLabels": Key(text),
    "batchsize": Key(positive, NEW),
}

_INPUT = {
    "dataframe_train": Key(text, NEW),
    "channelsTraining": Key(texts),
    "gtLabelsTraining": Key(text),
    "roiMasksTraining": Key(text),
    "weightedMapsForSamplingEachCategoryTrain": Key(texts),
    "dataframe_val": Key(text, NEW),
    "channelsValidation": Key(texts),
    "gtLabelsValidation": Key(text),
    "roiMasksValidation": Key(text),
    "weightedMapsForSamplingEachCategoryVal": Key(texts),
}

_SAMPLING = {
    "useDefaultTrainingSamplingFromGtAndRoi": Key(flag, OLD),
    "typeOfSamplingForTraining": Key(choice(0, 1, 2, 3)),
    "proportionOfSamplesToExtractPerCategoryTraining": Key(list_of(number)),
    "numberOfEpochs": Key(positive, field="epochs", default=35),
    "numberOfSubepochs": Key(positive, field="subepochs", default=20),
    "numOfCasesLoadedPerSubepoch": Key(positive, field="cases_per_subepoch", default=50),
    "numberTrainingSegmentsLoadedOnGpuPerSubep": Key(
        positive, field="segments_per_subepoch", default=1000
    ),
    "batchsize_train": Key(positive, NEW),
    "num_processes_sampling": Key(whole, NEW),
    "performValidationOnSamplesThroughoutTraining": Key(
        flag, field="validate_on_samples", default=False
    ),
    "performFullInferenceOnValidationImagesEveryFewEpochs": Key(
        flag, field="validate_on_volumes", default=False
    ),
    "useDefaultUniformValidationSampling": Key(flag, OLD),
    "typeOfSamplingForVal": Key(choice(0, 1, 2, 3)),
    "proportionOfSamplesToExtractPerCategoryVal": Key(list_of(number)),
    "numberValidationSegmentsLoadedOnGpuPerSubep": Key(
        positive, field="validation_segments_per_subepoch", default=3000
    ),
    "batchsize_val_samples": Key(positive, NEW),
    "numberOfEpochsBetweenFullInferenceOnValImages": Key(
        positive, field="epochs_between_volumes", default=1
    ),
    "batchsize_val_whole": Key(positive, NEW),
    "augm_img_prms_tr": Key(table, NEW),
    "augm_sample_prms_tr": Key(table, NEW),
    "reflectImagesPerAxis": Key(list_of(flag, length=3)),
    "performIntAugm": Key(flag),
    "sampleIntAugmShiftWithMuAndStd": Key(list_of(number, length=2)),
    "sampleIntAugmMultiWithMuAndStd": Key(list_of(number, length=2)),
}

_OPTIMISATION = {
    "typeOfLearningRateSchedule": Key(choice("stable", "predef", "poly", "auto", "expon")),
    "whenDecreasingDivideLrBy": Key(number, field="schedule_divisor", default=2.0),
    "numEpochsToWaitBeforeLoweringLr": Key(whole, field="schedule_wait", default=None),
    "min_incr_of_val_acc_considered": Key(number, field="schedule_least_gain", default=0.0),
    "predefinedSchedule": Key(wholes, field="schedule_epochs", default=()),
    "paramsForExpSchedForLrAndMom": Key(
        list_of(number, length=2), field="schedule_targets", default=(1 / 256, 0.9)
    ),
    "learningRate": Key(number, field="learning_rate", default=0.001),
    "sgd0orAdam1orRms2": Key(choice(0, 1, 2)),
    "classicMom0OrNesterov1": Key(choice(0, 1)),
    "momentumValue": Key(rate, field="momentum", default=0.6),
    "momNonNorm0orNormalized1": Key(choice(0, 1)),
    "b1Adam": Key(number),
    "b2Adam": Key(number),
    "epsilonAdam": Key(number, field="adam_epsilon", default=1e-8),
    "rhoRms": Key(number, field="rms_decay", default=0.9),
    "epsilonRms": Key(number, field="rms_epsilon", default=1e-4),
    "losses_and_weights": Key(table),
    "reweight_classes_in_cost": Key(table, NEW),
    "L1_reg": Key(number, field="l1_weight", default=1e-6),
    "L2_reg": Key(number, field="l2_weight", default=1e-4),
    "layersToFreezeNormal": Key(wholes),
    "layersToFreezeSubsampled": Key(wholes),
    "layersToFreezeFC": Key(wholes, field="frozen_fc_layers", default=()),
}

TRAIN = {
    **_EVERY_SESSION,
    **{f"{name}Val": key for name, key in _SAVED.items()},
    **_INPUT,
    **_SAMPLING,
    **_OPTIMISATION,
    "tensorboard_log": Key(flag, NEW),
}

KEYS = {"model": MODEL, "train": TRAIN, "test": TEST}

REFUSED = {
    "initializeClassic0orDelving1": "withdrawn by the engine; use convWeightsInit",
    "relu0orPrelu1": "withdrawn by the engine; use activationFunction",
    "percentOfSamplesToExtractPositiveTrain": "withdrawn by the engine; use "
    "proportionOfSamplesToExtractPerCategoryTraining",
    "augm_params_tr": "withdrawn by the engine; use augm_sample_prms_tr",
}
"""Keys of versions older than the two, and what replaced them."""
