"""The packaged recordings are what the originals were recorded with; the ports hold to them."""

import gc
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter

import keras
import numpy as np
import pytest

import dhcp_fetal.recording
import fetal_brain.recording
import raseg.recording
import sarcoma.model
import sarcoma.recording
import vertebra.recording
from common.study.microscope import (
    Rebuilt,
    compare_activations,
    compare_recorded,
    first_divergence,
    load_recorded,
    load_recording,
)
from dhcp_fetal.original_weights import IGNORED, name_variables, original_shape
from vertebra.study.live_torch import compare_live


@dataclass(frozen=True)
class Network:
    """A network of an original that was recorded, and what the port must keep to."""

    paper: str
    name: str
    rebuild: Callable[[], Rebuilt]
    layers: int
    of_scale: float
    """Largest difference allowed in a layer, as a share of its scale; less was measured."""
    tolerance: float = 1e-4
    """The one of the recording, by which the command judges."""
    disturbed: tuple[tuple[str, str], ...] = ()
    """Weights that are made two per cent larger, and the first layer to differ by that."""

    def __str__(self):
        return f"{self.paper}-{self.name}"


NETWORKS = [
    Network(
        "dhcp_fetal", dhcp_fetal.recording.NETWORK, dhcp_fetal.recording.rebuild, 27, 2e-5,
        disturbed=(("context_2_3_conv.kernel", "path2_block2"),),
    ),
    Network(
        "fetal_brain", fetal_brain.recording.NETWORK, fetal_brain.recording.rebuild, 55, 2e-5, 2e-4,
        disturbed=(
            ("enc_unit_2_conv3d.kernel", "enc_unit_2/conv3d/Conv3D"),
            ("upscore_1_batch_normalization.gamma",
             "upscore_1/batch_normalization/batchnorm/add_1"),
        ),
    ),
    Network(
        "raseg", raseg.recording.NETWORK, raseg.recording.rebuild, 27, 1e-5,
        disturbed=tuple((f"{name}.kernel", name) for name in ("down3", "h1_conv4", "logits")),
    ),
    *(
        Network("sarcoma", name, partial(sarcoma.recording.rebuild, name), layers, of_scale,
                disturbed=disturbed)
        for name, layers, of_scale, disturbed in (
            ("unet2d", 23, 2e-5, (("conv2d_8.kernel", "conv2d_8"),)),
            # 2.8e-5 to 3.4e-5 with other instruction sets than those of the first measurement.
            ("cascade", 18, 5e-5, (("2_conv_1.conv.kernel", "2_conv_1"),)),
            ("dilated", 34, 2e-5, ()),
        )
    ),
    Network(
        "vertebra", vertebra.recording.NETWORK, vertebra.recording.rebuild, 14, 2e-5,
        # Of a kernel the normalisation behind it would divide the factor out.
        disturbed=(("conv_up.norm_5.gamma", "conv_up@32"),),
    ),
]  # fmt: skip
SOURCES = {
    "fetal": "DeepMedic v0.7.0 with the published cgm cfg, two tiles of 45 x 45 x 45",
    "fetal_fcn": "the released code on TensorFlow 1.4.1, evaluation of two patches of "
    "3 x 128 x 128",
    "raseg": "the released code on TensorFlow 0.12.1, one volume of 32 x 32 x 20 at full width",
    "unet2d": "UNET_2D under Keras 2.1.6, four patches of 56 x 56",
    "cascade": "the cascade under Keras 2.1.6, its inner variables set, two patches of 56 x 56",
    "dilated": "the dilated network under Keras 2.1.6, its missing names supplied, a sixteenth of "
    "the width, two inputs of 404 x 404",
    "iterative_fcn": "iterativeFCN.py on PyTorch 2.13 in train mode, four channels, a patch of "
    "128 x 128 x 128",
}


@pytest.fixture(scope="module", params=NETWORKS, ids=str)
def network(request):
    """One network after the other."""
    return request.param


@pytest.fixture(scope="module")
def rebuilt(network):
    """The port's network with the recorded weights and input."""
    yield network.rebuild()
    keras.utils.clear_session()
    gc.collect()


def test_the_packaged_recording_is_the_golden_one(network, rebuilt, golden, recipe, golden_dir):
    stored = load_recorded(network.paper)
    layers, variables = FROM_GOLDEN[network.paper](
        golden(network.paper), rebuilt, network, recipe(network.paper), golden_dir / network.paper
    )
    assert stored["variables"][network.name] == variables
    found = stored["networks"][network.name]
    assert found["layers"] == list(layers)
    assert found["checks"] == pytest.approx(rebuilt.sums())
    assert (found["source"], found["tolerance"]) == (SOURCES[network.name], network.tolerance)
    of_paper = {other.name for other in NETWORKS if other.paper == network.paper}
    assert set(stored["networks"]) == set(stored["variables"]) == of_paper


@pytest.mark.slow
def test_every_layer_equals_the_original(network, rebuilt):
    table = compare_recorded(network.paper, network.name, lambda: rebuilt)
    assert len(table.rows) == network.layers
    assert {row["verdict"] for row in table.rows} == {"equal"}
    assert max(row["of scale"] for row in table.rows) < network.of_scale
    assert table.text.startswith(f"No divergence in {network.layers} layers")


@pytest.mark.slow
def test_a_disturbed_layer_is_named(network, rebuilt):
    """It is the first to differ, none before it."""
    recording = load_recording(network.paper, network.name)
    for path, first in network.disturbed:
        layer, _, weights = path.partition(".")
        variable = attrgetter(weights)(rebuilt.model.get_layer(layer))
        kept = np.array(variable)
        variable.assign(kept * 1.02)
        found = rebuilt.activations([each.port for each in recording.layers])
        variable.assign(kept)
        assert first_divergence(compare_activations(recording, found)) == first


@pytest.mark.shared
def test_recorded_shapes_are_those_of_the_released_weights(shared):
    import tensorflow as tf

    from vertebra.original_weights import read_original

    folder = shared / "data" / "dhcp_fetal" / "fetal-segmentation-system"
    index = next(folder.glob("cgm/checkpoint/*.index"))
    published = {name: shape for name, shape in tf.train.list_variables(str(index)[:-6])
                 if not any(ignored(name) for ignored in IGNORED)}  # fmt: skip
    assert load_recorded("dhcp_fetal")["variables"]["fetal"] == published
    tensors = read_original(shared / "data" / "vertebra" / "IterativeFCN_pretrained.pth")
    released = {name: list(array.shape) for name, array in tensors.items()
                if not name.endswith("num_batches_tracked")}  # fmt: skip
    assert load_recorded("vertebra")["variables"]["iterative_fcn"] == released


@pytest.mark.slow
def test_live():
    """Every value of every block; without PyTorch the part says that it is not installed."""
    table = compare_live()
    if not table.rows:
        pytest.skip(table.text)
    assert len(table.rows) == 12
    assert {row["verdict"] for row in table.rows} == {"equal"}


def numbers(values, digits=9):
    return [float(f"{value:.{digits}g}") for value in np.ravel(values)]


def spread(count, size):
    """`count` places spread evenly over `size`, first and last among them."""
    return np.unique(np.arange(count) * (size - 1) // (count - 1))


def dhcp_fetal_from_golden(golden, rebuilt, network, recipe, folder):
    recorded, layers = golden("full_fetal"), []
    assert int(recorded["weights_seed"]) == dhcp_fetal.recording.WEIGHTS_SEED
    assert int(recorded["volume_seed"]) == dhcp_fetal.recording.VOLUME_SEED
    for row, name in enumerate(recorded["block_names"].tolist()):
        shape, half = recorded["block_shape"][row], slice(None, None, 2)
        # The engine keeps channels before the voxels.
        place = np.unravel_index(recorded["block_sample_idx"][row][half], shape)
        ours = (shape[0], *shape[2:], shape[1])
        index = np.ravel_multi_index((place[0], *place[2:], place[1]), ours)
        layers.append({
            "original": name, "port": dhcp_fetal.recording.layer_of(name),
            "shape": [int(n) for n in ours], "index": index.tolist(),
            "values": numbers(recorded["block_sample_val_v070"][row][half]),
        })  # fmt: skip
    shapes = {name: list(original_shape(v)) for name, v in name_variables(rebuilt.model)}
    assert sorted(shapes) == recorded["w_names"].tolist()
    return layers, shapes


def fetal_brain_from_golden(golden, rebuilt, network, recipe, folder):
    recorded, layers = golden("model_eval"), []
    for row, name in enumerate(recorded["layer_names"].tolist()):
        shape = recorded["layer_shapes"][row].tolist()
        layers.append({
            "original": name, "port": recipe.layer_of(name), "shape": shape,
            "index": (np.arange(16) * (int(np.prod(shape)) - 1) // 15).tolist(),
            "values": numbers(recorded["layer_samples"][row]),
        })  # fmt: skip
    initialisation = json.loads((folder / "init.json").read_text())
    return layers, {name: entry["shape"] for name, entry in initialisation.items()}


def raseg_from_golden(golden, rebuilt, network, recipe, folder):
    recorded, layers = golden("small_a"), []
    assert int(recorded["seed"]) == raseg.recording.SEED
    order = [layer.name for layer in rebuilt.model.layers]
    for scope in sorted(recorded["layers"].tolist(), key=order.index):
        shape = (1, *recorded[f"act/{scope}/shape"].tolist())
        i, j, k = recorded[f"act/{scope}/idx"].T
        values, channels = recorded[f"act/{scope}/val"].ravel(), shape[-1]
        voxels = (i * shape[2] + j) * shape[3] + k
        index = (voxels[:, None] * channels + np.arange(channels)).ravel()
        chosen = spread(48, index.size)
        # What is doubled to an odd size is cut by a layer of its own.
        cut = scope.startswith("up") and shape[3] % 2
        layers.append({
            "original": scope, "port": f"{scope}_cut" if cut else scope, "shape": list(shape),
            "index": index[chosen].tolist(), "values": numbers(values[chosen]),
        })  # fmt: skip
    stored = json.loads((folder / "variables.json").read_text())
    return layers, {entry["name"]: entry["shape"] for entry in stored
                    if entry["name"].rpartition("/")[2] in ("weights", "biases")}  # fmt: skip


def sarcoma_from_golden(golden, rebuilt, network, recipe, folder):
    file, prefix = {"unet2d": ("unet2d_full", ""), "cascade": ("cascade", "phase0/"),
                    "dilated": ("dilated", "w16_c2_n404/")}[network.name]  # fmt: skip
    recorded = golden(file)
    layers = list(sarcoma_layers(recorded, f"{prefix}act/", rebuilt, network.name))
    ours = {f"{v.path}:0": v for layer in rebuilt.model.layers for v in layer.weights}
    if network.name == "cascade":
        shapes = dict(zip(recorded["names"].tolist(), recorded["shapes"].tolist(), strict=True))
        return layers, {
            name: [int(n) for n in shapes[name.removesuffix(":0")].strip("(),").split(",")]
            for name in ours
        }
    # The shapes are those of the arrays that were drawn, whose sums were recorded.
    names = recorded[f"{prefix}names" if prefix else "wsum_names"].tolist()
    sums = dict(zip(names, recorded[f"{prefix}wsum"], strict=True))
    assert sorted(sums) == sorted(ours)
    for name, variable in ours.items():
        total = np.asarray(variable).astype(np.float64).sum()
        np.testing.assert_allclose(total, sums[name], rtol=1e-6)
    if network.name == "dilated":  # of the released width, counted when it was recorded
        with sarcoma.model.shapes_alone():
            released = replace(sarcoma.recording.CODE, architecture="dilated")
            whole = sarcoma.model.build_model(released)
            ours = {f"{v.path}:0": v for layer in whole.layers for v in layer.weights}
        assert sum(int(np.prod(v.shape)) for v in ours.values()) == 134_268_958
    return layers, {name: list(variable.shape) for name, variable in ours.items()}


def sarcoma_layers(recorded, prefix, rebuilt, name):
    """Every recorded layer in the order of computation: samples, or else moments."""
    batch = len(rebuilt.inputs[0] if name == "cascade" else rebuilt.inputs)
    for layer in rebuilt.model.layers:
        theirs = layer.name.removesuffix("_1") if "up_sampling" in layer.name else layer.name
        if f"{prefix}{theirs}/mean" not in recorded:
            continue
        entry = {"original": theirs, "port": layer.name,
                 "shape": [batch, *layer.output.shape[1:]]}  # fmt: skip
        if f"{prefix}{theirs}/val" in recorded:
            entry["index"] = recorded[f"{prefix}{theirs}/idx"].tolist()
            entry["values"] = numbers(recorded[f"{prefix}{theirs}/val"], 8)
        else:
            entry["mean"] = numbers(recorded[f"{prefix}{theirs}/mean"], 8)
            entry["deviation"] = numbers(recorded[f"{prefix}{theirs}/std"], 8)
        yield entry


def vertebra_from_golden(golden, rebuilt, network, recipe, folder):
    recorded, layers = golden("model_small"), []
    assert int(recorded["weight_seed"]) == vertebra.recording.SEED
    for name in recorded["block_names"].tolist():
        edge, channels = int(name.partition("@")[2]), 1 if name.startswith("conv_final") else 4
        layers.append({
            "original": name, "port": name, "shape": [1, edge, edge, edge, channels],
            "mean": numbers(recorded[f"a_batch_chmean/{name}"]),
            "deviation": numbers(recorded[f"a_batch_chstd/{name}"]),
        })  # fmt: skip
    z, y, x = recorded["a_S_idx"].astype(int).T
    index = ((z * 128) + y) * 128 + x
    chosen = spread(48, index.size)
    layers += [
        {"original": "sigmoid", "port": "mask", "shape": [1, 128, 128, 128, 1],
         "index": index[chosen].tolist(), "values": numbers(recorded["a_batch_S"][chosen])},
        {"original": "dense", "port": "logit", "shape": [1, 1], "index": [0],
         "values": numbers(recorded["a_batch_C_logit"])},
    ]  # fmt: skip
    shapes = vertebra.recording.original_shapes(vertebra.recording.CODE)
    return layers, {name: list(shape) for name, shape in shapes.items()}


FROM_GOLDEN = {
    "dhcp_fetal": dhcp_fetal_from_golden,
    "fetal_brain": fetal_brain_from_golden,
    "raseg": raseg_from_golden,
    "sarcoma": sarcoma_from_golden,
    "vertebra": vertebra_from_golden,
}
"""Layers and shapes of variables as `recorded.json` has them, from the tests' own recordings."""
