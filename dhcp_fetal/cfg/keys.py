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


@dataclass(frozen=True)
class Key:
    """One key: how its value is read, and the version that alone knows it (None: both)."""

    read: Callable[[object], object]
    compat: str | None = None


wholes = list_of(positive)
triple = list_of(positive, length=3)
triples = list_of(triple)
rates = list_of(rate)
texts = list_of(text)
flags = list_of(flag)
padding_names = list_of(lambda value: "none" if value is None else text(value))

MODEL = {
    "modelName": Key(text),
    "folderForOutput": Key(text),
    "numberOfOutputClasses": Key(positive),
    "numberOfInputChannels": Key(positive),
    "numberFMsPerLayerNormal": Key(wholes),
    "kernelDimPerLayerNormal": Key(triples),
    "padTypePerLayerNormal": Key(padding_names, NEW),
    "layersWithResidualConnNormal": Key(wholes),
    "lowerRankLayersNormal": Key(switched_off),  # [G28]
    "useSubsampledPathway": Key(flag),
    "numberFMsPerLayerSubsampled": Key(one_or_more(wholes)),
    "kernelDimPerLayerSubsampled": Key(triples),
    "padTypePerLayerSubsampled": Key(padding_names, NEW),
    "subsampleFactor": Key(one_or_more(triple)),
    "layersWithResidualConnSubsampled": Key(wholes),
    "lowerRankLayersSubsampled": Key(switched_off),  # [G28]
    "numberFMsPerLayerFC": Key(wholes),
    "kernelDimFor1stFcLayer": Key(triple, OLD),
    "kernelDimPerLayerFC": Key(triples, NEW),
    "padTypePerLayerFC": Key(padding_names, NEW),
    "layersWithResidualConnFC": Key(wholes),
    "segmentsDimTrain": Key(triple),
    "segmentsDimVal": Key(triple),
    "segmentsDimInference": Key(triple),
    "dropoutRatesNormal": Key(rates),
    "dropoutRatesSubsampled": Key(rates),
    "dropoutRatesFc": Key(rates),
    "convWeightsInit": Key(list_of(lambda value: value, length=2)),
    "activationFunction": Key(choice("linear", "relu", "prelu", "elu")),  # [G28]
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
    "padInputImagesBool": Key(flag),
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
    "numberOfEpochs": Key(positive),
    "numberOfSubepochs": Key(positive),
    "numOfCasesLoadedPerSubepoch": Key(positive),
    "numberTrainingSegmentsLoadedOnGpuPerSubep": Key(positive),
    "batchsize_train": Key(positive, NEW),
    "num_processes_sampling": Key(whole, NEW),
    "performValidationOnSamplesThroughoutTraining": Key(flag),
    "performFullInferenceOnValidationImagesEveryFewEpochs": Key(flag),
    "useDefaultUniformValidationSampling": Key(flag, OLD),
    "typeOfSamplingForVal": Key(choice(0, 1, 2, 3)),
    "proportionOfSamplesToExtractPerCategoryVal": Key(list_of(number)),
    "numberValidationSegmentsLoadedOnGpuPerSubep": Key(positive),
    "batchsize_val_samples": Key(positive, NEW),
    "numberOfEpochsBetweenFullInferenceOnValImages": Key(positive),
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
    "whenDecreasingDivideLrBy": Key(number),
    "numEpochsToWaitBeforeLoweringLr": Key(whole),
    "min_incr_of_val_acc_considered": Key(number),
    "predefinedSchedule": Key(wholes),
    "paramsForExpSchedForLrAndMom": Key(list_of(number, length=2)),
    "learningRate": Key(number),
    "sgd0orAdam1orRms2": Key(choice(0, 1, 2)),
    "classicMom0OrNesterov1": Key(choice(0, 1)),
    "momentumValue": Key(rate),
    "momNonNorm0orNormalized1": Key(choice(0, 1)),
    "b1Adam": Key(number),
    "b2Adam": Key(number),
    "epsilonAdam": Key(number),
    "rhoRms": Key(number),
    "epsilonRms": Key(number),
    "losses_and_weights": Key(table),
    "reweight_classes_in_cost": Key(table, NEW),
    "L1_reg": Key(number),
    "L2_reg": Key(number),
    "layersToFreezeNormal": Key(wholes),
    "layersToFreezeSubsampled": Key(wholes),
    "layersToFreezeFC": Key(wholes),
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
