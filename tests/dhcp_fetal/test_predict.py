"""Both networks on one scan or many, each alone, and the original's own files."""

from dataclasses import replace

import keras
import nibabel
import numpy as np
import pytest

from common.errors import DataError, OptionError
from common.runs.folder import open_run
from dhcp_fetal import __main__ as command
from dhcp_fetal.chain import Stage, segment_case
from dhcp_fetal.config import QUICK
from dhcp_fetal.data import find_cases
from dhcp_fetal.model import build_model
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


def make_run(path, seed, config=TINY, bias=None):
    """A run folder with an untrained network."""
    keras.utils.set_random_seed(seed)
    model = build_model(config)
    if bias is not None:
        model.get_layer("softmax_bias").bias.assign(bias)
    with open_run(path, paper="dhcp_fetal", options={}, config=config, seed=seed) as record:
        record.write_split({"training": [], "validation": [], "test": []})
        model.save(record.path / "model.keras")
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "all": make_run(folder / "all", 1, bias=[-50.0, 50.0]),
        "none": make_run(folder / "none", 1, bias=[50.0, -50.0]),
        "cortex": make_run(folder / "cortex", 2),
    }


def test_a_list_goes_on_after_a_scan_without_brain(tmp_path, runs, capsys):
    """Says so, writes empty maps, goes on, and names the scans at the end."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("a", "b"):
        write_scan(scans / f"{name}.nii.gz", 1)
    out = tmp_path / "out"
    with pytest.raises(DataError, match="2 of 2 scans have no usable result: a, b"):
        predict(brain=runs["none"], cortex=runs["cortex"], cases=scans, out=out)
    assert "a: no brain was found" in capsys.readouterr().err
    for name in ("a", "b", "a_brain", "b_brain"):
        assert not read(out / f"{name}.nii.gz").any()


def test_one_damaged_scan_does_not_stop_the_others(tmp_path, runs, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    write_scan(scans / "good.nii.gz", 1)
    (scans / "bad.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 of 2 scans .*: bad"):
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
    assert last.endswith("no usable result: scan")


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
