"""The messages of TensorFlow Serving's gRPC interface, from their field numbers alone.

With these a client needs grpcio and protobuf, not TensorFlow. The tests exchange them with servers
that use the official messages. Source: tensorflow_serving/apis/{model,predict,get_model_metadata}.
proto, tensorflow/core/framework/{tensor,tensor_shape}.proto, tensorflow/core/protobuf/
meta_graph.proto.
"""

import math

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from common.errors import ServingError

NAMES = {
    1: "DT_FLOAT", 2: "DT_DOUBLE", 3: "DT_INT32", 4: "DT_UINT8", 5: "DT_INT16", 6: "DT_INT8",
    7: "DT_STRING", 9: "DT_INT64", 10: "DT_BOOL", 17: "DT_UINT16", 19: "DT_HALF", 22: "DT_UINT32",
    23: "DT_UINT64",
}  # fmt: skip
"""TensorFlow's types by their number."""
DTYPES = {
    1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16, 6: np.int8, 9: np.int64,
    10: np.bool_, 17: np.uint16, 19: np.float16, 22: np.uint32, 23: np.uint64,
}  # fmt: skip
NUMBERS = {np.dtype(kind): number for number, kind in DTYPES.items()}
VALUES = {
    1: "float_val", 2: "double_val", 9: "int64_val", 10: "bool_val", 19: "half_val",
    22: "uint32_val", 23: "uint64_val",
}  # fmt: skip
"""Field with the values of a tensor that is not sent as bytes; `int_val` for all other types."""
METHOD = "/tensorflow.serving.PredictionService/"

_FIELDS = {
    "Dim": "size:int64=1",
    "Shape": "dim:*Dim=2 unknown_rank:bool=3",
    "Tensor": "dtype:int32=1 tensor_shape:Shape=2 tensor_content:bytes=4 float_val:*float=5 "
    "double_val:*double=6 int_val:*int32=7 int64_val:*int64=10 bool_val:*bool=11 "
    "half_val:*int32=13 uint32_val:*uint32=16 uint64_val:*uint64=17",
    "Version": "value:int64=1",
    "ModelSpec": "name:string=1 version:Version=2 signature_name:string=3",
    "PredictRequest": "model_spec:ModelSpec=1 inputs:@Tensor=2 output_filter:*string=3",
    "PredictResponse": "outputs:@Tensor=1 model_spec:ModelSpec=2",
    "GetModelMetadataRequest": "model_spec:ModelSpec=1 metadata_field:*string=2",
    "Any": "type_url:string=1 value:bytes=2",
    "GetModelMetadataResponse": "model_spec:ModelSpec=1 metadata:@Any=2",
    "TensorInfo": "name:string=1 dtype:int32=2 tensor_shape:Shape=3",
    "SignatureDef": "inputs:@TensorInfo=1 outputs:@TensorInfo=2 method_name:string=3",
    "SignatureDefMap": "signature_def:@SignatureDef=1",
}
"""Fields of each message as name:type=number; *: repeated; @: a map from names."""


def _make_messages() -> dict[str, type]:
    """Return the class of each message of `_FIELDS`."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="serving.proto", package="p", syntax="proto3")
    for name, text in _FIELDS.items():
        message = file.message_type.add(name=name)
        for entry in text.split():
            field_name, _, rest = entry.partition(":")
            kind, _, number = rest.partition("=")
            field = message.field.add(name=field_name, number=int(number))
            field.label = kinds.LABEL_REPEATED if kind[0] in "*@" else kinds.LABEL_OPTIONAL
            if kind[0] == "@":
                pair = message.nested_type.add(name=f"{field_name.title().replace('_', '')}Entry")
                pair.options.map_entry = True
                _set_type(pair.field.add(name="key", number=1, label=1), "string")
                _set_type(pair.field.add(name="value", number=2, label=1), kind[1:])
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".p.{name}.{pair.name}"
            else:
                _set_type(field, kind.lstrip("*"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"p.{name}"))
        for name in _FIELDS
    }


def _set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    if kind in _FIELDS:
        field.type, field.type_name = field.TYPE_MESSAGE, f".p.{kind}"
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")


MESSAGES = _make_messages()
PredictRequest, PredictResponse = MESSAGES["PredictRequest"], MESSAGES["PredictResponse"]
GetModelMetadataRequest = MESSAGES["GetModelMetadataRequest"]
GetModelMetadataResponse = MESSAGES["GetModelMetadataResponse"]
SignatureDefMap = MESSAGES["SignatureDefMap"]


def fill_tensor(message, array: np.ndarray) -> None:
    """Put an array into a Tensor message, its numbers as bytes."""
    array = np.asarray(array)
    message.dtype = NUMBERS[array.dtype]
    message.tensor_shape.SetInParent()
    for size in array.shape:
        message.tensor_shape.dim.add(size=size)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    message.tensor_content = np.ascontiguousarray(little).tobytes()


def read_tensor(message) -> np.ndarray:
    """Return the array of a Tensor message, whose values are bytes or a list; of a list that is
    too short the last value stands for the rest.

    Raises:
        ServingError: the type is none of numbers, or the values do not fill the shape.
    """
    kind = DTYPES.get(message.dtype)
    if kind is None:
        raise ServingError(f"found a tensor of type {NAMES.get(message.dtype, message.dtype)}")
    shape = tuple(axis.size for axis in message.tensor_shape.dim)
    count = math.prod(shape)
    if message.tensor_content:
        values = np.frombuffer(message.tensor_content, np.dtype(kind).newbyteorder("<"))
    else:
        listed = getattr(message, VALUES.get(message.dtype, "int_val"))
        if kind is np.float16:
            values = np.array(listed, np.uint16).view(np.float16)
        else:
            values = np.array(listed, kind)
        if 0 < values.size < count:
            values = np.concatenate([values, np.repeat(values[-1:], count - values.size)])
    if values.size != count:
        raise ServingError(f"found {values.size} numbers in a tensor of {shape}")
    return values.astype(kind, copy=False).reshape(shape)
