"""Configuration and list files: read as data, refused by name."""

import warnings
from pathlib import Path

import pytest

from common.errors import DataError, OptionError
from dhcp_fetal import session
from dhcp_fetal.cfg import files as cfg
from dhcp_fetal.cfg.fields import from_cfg
from dhcp_fetal.cfg.keys import KEYS

MODEL = """
numberOfOutputClasses = 2
numberOfInputChannels = 1
numberFMsPerLayerNormal = [4, 4]
kernelDimPerLayerNormal = [[3,3,3], [3,3,3]]
segmentsDimTrain = [9, 9, 9]
"""
TRAIN = """
folderForOutput = "out"
channelsTraining = ["t2w.cfg"]
gtLabelsTraining = "labels.cfg"
typeOfLearningRateSchedule = 'stable'
"""


def write(folder, text, name="file.cfg"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def parse(text):
    assignments = cfg.parse_assignments(text, Path("some.cfg"))
    return {name: value for name, (value, _) in assignments.items()}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a = 10**(-4)", 1e-4),
        ("a = -2 + 3 * 4", 10),
        ("a = 1. / 2**8", 1 / 256),
        ("a = [[3,3,3],\n     [5,5,5]]", [[3, 3, 3], [5, 5, 5]]),
        ("a = {'xy': {'0': 0.8}, 'n': None}", {"xy": {"0": 0.8}, "n": None}),
        ("a = (True, False)", [True, False]),
        ("a = 1\na = 2", 2),
        ('"""\na = 3\n"""\na = 4 # b', 4),
        ("# -*- coding: utf-8 -*-\na = 'é'", "é"),
    ],
)
def test_literals_and_arithmetic_are_read(text, value):
    assert parse(text) == {"a": value}


@pytest.mark.parametrize("text", ["a = “x”", 'a = "x”', 'a = “x"', "a = ‘x’"])
def test_curly_quotes_are_read_and_warned_of_once(text):
    """[G1]"""
    with pytest.warns(UserWarning, match="some.cfg: curly quotes") as caught:
        assert parse(f"# “comment”\n{text}\nb = “y”") == {"a": "x", "b": "y"}
    assert len(caught) == 1


def test_curly_quotes_in_comments_are_nobodys_business():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse("#roi = “./roi.cfg\na = 1") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a = open('x', 'w')", "line 1: only literals"),
        ("b = 2\na = b", "line 2: only literals"),
        ("import os", "line 1: expected `name = value`"),
        ("a.b = 1", "line 1: expected `name = value`"),
        ("a, b = 1, 2", "line 1: expected `name = value`"),
        ("a += 1", "line 1: expected `name = value`"),
        ("print('x')", "line 1: expected `name = value`"),
        ("a = [i for i in (1, 2)]", "line 1: only literals"),
        ("a = 'x' * 9999999999", "expected a number in the arithmetic, found 'x'"),
        ("a = 9**9**9", "expected an exponent up to 64"),
        ("a = 10**60", "expected numbers up to 1e+12"),
        ("a = 1/0", "division by zero"),
        ("a = f'{1}'", "only literals"),
        ("a = b'x'", "only literals"),
        ("\na = [1,", "line 2: not Python syntax"),
        ("a = " + "-" * 3000 + "1", "some.cfg"),
        ("a = " + "[" * 300 + "]" * 300, "not Python syntax"),
    ],
)
def test_anything_else_is_refused_with_its_line(text, complaint):
    with pytest.raises(OptionError) as refusal:
        parse(text)
    assert "some.cfg" in str(refusal.value)
    assert complaint in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_nothing_is_executed(tmp_path):
    trace = tmp_path / "trace"
    path = write(tmp_path, f"modelName = open({str(trace)!r}, 'w').name\n")
    with pytest.raises(OptionError):
        cfg.read_cfg(path, "model")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("kind", "line", "complaint"),
    [
        ("model", "numberFMsPerLayersNormal = [1]", "did you mean numberFMsPerLayerNormal?"),
        ("model", "helper = 1", "put # before the line"),
        ("model", "channelsTraining = []", "a key of train files, found in a model file"),
        ("model", "relu0orPrelu1 = 1", "use activationFunction"),
        ("model", "numberOfOutputClasses = True", "expected a whole number, found True"),
        ("model", "numberOfOutputClasses = 2.5", "expected a whole number"),
        ("model", "segmentsDimTrain = [25, 25]", "expected a list of 3"),
        ("model", "lowerRankLayersNormal = [3]", "not being supported"),
        ("model", "activationFunction = 'selu'", "one of linear, relu, prelu, elu, found 'selu'"),
        ("model", "dropoutRatesFc = [0, 1.5]", "a number from 0 to 1"),
        ("model", "modelName = 3", "expected text in quotes, found 3"),
        ("train", "learningRate = 1e999", "expected a number"),
        ("train", "typeOfLearningRateSchedule = 'cosine'", "one of stable, predef, poly"),
        ("train", "percentOfSamplesToExtractPositiveTrain = 0.5", "withdrawn by the engine"),
        ("test", "saveAllFmsIn4DimImage = True", "not being supported"),
        ("test", "channels = 'a.cfg'", "expected a list, found 'a.cfg'"),
    ],
)
def test_keys_are_refused_by_name_and_line(tmp_path, kind, line, complaint):
    """[G2] The engine ignores what it does not know and builds another network."""
    path = write(tmp_path, f"# comment\n{line}\n")
    with pytest.raises(OptionError) as refusal:
        cfg.read_cfg(path, kind)
    assert f"{path}, line 2: {line.split()[0]}" in str(refusal.value)
    assert complaint in str(refusal.value)


def test_none_counts_as_absent(tmp_path):
    file = cfg.read_cfg(write(tmp_path, "modelName = None\n"), "model")
    assert file.get("modelName", "deepmedic") == "deepmedic"


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(DataError, match=r"absent\.cfg: cannot be read"):
        cfg.read_cfg(tmp_path / "absent.cfg", "model")
    path = tmp_path / "latin.cfg"
    path.write_bytes(b"modelName = '\xe9'")
    with pytest.raises(DataError, match="expected UTF-8 text"):
        cfg.read_cfg(path, "model")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("batchSizeTrain = 5\nkernelDimPerLayerFC = [[1,1,1]]", "kernelDimPerLayerFC: a key of"),
        ("layersWithResidualConnNormal = [1]", "layersWithResidualConnNormal: expected layers 2"),
        ("segmentsDimInference = [4,9,9]", "segmentsDimInference: expected at least (5, 5, 5)"),
        ("padTypePerLayerNormal = ['reflect', None]", "padTypePerLayerNormal: expected None"),
        ("convWeightsInit = ['xavier', 1]", "convWeightsInit: expected"),
        (
            "useSubsampledPathway = True\nnumberFMsPerLayerSubsampled = [[4,4],[4,4]]",
            "numberFMsPerLayerSubsampled: expected 1 lists",
        ),
    ],
)
def test_networks_that_cannot_be_built_are_refused_by_key(tmp_path, line, complaint):
    path = write(tmp_path, MODEL + line)
    with pytest.raises(OptionError) as refusal:
        from_cfg(path)
    assert str(path) in str(refusal.value)
    assert complaint in str(refusal.value)


def test_a_required_key_that_is_missing_is_named(tmp_path):
    path = write(tmp_path, "numberOfOutputClasses = 2\n")
    with pytest.raises(OptionError, match="required key numberFMsPerLayerNormal is missing"):
        from_cfg(path)


def test_versions_are_told_apart_by_their_keys(tmp_path):
    """[D1] [D13] One list of filters too many becomes a further factor in v0.7.0."""
    old = from_cfg(
        write(
            tmp_path,
            MODEL + "batchSizeTrain = 7\nkernelDimFor1stFcLayer = [3,3,3]\n"
            "useSubsampledPathway = True\nnumberFMsPerLayerSubsampled = [[4,4],[5,5]]",
        )
    )
    assert old.compat == "v0.7.0"
    assert old.context_factors == ((3, 3, 3), (5, 5, 5))
    assert old.context_filters == ((4, 4), (5, 5))
    assert (old.fc_kernels, old.fc_padding) == (((3, 3, 3),), ("mirror",))
    assert (old.batch_size, old.validation_batch_size, old.inference_batch_size) == (7, 7, 7)
    new = from_cfg(write(tmp_path, MODEL))
    assert new.compat == "v0.8.4"
    assert (new.fc_padding, new.context_factors) == (("valid",), ())
    assert new.fc_dropout == (0.5,)
    assert new.validation_segment == (5, 5, 5)
    assert new.inference_segment == (9, 9, 9)


def test_a_version_may_be_asked_for_but_not_against_the_keys(tmp_path):
    path = write(tmp_path, MODEL + "kernelDimFor1stFcLayer = [3,3,3]")
    with pytest.raises(OptionError, match=r"line 7: .*padTypePerLayerFC = \['mirror'"):
        from_cfg(path, compat="v0.8.4")


@pytest.mark.parametrize("mode", ["None", "'none'", "'valid'", "'VALID'"])
def test_spellings_of_no_padding_are_one(tmp_path, mode):
    """[G15]"""
    path = write(tmp_path, MODEL + f"padTypePerLayerFC = [{mode}]")
    assert from_cfg(path).fc_padding == ("valid",)


def test_defaults_of_a_training_file(tmp_path):
    """[D9] Defaults of the engine, not of the preset below."""
    train = write(tmp_path, TRAIN + "batchsize_train = 4", "train.cfg")
    new = from_cfg(write(tmp_path, MODEL), train=train)
    assert (new.sampling, new.validation_sampling) == ("per_class", "uniform")
    assert new.flip_probabilities is None
    assert new.intensity_shift is None
    assert (new.validation_batch_size, new.inference_batch_size) == (50, 10)
    assert new.class_weighting_epochs == (0, 35)
    train = write(tmp_path, TRAIN, "train.cfg")
    with pytest.raises(OptionError, match="required key batchsize_train is missing"):
        from_cfg(write(tmp_path, MODEL), train=train)
    old = from_cfg(write(tmp_path, MODEL + "batchSizeTrain = 3"), train=train)
    assert (old.sampling, old.batch_size) == ("foreground_background", 3)


def test_sampling_keys_of_v070_need_their_switch(tmp_path):
    """[D9]"""
    model = write(tmp_path, MODEL + "batchSizeTrain = 3")
    line = "typeOfSamplingForTraining = 1\n"
    assert from_cfg(model, train=write(tmp_path, TRAIN + line, "train.cfg")).sampling == (
        "foreground_background"
    )
    line += "useDefaultTrainingSamplingFromGtAndRoi = False\n"
    assert from_cfg(model, train=write(tmp_path, TRAIN + line, "train.cfg")).sampling == "uniform"


def test_old_augmentation_keys_are_translated(tmp_path):
    """[D11]"""
    lines = "reflectImagesPerAxis = [1, 0, 0]\nperformIntAugm = True\nbatchsize_train = 1\n"
    config = from_cfg(write(tmp_path, MODEL), train=write(tmp_path, TRAIN + lines, "train.cfg"))
    assert config.flip_probabilities == (0.5, 0.0, 0.0)
    assert config.intensity_shift == (0.0, 0.05)
    assert config.intensity_scale == (1.0, 0.01)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("augm_img_prms_tr = {'elastic': {}}", "a dictionary of affine, not of 'elastic'"),
        ("augm_img_prms_tr = {'affine': {'prob': 2}}", "affine: prob: a number from 0 to 1"),
        ("augm_sample_prms_tr = {'reflect': (1, 0)}", "reflect: a list of 3"),
        ("losses_and_weights = {'focal': 1}", "xentr, iou, dsc, not of 'focal'"),
        ("reweight_classes_in_cost = {'type': 'median'}", "type: one of freq, per_c"),
    ],
)
def test_entries_of_dictionaries_are_checked(tmp_path, line, complaint):
    train = write(tmp_path, TRAIN + "batchsize_train = 1\n" + line, "train.cfg")
    with pytest.raises(OptionError) as refusal:
        from_cfg(write(tmp_path, MODEL), train=train)
    assert f"{train}, line 7: {line.split()[0]}" in str(refusal.value)
    assert complaint in str(refusal.value)


def test_training_and_inference_share_one_preparation(tmp_path):
    train = write(tmp_path, TRAIN + "batchsize_train = 1", "train.cfg")
    test = write(tmp_path, "padInputImagesBool = False", "test.cfg")
    with pytest.raises(OptionError, match="pad_inputs is False, but True in the training file"):
        from_cfg(write(tmp_path, MODEL), train=train, test=test)


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore:.*curly quotes")
def test_every_published_file_is_read_unedited(fetal_files, example_files):
    counted = 0
    for path in [*fetal_files.rglob("*.cfg"), *example_files.rglob("*.cfg")]:
        kind = next((k for k in KEYS if f"{k}config" in path.name.lower().replace("_", "")), None)
        if kind is None:
            assert len(cfg.read_list(path)) == 2, path
        else:
            assert cfg.read_cfg(path, kind).values, path
        counted += 1
    assert counted == 46


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore:.*curly quotes")
def test_published_sessions_name_their_files(fetal_files, example_files):
    brain = session.read_test_session(fetal_files / "bdn/test/bdn_test_config.cfg")
    assert brain.name == "test_brain_region_detect"
    assert [case.name for case in brain.cases] == [
        "scan1_detected_brain_region",
        "scan2_detected_brain_region",
    ]
    assert brain.cases[0].channels == (Path("/path/to/normalised/scan1.nii"),)
    assert brain.cases[0].mask is None
    cortex = session.read_test_session(fetal_files / "cgm/test/cgm_test_config.cfg")
    assert cortex.cases[1].mask == Path("/path/to/roi/scan2.nii.gz")
    assert cortex.saved.probabilities == (True, True)
    tiny = session.read_train_session(example_files / "tinyCnn/train/trainConfigWithValidation.cfg")
    data = example_files.parent / "dataForExamples/brats2015TrainingData"
    assert (
        tiny.cases[0].channels[1] == data / "train/brats_2013_pat0005_1/T1c_subtrMeanDivStd.nii.gz"
    )
    assert tiny.validation_cases[1].labels == (
        data / "validation/brats_2013_pat0004_1/OTMultiClass.nii.gz"
    )
    assert tiny.validation_cases[0].name == "pred_brats_2013_pat0003_1"
    assert tiny.tensorboard
    saved = session.read_test_session(example_files / "tinyCnn/test/testConfig.cfg").saved
    assert saved.feature_ranges == ((None, (1, 3), None), (), (None,))


def test_lists(tmp_path):
    """[G16] A dash is no image, in the first channel too."""
    write(tmp_path, "# comment\n\n-\n sub/b.nii \n", "t2w.cfg")
    write(tmp_path, "/data/a.nii\n-\n", "mask.cfg")
    write(tmp_path, "a.nii.gz\nb.x\n", "names.cfg")
    path = write(
        tmp_path,
        'folderForOutput = "../out"\nchannels = ["t2w.cfg"]\nroiMasks = "mask.cfg"\n'
        'namesForPredictionsPerCase = "names.cfg"\nsaveProbMapsForEachClass = []',
    )
    found = session.read_test_session(path)
    assert found.output_folder == tmp_path.parent / "out"
    assert found.name == "testSession"
    assert found.saved.probabilities == ()
    first, second = found.cases
    assert (first.channels, first.mask, first.name) == ((None,), Path("/data/a.nii"), "a")
    assert (second.channels, second.mask) == ((tmp_path / "sub/b.nii",), None)
    assert second.name == "b.x"


def test_lists_of_different_length_are_refused(tmp_path):
    write(tmp_path, "a\nb\n", "t2w.cfg")
    write(tmp_path, "a\n", "labels.cfg")
    path = write(tmp_path, TRAIN)
    with pytest.raises(DataError, match=r"labels.cfg: expected 2 entries as in .*t2w.cfg, found 1"):
        session.read_train_session(path)


def test_data_frames(tmp_path):
    write(
        tmp_path,
        "prediction_filename,channel_b,channel_a,ground_truth\none.nii,b.nii,a.nii,-\n",
        "cases.csv",
    )
    path = write(tmp_path, 'folderForOutput = "out"\ndataframe = "cases.csv"')
    (case,) = session.read_test_session(path).cases
    assert case.channels == (tmp_path / "a.nii", tmp_path / "b.nii")
    assert (case.labels, case.mask, case.name) == (None, None, "one")
