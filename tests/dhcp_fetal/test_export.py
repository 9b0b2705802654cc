"""The exported graph against the Python path, in this process and in one without Keras."""

from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf

from common.errors import OptionError
from common.runs import open_run
from dhcp_fetal.config import QUICK
from dhcp_fetal.data import normalise
from dhcp_fetal.export import export
from dhcp_fetal.model import build_model
from dhcp_fetal.serving import segment_in_graph
from dhcp_fetal.tiles import make_apply, predict_volume

SMALL = replace(
    QUICK,
    input_channels=2,
    context_factors=((3, 3, 3), (4, 2, 4)),
    context_filters=((8, 8, 12, 12),) * 2,
    inference_segment=(21, 19, 20),
    inference_batch_size=1,
    tiling="engine",
    normalisation="volume",
)


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(3)
    model = build_model(SMALL)
    random = np.random.default_rng(3)
    for variable in model.trainable_variables:
        variable.assign(variable + random.normal(0, 0.05, variable.shape))
    return model


@pytest.mark.parametrize(
    ("shape", "changes", "masked"),
    [
        ((34, 30, 27), {}, False),
        ((34, 30, 27), {"normalisation": "brain"}, True),
        ((5, 30, 1), {"align_context_at_border": True, "centred_context": True}, False),
        ((40, 30, 22), {"pad_inputs": False, "normalisation": "none"}, False),
    ],
)
def test_graph_equals_the_python_path(network, shape, changes, masked):
    """[G4] [G7] [G26] Odd and even factors, small images. 1e-5; 4e-7 was measured."""
    config = replace(SMALL, **changes)
    image = np.random.default_rng(0).normal(0, 1, (*shape, 2)).astype(np.float32)
    mask = None
    if masked:
        mask = np.zeros(shape, np.int16)
        mask[4:20, 6:22, 3:20] = 2
    inside = mask > 0 if masked else None
    prepared = normalise(image, config.normalisation, inside)
    expected = predict_volume(make_apply(network), prepared, config, mask=mask).probabilities
    graph = tf.function(lambda scan: segment_in_graph(network, scan, mask, config))
    np.testing.assert_allclose(graph(tf.constant(image)).numpy(), expected, atol=1e-5)
    assert np.ptp(expected[..., 1]) > 0.05


def test_export_is_served_without_keras(tmp_path, network):
    """The comparison is part of the export: it raises where anything differs."""
    config = replace(SMALL, input_channels=1, context_factors=((3, 3, 3),),
                     context_filters=((8, 8, 12, 12),))  # fmt: skip
    run = tmp_path / "run"
    keras.utils.set_random_seed(4)
    with open_run(run, paper="dhcp_fetal", options={}, config=config, seed=0) as record:
        build_model(config).save(record.path / "model.keras")
    export(run, tmp_path / "models", name="fetal")
    served = tf.saved_model.load(str(tmp_path / "models" / "fetal" / "1")).signatures
    assert set(served) == {"serving_default", "masked", "segments"}
    image = np.random.default_rng(1).normal(300, 50, (25, 24, 23, 1)).astype(np.float32)
    found = served["serving_default"](image=tf.constant(image))
    assert found["labels"].dtype == tf.int16
    assert found["labels"].shape == (25, 24, 23)
    np.testing.assert_array_equal(found["labels"], found["probabilities"].numpy().argmax(-1))
    assert set(served["segments"].structured_input_signature[1]) == {"normal", "context_1"}
    with pytest.raises(OptionError, match="version"):
        export(run, tmp_path / "models", name="fetal", version=0)
