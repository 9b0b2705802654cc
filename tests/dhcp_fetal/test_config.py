"""The configuration: what fits together, what the originals' files resolve to."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from common.errors import OptionError
from dhcp_fetal import geometry
from dhcp_fetal.cfg.fields import from_cfg
from dhcp_fetal.config import CODE, PORT, PRESETS

PUBLISHED = {
    "tinyCnn": "tinyCnn/model/modelConfig.cfg",
    "deepMedic": "deepMedic/model/modelConfig.cfg",
    "deepMedicWide1": "deepMedic/model/modelConfig_wide1.cfg",
}


def test_the_help_path_stays_light():
    heavy = "[m for m in ('numpy', 'keras', 'tensorflow') if m in sys.modules]"
    code = f"import sys, dhcp_fetal.config; print({heavy})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.parametrize(
    ("segment", "output", "contexts"),
    [
        (17, 1, (17, 17)),
        (25, 9, (19, 18)),
        (37, 21, (23, 21)),
        (45, 29, (26, 22)),
    ],
)
def test_sizes_of_the_fetal_network(segment, output, contexts):
    """Specification 3.4 and 4.4."""
    cube = (segment,) * 3
    assert geometry.receptive_field(PORT.kernels) == (17, 17, 17)
    assert geometry.output_size(PORT, cube) == (output,) * 3
    assert geometry.context_sizes(PORT, cube) == tuple((size,) * 3 for size in contexts)
    assert geometry.margins(PORT, cube) == ((8, 8),) * 3


def test_margins_of_an_even_loss_and_an_odd_one():
    """The odd voxel is lost at the far end."""
    kernels = ((3, 2, 4), *((3, 3, 3),) * 7)
    config = replace(PORT, kernels=kernels, context_factors=(), context_filters=(),
                     validation_segment=(25, 25, 25))  # fmt: skip
    assert geometry.margins(config, (45, 45, 45)) == ((8, 8), (7, 8), (8, 9))


def test_a_classifier_that_is_not_padded_shrinks_the_output():
    """[G15] The engine reckons without its kernels."""
    config = replace(
        PORT,
        fc_kernels=((3, 3, 3), (5, 5, 5), (3, 3, 3)),
        fc_padding=("valid",) * 3,
        validation_segment=(25, 25, 25),
    )
    assert geometry.output_size(config, (29, 29, 29)) == (5, 5, 5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"residual_layers": (1,)}, "residual_layers: expected layers 2 to 8, found 1"),
        ({"fc_residual_layers": (4,)}, "fc_residual_layers: expected layers 2 to 3, found 4"),
        ({"frozen_layers": (0,)}, "frozen_layers: expected layers 1 to 8"),
        ({"kernels": ((3, 3, 3),) * 7}, "kernels: expected 8 entries"),
        ({"fc_dropout": (0.5,)}, "fc_dropout: expected 3 entries"),
        ({"context_filters": ((30,) * 8,)}, "context_filters: expected 2 entries"),
        ({"context_kernels": ((5, 5, 5),) * 8}, "context_kernels: expected the receptive field"),
        ({"train_segment": (25, 16, 25)}, "train_segment: expected at least (17, 17, 17)"),
        ({"padding": ("zero",) * 8}, "context_padding: the pathway of factor (3, 3, 3)"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(OptionError) as refusal:
        replace(PORT, **fields)
    assert message in str(refusal.value)


@pytest.mark.shared
def test_the_code_preset_is_the_published_system(fetal_files):
    """[G1] Unedited files, curly quotes and all; [D1] [D2] v0.7.0 by their keys."""
    with pytest.warns(UserWarning, match="curly quotes"):
        assert from_cfg(fetal_files / "cgm/architecture/cgm_model_config.cfg") == CODE
    with pytest.warns(UserWarning, match="curly quotes"):
        brain = from_cfg(fetal_files / "bdn/architecture/bdn_model_config.cfg")
    assert brain == replace(CODE, model_name="model_brain_region_detect")


def recorded(golden_dir, engine, network):
    path = golden_dir / "dhcp_fetal" / "model_params.json"
    return json.loads(path.read_text())[engine][network]


def assert_new_parameters(config, expected):
    """v0.8.4: every resolved parameter that is not a constant of the engine."""

    def lists(value):
        return [lists(entry) for entry in value] if isinstance(value, tuple) else value

    assert config.model_name == expected["_model_name"]
    assert config.classes == expected["_n_classes"]
    assert config.input_channels == expected["_n_in_chans"]
    assert lists(config.filters) == expected["_n_fms_per_l_norm"]
    assert lists(config.kernels) == expected["_kern_dims_per_l_norm"]
    assert lists(config.context_filters) == expected["_n_fms_per_l_subs"]
    assert lists(config.context_kernels) == expected["_kern_dims_per_l_subs"]
    assert lists(config.context_factors) == expected["_subsample_factors"]
    assert lists(config.fc_filters) == expected["_n_fms_in_extra_fcs"]
    assert lists(config.fc_kernels) == expected["_kern_dims_fc"]
    modes = {"VALID": "valid", "mirror": "mirror", None: "valid"}
    assert [modes[mode] for mode in expected["_pad_mode_per_l_norm"]] == lists(config.padding)
    assert [modes[mode] for mode in expected["_pad_mode_per_l_fc"]] == lists(config.fc_padding)
    segments = (config.train_segment, config.validation_segment, config.inference_segment)
    assert lists(segments) == [expected["_inp_dims_hr_path"][k] for k in ("train", "val", "test")]
    rates = (config.dropout, config.context_dropout, config.fc_dropout)
    assert lists(rates) == expected["_dropout_per_pathtype"]
    assert ["fanIn", config.initialisation_scale] == expected["_conv_w_init_type"]
    assert config.activation == expected["_activ_func"]
    assert config.rolling_batches == expected["_n_batches_for_bn_mov_avg"]
    residual = (config.residual_layers, config.context_residual_layers, config.fc_residual_layers)
    indices = [[layer - 1 for layer in layers] for layers in residual]
    assert indices == expected["_inds_layers_for_res_conn_at_outp"][:3]


@pytest.mark.shared
@pytest.mark.parametrize("network", PUBLISHED)
def test_published_examples_resolve_as_in_the_engine(example_files, golden_dir, network):
    config = from_cfg(example_files / PUBLISHED[network])
    assert config.compat == "v0.8.4"
    assert_new_parameters(config, recorded(golden_dir, "deepmedic_v0.8.4", network))


@pytest.mark.shared
def test_the_small_recorded_network_resolves_as_in_the_engine(shared, golden_dir):
    config = from_cfg(shared / "golden/dhcp_fetal/small/small_model.cfg")
    assert_new_parameters(config, recorded(golden_dir, "deepmedic_v0.8.4", "small"))


def test_the_mini_network_is_the_recorded_one(mini, golden_dir):
    expected = recorded(golden_dir, "deepmedic_v0.8.4", "mini")
    assert_new_parameters(replace(mini, model_name="mini"), expected)


def test_the_code_preset_is_what_v070_resolved(golden_dir):
    expected = recorded(golden_dir, "deepmedic_v0.7.0", "cgm")
    assert CODE.model_name == expected["cnnModelName"]
    assert list(CODE.fc_kernels[0]) == expected["kernelDimensionsFirstFcLayer"]  # [D1]
    assert list(geometry.receptive_field(CODE.kernels)) == expected["receptiveFieldNormal"]
    sizes = [expected[f"batchSize{kind}"] for kind in ("Train", "Val", "Infer")]  # [D2]
    assert [CODE.batch_size, CODE.validation_batch_size, CODE.inference_batch_size] == sizes
    assert [list(f) for f in CODE.context_filters] == expected["numFMsPerLayerSubsampled"]
    assert list(CODE.fc_dropout) == expected["dropFc"]


@pytest.mark.shared
def test_training_and_test_files_settle_the_rest(example_files):
    folder = example_files / "deepMedic"
    config = from_cfg(
        folder / "model/modelConfig.cfg",
        train=folder / "train/trainConfig.cfg",
        test=folder / "test/testConfig.cfg",
    )
    assert config.sampling == "per_class"
    assert config.batch_size == 10
    assert config.rms_epsilon == 1e-4
    assert config.normalised_momentum is False
    assert config.schedule_epochs == (17, 22, 27, 30, 33)
    assert config.schedule_wait == 10
    assert config.flip_probabilities == (0.5, 0.0, 0.0)
    assert config.intensity_shift == (0.0, 0.05)
    assert config.turn_probabilities == ((0.0,) * 4,) * 3
    assert config.zscore_channels == "none"
    assert config.zscore_percentiles == (5.0, 95.0)
    assert config.epochs_between_volumes == 5
    tiny = example_files / "tinyCnn"
    config = from_cfg(
        tiny / "model/modelConfig.cfg", train=tiny / "train/trainConfigWithValidation.cfg"
    )
    assert config.affine_probability == 0.7
    assert config.turn_probabilities[0] == (0.8, 0.1, 0.0, 0.1)
    assert config.sampling == "foreground_background"
    assert (config.validation_segments_per_subepoch, config.validation_batch_size) == (5000, 50)
    assert (config.epochs, config.subepochs, config.schedule) == (2, 2, "poly")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_serve_one_kind_of_data(name):
    config = PRESETS[name]
    assert (config.classes, config.input_channels) == (2, 1)
    assert config.epochs >= max(config.schedule_epochs, default=0)
