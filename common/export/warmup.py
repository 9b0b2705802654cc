"""Warmup requests: what TensorFlow Serving runs through a model before it serves the first client.

The file is a TFRecord of `tensorflow.serving.PredictionLog` messages. The few fields that are
needed are declared here, so that the package tensorflow-serving-api is not.

Source: tensorflow_serving/apis/prediction_log.proto, predict.proto, model.proto.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
"""Where TensorFlow Serving looks, below the folder of a version."""

MESSAGES = {
    "ModelSpec": {1: ("name", str), 3: ("signature_name", str)},
    "Input": {1: ("key", str), 2: ("value", ".tensorflow.TensorProto")},
    "PredictRequest": {1: ("model_spec", ".warmup.ModelSpec"), 2: ("inputs", [".warmup.Input"])},
    "PredictLog": {1: ("request", ".warmup.PredictRequest")},
    "PredictionLog": {6: ("predict_log", ".warmup.PredictLog")},
}
"""Names and types of the fields by number; on the wire a map is a list of keys and values."""


class WarmupRequest(NamedTuple):
    """One request to a model."""

    model: str
    signature: str
    inputs: Mapping[str, np.ndarray]


def write_warmup(path: Path, requests: list[WarmupRequest]) -> None:
    """Write warmup requests; a signature without one is slow for its first client."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for request in requests:
            log = PredictionLog()
            log.predict_log.request.CopyFrom(_message_of(request))
            file.write(log.SerializeToString())


def read_warmup(path: Path) -> list[WarmupRequest]:
    """Read warmup requests back; raise `OSError` or `ValueError` if that cannot be done."""
    if not path.is_file():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    requests = []
    try:
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            request = PredictionLog.FromString(record).predict_log.request
            inputs = {each.key: tf.make_ndarray(each.value) for each in request.inputs}
            spec = request.model_spec
            requests.append(WarmupRequest(spec.name, spec.signature_name, inputs))
    except (tf.errors.OpError, DecodeError, TypeError, ValueError) as failure:
        raise ValueError(f"{path} holds no warmup requests: {failure}") from None
    if not requests or not all(request.model for request in requests):
        raise ValueError(f"{path} holds no warmup requests: empty, cut off or of another kind")
    return requests


def encode_request(request: WarmupRequest) -> bytes:
    """Return a serialised `tensorflow.serving.PredictRequest`."""
    return _message_of(request).SerializeToString()


def _message_of(request: WarmupRequest) -> Any:
    spec = {"name": request.model, "signature_name": request.signature}
    message = PredictRequest(model_spec=spec)
    for name, array in request.inputs.items():
        message.inputs.add(key=name, value=tf.make_tensor_proto(array))
    return message


def _declare(messages: Mapping[str, Mapping]) -> list[type]:
    """Return the classes of some messages."""
    file = descriptor_pb2.FileDescriptorProto(
        name="common/export/warmup.proto", package="warmup", dependency=[tensor_pb2.DESCRIPTOR.name]
    )
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in fields.items():
            added = message.field.add(name=field, number=number)
            added.label = added.LABEL_REPEATED if isinstance(kind, list) else added.LABEL_OPTIONAL
            added.type = added.TYPE_STRING if kind is str else added.TYPE_MESSAGE
            if kind is not str:
                added.type_name = kind[0] if isinstance(kind, list) else kind
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    found = (pool.FindMessageTypeByName(f"warmup.{name}") for name in messages)
    return [message_factory.GetMessageClass(each) for each in found]


*_, PredictRequest, _, PredictionLog = _declare(MESSAGES)
