"""Tables beside each other, and a checkpoint of the original as a run of ours."""

import json

import numpy as np
import pytest

from common.cli import main
from common.runs.folder import load_config
from common.study.compare import compare_presets
from dhcp_fetal import __main__ as command
from dhcp_fetal.config import CODE, PORT, PRESETS, QUICK, Config
from dhcp_fetal.networks import load_run_network
from dhcp_fetal.study.comparison import compare_layers, compare_weights, list_layers


def test_presets_that_differ_come_first():
    rows = compare_presets(PRESETS)
    assert rows[0]["differs"] == "yes"
    by_field = {row["field"]: row for row in rows}
    assert by_field["multiply_by_mask"]["code"] is True
    assert by_field["multiply_by_mask"]["port"] is False
    assert len(rows) == len(vars(PORT))


def test_layers_have_the_originals_names():
    rows = list_layers(QUICK)
    names = [row["original"] for row in rows]
    assert "net/W_9" in names
    assert "net/W_10" not in names
    assert sum(row["parameters"] for row in rows if row["trained"] == "yes") == 32_764


def test_layers_come_one_after_the_other_in_the_ports_shapes():
    """They were grouped by kind, and the engine's [out, in, x, y, z] stood in the port's column."""
    rows = {row["port"]: row for row in list_layers(QUICK)}
    first = ["normal_1_bias/bias", "normal_1_conv/kernel", "normal_2_norm/gamma"]
    assert list(rows)[:3] == first
    assert list(rows)[-1] == "softmax_bias/bias"
    assert rows["normal_2_conv/kernel"]["shape"] == "3x3x3x8x8"
    assert rows["normal_3_conv/kernel"]["shape"] == "3x3x3x8x12"
    assert rows["normal_3_conv/kernel"]["original"] == "net/W_2"
    assert "Kernels are out x in x" in compare_layers(QUICK).text


def test_weights_of_another_architecture_show_their_shapes_first(golden_dir):
    rows = compare_weights(None, golden_dir / "dhcp_fetal" / "mini_v070.model.ckpt", QUICK)
    assert rows[0]["difference"] == "–"
    assert rows[0]["network"] != rows[0]["checkpoint"]


MINI = """
modelName = "mini"
numberOfOutputClasses = 3
numberOfInputChannels = 2
numberFMsPerLayerNormal = [4, 4, 5, 5]
kernelDimPerLayerNormal = [[3,3,3], [3,3,3], [3,3,3], [3,3,3]]
layersWithResidualConnNormal = [4]
useSubsampledPathway = True
subsampleFactor = [[3,3,3], [5,5,5]]
numberFMsPerLayerFC = [6, 6]
kernelDimFor1stFcLayer = [3,3,3]
layersWithResidualConnFC = [2]
dropoutRatesFc = [0, 0, 0]
segmentsDimTrain = [13,13,13]
segmentsDimInference = [17,17,17]
rollAverageForBNOverThatManyBatches = 4
batchSizeTrain = 3
"""


@pytest.mark.slow
def test_a_checkpoint_becomes_a_run(golden, golden_dir, tmp_path, capsys):
    """The converted network gives the recorded probabilities: 1e-5."""
    (tmp_path / "model.cfg").write_text(MINI)
    checkpoint = golden_dir / "dhcp_fetal" / "mini_v070.model.ckpt.index"
    run = tmp_path / "run"
    words = ["--original", str(checkpoint), "-model", str(tmp_path / "model.cfg")]
    assert main("dhcp_fetal", argv=["convert", *words, "--run", str(run)],
                option_aliases=command.OPTION_ALIASES) == 0  # fmt: skip
    config = load_config(run, Config)
    assert (config.compat, config.normalisation) == ("v0.7.0", CODE.normalisation)
    network, _ = load_run_network(run)
    steps = golden("mini")
    inputs = [np.moveaxis(steps[f"test_x{part}"], 1, -1) for part in ("", "_sub_0", "_sub_1")]
    expected = np.moveaxis(steps["v0.7.0/test_prob_step6"], 1, -1)
    np.testing.assert_allclose(network(inputs), expected, atol=1e-5)
    files = json.loads((run / "manifest.json").read_text())["data_files"]
    assert len(files) == 2
    capsys.readouterr()
    words = ["compare", "--run", str(run), "--original", str(checkpoint), "--out",
             str(tmp_path / "tables.json"), "--preset", "quick"]  # fmt: skip
    assert main("dhcp_fetal", argv=words, option_aliases=command.OPTION_ALIASES) == 0
    assert set(json.loads((tmp_path / "tables.json").read_text())) == {
        "presets",
        "layers",
        "inference",
        "weights",
    }
    rows = compare_weights(run, checkpoint, config)
    assert {row["difference"] for row in rows} == {"0"}
