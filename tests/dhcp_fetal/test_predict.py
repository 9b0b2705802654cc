"""Both networks on one scan or many, each alone, and the original's own files."""

from dataclasses import replace

import keras
import nibabel
import numpy as np
import pytest
import tensorflow as tf
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from common.errors import DataError, OptionError
from common.runs.folder import open_run
from common.runs.training_grid import TrainingGrid
from dhcp_fetal import __main__ as command
from dhcp_fetal.chain import Stage, segment_case
from dhcp_fetal.config import QUICK
from dhcp_fetal.data import find_cases
from dhcp_fetal.model import build_model
from dhcp_fetal.networks import choose_device
from dhcp_fetal.predict import predict
from dhcp_fetal.session import CaseFiles, Saved
from dhcp_fetal.tiles import Prediction

SHAPE = (24, 21, 19)
TINY = replace(
    QUICK,
    filters=(3, 3),
    kernels=((3, 3, 3),) * 2,
    padding=("valid",) * 2,
    residual_layers=(),
    context_factors=(),
    context_filters=(),
    fc_filters=(),
    fc_kernels=((1, 1, 1),),
    fc_padding=("valid",),
    fc_dropout=(),
    train_segment=(9, 9, 9),
    validation_segment=(9, 9, 9),
    inference_segment=(19, 19, 19),
    inference_batch_size=2,
    normalisation="volume",
)


@pytest.fixture(scope="module", autouse=True)
def float32():
    keras.config.set_dtype_policy("float32")


def write_scan(path, seed, *, bright=True, codes=(1, 1)):
    """Noise with a bright box, in a geometry of its own."""
    array = np.random.default_rng(seed).normal(100, 5, SHAPE)
    if bright:
        array[6:14, 5:15, 4:12] += 80
    affine = np.array([[0, -0.8, 0, 5], [0.9, 0, 0, -7], [0, 0, 1.1, 3], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(array.astype(np.int16), affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=codes[0])
    image.set_sform(affine, code=codes[1])
    nibabel.save(image, path)
    return path


def threshold_stage(what, limit):
    """A stage that says 1 where the middle of its input is above a limit."""

    def segment(image, mask=None):
        inside = np.ones(image.shape[:3], bool) if mask is None else mask > 0
        high = (image[..., 0] > limit) & inside
        probabilities = np.stack([inside & ~high, high], axis=-1).astype(np.float32)
        return Prediction(high.astype(np.int16), probabilities)

    return Stage(what, segment, TINY)


STAGES = [threshold_stage("brain", 1.0), threshold_stage("cortex", 2.0)]


def corner_stage(grid, *, resample=False):
    """A stage that says 1 in the first three voxels of x, of y and of z, whatever it is shown."""

    def segment(image, mask=None):
        found = np.zeros(image.shape[:3], np.int16)
        found[:3, :2, :1] = 1
        return Prediction(found, np.stack([1.0 - found, found], axis=-1).astype(np.float32))

    return Stage("labels", segment, TINY, grid=grid, resample=resample)


def read(path):
    return np.asanyarray(nibabel.load(path).dataobj)


def test_the_second_network_works_within_what_the_first_finds(tmp_path):
    """The box is found; noise outside it is not looked at, however bright."""
    scan = write_scan(tmp_path / "scan.nii.gz", 0)
    out = tmp_path / "out"
    out.mkdir()
    line = segment_case(CaseFiles((scan,)), STAGES, out, saved=None)
    brain, cortex = read(out / "scan_brain.nii.gz"), read(out / "scan.nii.gz")
    assert brain.sum() == 8 * 10 * 8
    assert brain[6:14, 5:15, 4:12].all()
    assert line.startswith(f"scan: {cortex.sum()} voxels")
    assert not cortex[brain == 0].any()
    low = [STAGES[0], threshold_stage("cortex", -9.0)]
    segment_case(CaseFiles((scan,)), low, out, saved=None)
    np.testing.assert_array_equal(read(out / "scan.nii.gz"), brain)


def test_outputs_keep_the_geometry_of_the_scan(tmp_path):
    """[G24] Label map and probabilities lie where the scan lies; both stages are written."""
    scan = write_scan(tmp_path / "scan.nii.gz", 0)
    out = tmp_path / "out"
    out.mkdir()
    saved = Saved(label_suffix="", probability_suffix="probability")
    segment_case(CaseFiles((scan,)), STAGES, out, saved=saved)
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "scan.nii.gz",
        "scan_brain.nii.gz",
        "scan_brain_probability0.nii.gz",
        "scan_brain_probability1.nii.gz",
        "scan_probability0.nii.gz",
        "scan_probability1.nii.gz",
    ]
    source = nibabel.load(scan)
    for name in names:
        written = nibabel.load(out / name)
        np.testing.assert_allclose(written.affine, source.affine, atol=1e-6)
        assert written.header.get_xyzt_units()[0] == "mm"
    brain, cortex = read(out / "scan_brain.nii.gz"), read(out / "scan.nii.gz")
    assert not cortex[brain == 0].any()
    probability = read(out / "scan_probability1.nii.gz")
    np.testing.assert_array_equal(probability > 0.5, cortex == 1)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "SAL"])
def test_a_scan_of_another_orientation_is_turned_and_turned_back(tmp_path, orientation):
    """Each orientation of one scan gave labels of its own, without a word."""
    trained = write_scan(tmp_path / "als.nii.gz", 4)
    corner = np.zeros(SHAPE, np.int16)
    corner[:3, :2, :1] = 1
    scan = tmp_path / "scan.nii.gz"
    image = nibabel.load(trained)
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(orientation)))
    nibabel.save(image.as_reoriented(turn), scan)
    out = tmp_path / "out"
    out.mkdir()
    stage = corner_stage(TrainingGrid("ALS", (0.9, 0.8, 1.1)))
    saved = Saved(label_suffix="", probability_suffix="p", probabilities=(False, True))
    line = segment_case(CaseFiles((scan,)), [stage], out, saved=saved)
    assert line.startswith("scan: 6 voxels")
    assert line.endswith(f"; turned from {orientation} to ALS")
    for name in ("scan.nii.gz", "scan_p1.nii.gz"):
        found = nibabel.load(out / name)
        np.testing.assert_allclose(found.affine, nibabel.load(scan).affine, atol=1e-6)
        turn_back = ornt_transform(io_orientation(found.affine), io_orientation(image.affine))
        np.testing.assert_array_equal(found.as_reoriented(turn_back).get_fdata(), corner)


@pytest.mark.slow
def test_voxels_of_another_size_are_refused_or_resampled(tmp_path, runs, capsys):
    """At 0.8 mm the Dice fell from .91 to .21, without a word."""
    from common.cli import main

    scan = write_scan(tmp_path / "scan.nii.gz", 4)
    words = ["predict", "--run", str(runs["coarse"]), "--image", str(scan)]
    words += ["--out", str(tmp_path / "out")]
    assert main("dhcp_fetal", argv=words) == 2
    assert (
        "scan: found voxels of 0.9 x 0.8 x 1.1 mm (ALS); the network was trained on 1.25 x 1.25 x "
        "1.25 mm and sees voxels, not millimetres: expected those within 10%, or --resample"
    ) in capsys.readouterr().err
    assert main("dhcp_fetal", argv=[*words, "--resample"]) == 0
    said = capsys.readouterr().out
    assert "; resampled from 0.9 x 0.8 x 1.1 mm to 1.25 x 1.25 x 1.25 mm" in said
    found = nibabel.load(tmp_path / "out" / "scan.nii.gz")
    np.testing.assert_allclose(found.affine, nibabel.load(scan).affine, atol=1e-6)
    assert read(tmp_path / "out" / "scan.nii.gz").all()
    assert found.shape == SHAPE


@pytest.mark.slow
def test_flips_and_an_ensemble_of_one(tmp_path, runs, capsys):
    """A network twice is that network; flips along all axes are the mean of eight answers."""
    from common.cli import main

    scan = write_scan(tmp_path / "scan.nii.gz", 4)
    run, out = str(runs["coarse"]), tmp_path / "out"
    words = ["predict", "--run", run, "--image", str(scan), "--resample", "--probabilities"]
    assert main("dhcp_fetal", argv=[*words, "--out", str(out)]) == 0
    single = read(out / "scan_probability1.nii.gz")
    twice = [*words, "--run", run, "--entropy", "--out", str(out)]
    assert main("dhcp_fetal", argv=twice) == 0
    np.testing.assert_array_equal(read(out / "scan_probability1.nii.gz"), single)
    doubt = -sum(p * np.log2(np.maximum(p, 1e-30)) for p in (single, 1 - single))
    np.testing.assert_allclose(read(out / "scan_entropy.nii.gz"), doubt, atol=1e-5)
    assert main("dhcp_fetal", argv=[*words, "--flips", "x,y,z", "--out", str(out)]) == 0
    capsys.readouterr()
    two = [*words[3:], "--brain", run, "--cortex", run, "--ensemble", '["a"]']
    assert main("dhcp_fetal", argv=["predict", *two]) == 2
    assert "expected an ensemble of --run" in capsys.readouterr().err


def test_of_two_networks_the_names_of_a_test_cfg_say_which_found_what(tmp_path):
    """`scan1_detected_brain_region_Segm` of the brain's own cfg held the cortex."""
    scan = write_scan(tmp_path / "scan.nii.gz", 0)
    out = tmp_path / "out"
    out.mkdir()
    files = CaseFiles((scan,), name="scan1_detected_brain_region")
    saved = Saved(from_cfg=True, probabilities=(False, False))
    segment_case(files, [STAGES[0], threshold_stage("cortex", 3.6)], out, saved=saved)
    names = [f"scan1_detected_brain_region_{what}_Segm.nii.gz" for what in ("brain", "cortex")]
    assert sorted(path.name for path in out.iterdir()) == names
    brain, cortex = (read(out / name) for name in names)
    assert brain.sum() == 8 * 10 * 8
    assert 0 < cortex.sum() < brain.sum()
    segment_case(files, STAGES[:1], tmp_path, saved=saved)
    assert (tmp_path / "scan1_detected_brain_region_Segm.nii.gz").is_file()


def test_a_gpu_that_is_not_there(monkeypatch, capsys):
    """The original's README has `-dev cuda0` everywhere."""
    shown = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *given: shown.append(given))
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    choose_device("cuda0")
    assert capsys.readouterr().err == "note: -dev cuda0: found no GPU, running on the CPU\n"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["first", "second"])
    choose_device("cuda1")
    assert shown == [([], "GPU"), (["second"], "GPU")]
    with pytest.raises(OptionError, match="-dev cuda2: found 2 GPUs, expected that one of them"):
        choose_device("cuda2")


def test_help_has_the_originals_names(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["dhcp_fetal", "--help"])
    assert command.main() == 0
    assert "deepMedicRun the original's name of `train` or `predict`" in capsys.readouterr().out


def test_curly_quotes_are_told_of_in_one_line(tmp_path, monkeypatch, capsys):
    """They were three warnings, each with a line of our source. [G1]"""
    model, test = tmp_path / "model.cfg", tmp_path / "test.cfg"
    model.write_text(
        "numberOfOutputClasses = 2\nnumberOfInputChannels = 1\nnumberFMsPerLayerNormal = [4]\n"
        "kernelDimPerLayerNormal = [[3,3,3]]\nsegmentsDimTrain = [9,9,9]\n"
    )
    test.write_text('sessionName = “a"\nfolderForOutput = "o"\nchannels = ["t2w.cfg"]\n')
    (tmp_path / "t2w.cfg").write_text("scan.nii\n")
    words = ["deepMedicRun", "-model", model, "-test", test, "-load", tmp_path / "none"]
    monkeypatch.setattr("sys.argv", ["dhcp_fetal", *map(str, words)])
    assert command.main() == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first == f"note: {test}: curly quotes are read as straight ones"
    assert last.startswith("dhcp_fetal predict: ")


def make_run(path, seed, config=TINY, bias=None, grid=None):
    """A run folder with an untrained network."""
    keras.utils.set_random_seed(seed)
    model = build_model(config)
    if bias is not None:
        model.get_layer("softmax_bias").bias.assign(bias)
    with open_run(path, paper="dhcp_fetal", options={}, config=config, seed=seed) as record:
        record.write_split({"training": [], "validation": [], "test": []})
        record.record(training_grid=grid)
        model.save(record.path / "model.keras")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "all": make_run(folder / "all", 1, bias=[-50.0, 50.0]),
        "coarse": make_run(folder / "coarse", 1, bias=[-50.0, 50.0],
                           grid={"orientation": "ALS", "spacing_mm": [1.25] * 3}),
        "none": make_run(folder / "none", 1, bias=[50.0, -50.0]),
        "cortex": make_run(folder / "cortex", 2),
    }  # fmt: skip


def test_a_list_goes_on_after_a_scan_without_brain(tmp_path, runs, capsys):
    """Says so, writes empty maps, goes on, and names the scans at the end."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("a", "b"):
        write_scan(scans / f"{name}.nii.gz", 1)
    out = tmp_path / "out"
    with pytest.raises(DataError, match="no usable result for 2 of 2 scans: a, b"):
        predict(brain=runs["none"], cortex=runs["cortex"], cases=scans, out=out)
    assert "a: no brain was found" in capsys.readouterr().err
    for name in ("a", "b", "a_brain", "b_brain"):
        assert not read(out / f"{name}.nii.gz").any()


@pytest.mark.slow
def test_one_damaged_scan_does_not_stop_the_others(tmp_path, runs, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    write_scan(scans / "good.nii.gz", 1)
    (scans / "bad.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match="no usable result for 1 of 2 scans: bad; the others"):
        predict(brain=runs["all"], cortex=runs["cortex"], cases=scans, out=tmp_path / "out")
    assert "bad.nii.gz: cannot be read" in capsys.readouterr().err
    assert read(tmp_path / "out" / "good_brain.nii.gz").all()


def test_the_exit_status_says_that_a_brain_is_missing(tmp_path, runs, capsys):
    """[G17] The original ends with 0 after an error."""
    from common.cli import main

    scan = write_scan(tmp_path / "scan.nii.gz", 1)
    words = ["--brain", str(runs["none"]), "--cortex", str(runs["cortex"])]
    words += ["--image", str(scan), "--out", str(tmp_path / "out")]
    assert main("dhcp_fetal", argv=["predict", *words], option_aliases=command.OPTION_ALIASES) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.endswith("scan: no brain was found; an empty map was written")


@pytest.mark.slow
def test_each_network_alone(tmp_path, runs):
    scan = write_scan(tmp_path / "scan.nii.gz", 2)
    predict(brain=runs["all"], image=scan, out=tmp_path / "brain")
    assert read(tmp_path / "brain" / "scan.nii.gz").all()
    mask = tmp_path / "mask.nii.gz"
    region = np.zeros(SHAPE, np.uint8)
    region[3:9, 3:9, 3:9] = 1
    nibabel.save(nibabel.Nifti1Image(region, nibabel.load(scan).affine), mask)
    predict(runs["all"], image=scan, mask=mask, out=tmp_path / "masked")
    np.testing.assert_array_equal(read(tmp_path / "masked" / "scan.nii.gz"), region)


def test_combinations_that_mean_nothing_are_refused(tmp_path, runs):
    scan = write_scan(tmp_path / "scan.nii.gz", 2)
    with pytest.raises(OptionError, match="--run"):
        predict(image=scan)
    with pytest.raises(OptionError, match="--image and --cases"):
        predict(runs["all"], image=scan, cases=tmp_path)
    with pytest.raises(OptionError, match="--mask"):
        predict(runs["all"], mask=scan, cases=tmp_path)
    with pytest.raises(OptionError, match="no held-out cases"):
        predict(runs["all"])
    with pytest.raises(OptionError, match="a file to read"):
        predict(runs["all"], image=scan, out=tmp_path)
    with pytest.raises(OptionError, match="-dev"):
        predict(runs["all"], image=scan, device="gpu")


@pytest.mark.slow
def test_results_that_would_replace_each_other_are_refused(tmp_path, runs):
    """The brain of `a` and the cortex of `a_brain` have one name; so do two cases of one scan's
    name in the lists of a cfg, which the engine numbers."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("a", "a_brain"):
        write_scan(scans / f"{name}.nii.gz", 1)
    out = tmp_path / "out"
    with pytest.raises(OptionError, match=r"a and a_brain would both .* a_brain\.nii\.gz"):
        predict(brain=runs["all"], cortex=runs["cortex"], cases=scans, out=out)
    assert not out.exists()
    predict(runs["all"], cases=scans, out=out)
    assert sorted(path.name for path in out.iterdir()) == ["a.nii.gz", "a_brain.nii.gz"]
    (tmp_path / "t2w.cfg").write_text("s1/t2w.nii\ns2/t2w.nii\n")
    (tmp_path / "test.cfg").write_text('folderForOutput = "o"\nchannels = ["t2w.cfg"]\n')
    with pytest.raises(DataError, match="case 2: id 't2w' was already used in case 1"):
        predict(runs["all"], test_cfg=tmp_path / "test.cfg")
    assert not (tmp_path / "o").exists()


def test_the_originals_script_name_stands_for_two_commands():
    assert command.choose_command(["deepMedicRun", "-model", "m", "-train", "t"])[0] == "train"
    assert command.choose_command(["deepMedicRun", "-model", "m", "-test", "t"])[0] == "predict"
    assert command.choose_command(["predict", "--run", "r"]) == ["predict", "--run", "r"]


@pytest.mark.shared
@pytest.mark.slow
def test_the_originals_command_gives_its_files(shared, example_files, tmp_path):
    """-model -test -load: names, folders, headers [G24] and label maps of the recorded run."""
    from common.cli import main

    crop = shared / "golden/dhcp_fetal/crop"
    test = tmp_path / "test"
    test.mkdir()
    lists = {
        "flair.cfg": "Flair_subtrMeanDivStd.nii.gz",
        "t1c.cfg": "T1c_subtrMeanDivStd.nii.gz",
    }
    for name, file in lists.items():
        (test / name).write_text(f"{crop / file}\n")
    (test / "names.cfg").write_text("pat0003_crop.nii.gz\n")
    (test / "test.cfg").write_text(
        'sessionName = "golden"\nfolderForOutput = "../output"\n'
        'channels = ["./flair.cfg", "./t1c.cfg"]\nnamesForPredictionsPerCase = "./names.cfg"\n'
        "saveProbMapsForEachClass = [False, True, False, False, False]\nbatchsize = 10\n"
    )
    checkpoint = shared / "golden/dhcp_fetal/tiny/tinyCnn.step400.model.ckpt"
    words = ["predict", "-model", str(example_files / "tinyCnn/model/modelConfig.cfg")]
    words += ["-test", str(test / "test.cfg"), "-load", str(checkpoint), "-dev", "cpu"]
    assert main("dhcp_fetal", argv=words, option_aliases=command.OPTION_ALIASES) == 0
    folder = tmp_path / "output/predictions/golden/predictions"
    names = ["pat0003_crop_ProbMapClass1.nii.gz", "pat0003_crop_Segm.nii.gz"]
    assert sorted(path.name for path in folder.iterdir()) == names
    written = nibabel.load(folder / names[1])
    assert written.get_data_dtype() == np.int16
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (0, 2)
    with np.load(shared / "golden/dhcp_fetal/tiny/tiny_infer.npz") as recorded:
        np.testing.assert_array_equal(read(folder / names[1]), recorded["step400_noroi_segm"])


@pytest.mark.shared
def test_a_checkpoint_of_another_architecture_is_refused(shared, fetal_files, tmp_path, capsys):
    """Names the first tensors that differ."""
    from common.cli import main

    scan = write_scan(tmp_path / "scan.nii.gz", 3)
    model = fetal_files / "cgm/architecture/cgm_model_config.cfg"
    checkpoint = shared / "golden/dhcp_fetal/tiny/tinyCnn.step400.model.ckpt"
    words = ["predict", "-model", str(model), "-load", str(checkpoint), "--image", str(scan)]
    assert main("dhcp_fetal", argv=words, option_aliases=command.OPTION_ALIASES) == 2
    assert "net/" in capsys.readouterr().err


def test_find_cases_is_what_a_list_means(tmp_path):
    write_scan(tmp_path / "a.nii.gz", 1)
    (tmp_path / "list.cfg").write_text("a.nii.gz\n")
    assert find_cases(tmp_path / "list.cfg") == find_cases(tmp_path)
