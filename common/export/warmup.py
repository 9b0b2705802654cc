"""Warmup requests: what TensorFlow Serving runs through a model before it serves the first client.

The file is a TFRecord of `tensorflow.serving.PredictionLog` messages. They nest four levels of
length-delimited fields around a `TensorProto`, so they are put together here from TensorFlow's own
protocol buffers and the field numbers below; the package tensorflow-serving-api is not needed.

Source: tensorflow_serving/apis/prediction_log.proto, predict.proto, model.proto.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
"""Where TensorFlow Serving looks, below the folder of a version."""

# Field numbers of the messages, from the files named above.
PREDICT_LOG, REQUEST = 6, 1
MODEL_SPEC, INPUTS = 1, 2
MODEL_NAME, SIGNATURE_NAME = 1, 3
KEY, VALUE = 1, 2
_LENGTH_DELIMITED = 2


class Request(NamedTuple):
    """One request to a model."""

    model: str
    signature: str
    inputs: Mapping[str, np.ndarray]


def write_warmup(path: Path, requests: list[Request]) -> None:
    """Write warmup requests; a signature without one is slow for its first client."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for request in requests:
            file.write(_field(PREDICT_LOG, _field(REQUEST, encode_request(request))))


def read_warmup(path: Path) -> list[Request]:
    """Read warmup requests back; raise `OSError` or `ValueError` if that cannot be done."""
    if not path.is_file():
        raise FileNotFoundError(2, "No such file or directory", str(path))
    try:
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
        requests = [decode_request(_only(_only(r, PREDICT_LOG), REQUEST)) for r in records]
    except (tf.errors.OpError, IndexError, KeyError, TypeError, UnicodeDecodeError) as failure:
        raise ValueError(f"{path} holds no warmup requests: {failure}") from None
    if not requests:
        raise ValueError(f"{path} holds no warmup requests: it is empty or cut off")
    return requests


def encode_request(request: Request) -> bytes:
    """Return a serialised `tensorflow.serving.PredictRequest`."""
    spec = _field(MODEL_NAME, request.model.encode())
    spec += _field(SIGNATURE_NAME, request.signature.encode())
    message = _field(MODEL_SPEC, spec)
    for name, array in request.inputs.items():
        tensor = tf.make_tensor_proto(array).SerializeToString()
        message += _field(INPUTS, _field(KEY, name.encode()) + _field(VALUE, tensor))
    return message


def decode_request(message: bytes) -> Request:
    """Read a serialised `PredictRequest`, the reverse of `encode_request`."""
    spec = _only(message, MODEL_SPEC)
    inputs = {}
    for number, entry in _fields(message):
        if number == INPUTS:
            tensor = tensor_pb2.TensorProto.FromString(_only(entry, VALUE))
            inputs[_only(entry, KEY).decode()] = tf.make_ndarray(tensor)
    return Request(_only(spec, MODEL_NAME).decode(), _only(spec, SIGNATURE_NAME).decode(), inputs)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that another follows."""
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place < len(message):
        key, place = _read_varint(message, place)
        if key & 7 != _LENGTH_DELIMITED:
            raise TypeError(f"a field of wire type {key & 7}")
        length, place = _read_varint(message, place)
        if place + length > len(message):
            raise IndexError("a field that ends beyond its message")
        yield key >> 3, message[place : place + length]
        place += length


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        shift, place = shift + 7, place + 1
        if byte < 128:
            return value, place


def _only(message: bytes, number: int) -> bytes:
    return dict(_fields(message))[number]
