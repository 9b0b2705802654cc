"""Warmup records: bytes by hand, there and back, and as TensorFlow Serving's own package reads."""

import numpy as np
import pytest
import tensorflow as tf

from common.export.warmup import WarmupRequest, encode_request, read_warmup, write_warmup

REQUEST = WarmupRequest(
    "net",
    "volume",
    {"image": np.arange(6, dtype=np.float32).reshape(1, 2, 3), "mask": np.ones((2,), np.int16)},
)


def test_bytes_by_hand():
    """model_spec (1) {name (1): m, signature_name (3): s}, inputs (2) {key (1): x, value (2): ...}

    The tensor: dtype (1) float, tensor_shape (2) {dim (2) {size (1): 1}}, float_val (5) 1.0.
    """
    spec = b"\x0a\x06" + b"\x0a\x01m" + b"\x1a\x01s"
    tensor = b"\x08\x01" + b"\x12\x04\x12\x02\x08\x01" + b"\x2a\x04\x00\x00\x80\x3f"
    entry = b"\x0a\x01x" + b"\x12" + bytes([len(tensor)]) + tensor
    expected = spec + b"\x12" + bytes([len(entry)]) + entry
    assert encode_request(WarmupRequest("m", "s", {"x": np.ones(1, np.float32)})) == expected


def test_there_and_back(tmp_path):
    """Of a length that takes three bytes to write."""
    large = WarmupRequest(
        "net", "probabilities", {"image": np.random.default_rng(0).normal(size=9999)}
    )
    write_warmup(tmp_path / "assets.extra" / "warm", [REQUEST, large])
    found = read_warmup(tmp_path / "assets.extra" / "warm")
    assert [request[:2] for request in found] == [("net", "volume"), ("net", "probabilities")]
    for one, other in zip(found, (REQUEST, large), strict=True):
        assert one.inputs.keys() == other.inputs.keys()
        for name, array in other.inputs.items():
            np.testing.assert_array_equal(one.inputs[name], array, strict=True)


def test_as_the_servers_package_reads_it(tmp_path):
    """The messages of the package that TensorFlow Serving is built from."""
    reason = "tensorflow-serving-api is not installed; `dev` has it"
    log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason=reason)
    write_warmup(tmp_path / "warm", [REQUEST])
    (record,) = tf.data.TFRecordDataset(str(tmp_path / "warm")).as_numpy_iterator()
    message = log.PredictionLog.FromString(record)
    assert message.WhichOneof("log_type") == "predict_log"
    request = message.predict_log.request
    assert (request.model_spec.name, request.model_spec.signature_name) == ("net", "volume")
    for name, array in REQUEST.inputs.items():
        np.testing.assert_array_equal(tf.make_ndarray(request.inputs[name]), array, strict=True)
    assert message.SerializeToString(deterministic=True) == record


@pytest.mark.parametrize("content", [b"no record", b"\0" * 40])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "warm").write_bytes(content)
    with pytest.raises(ValueError, match="holds no warmup requests"):
        read_warmup(tmp_path / "warm")


@pytest.mark.parametrize("record", [b"", b"\x32", b"\x32\x7f\x00", b"\x08\x01", b"\xff"])
def test_a_record_of_another_kind_is_refused(tmp_path, record):
    with tf.io.TFRecordWriter(str(tmp_path / "warm")) as file:
        file.write(record)
    with pytest.raises(ValueError, match="holds no warmup requests"):
        read_warmup(tmp_path / "warm")


def test_an_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_warmup(tmp_path / "warm")
