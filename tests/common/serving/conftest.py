"""Two small exported models, and servers that speak TensorFlow Serving's two protocols for them.

The servers evaluate the real SavedModels in this process and write and read the official messages
of tensorflow-serving-api. They show that the protocol is spoken as it is defined; they do not show
what `tensorflow_model_server` does.
"""

import json
import os
import threading
import time
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

# A proxy of the machine has no business between a test and its own server.
os.environ.setdefault("no_proxy", "127.0.0.1,localhost")
NO_API = "tensorflow-serving-api is not installed; `dev` has it"


@dataclass
class Behaviour:
    """What a stand-in does beside answering."""

    delay_s: float = 0.0
    busy: int = 0
    """How many requests are first refused as too many."""
    answer_version: int | None = None
    """Version that answers name instead of the one asked for."""
    largest_message: int = -1
    largest_answer: int = -1
    seen: list[str] = field(default_factory=list)
    """Signature and input shapes of every evaluation."""


class Models:
    """SavedModels by name and version."""

    def __init__(self, folders, behaviour):
        import tensorflow as tf

        self.behaviour = behaviour
        self.folders = {(path.parent.name, int(path.name)): path for path in folders}
        self.loaded = {key: tf.saved_model.load(str(path)) for key, path in self.folders.items()}

    def refusal(self, name, version):
        """Return what the server says of a model it does not have."""
        if (name, version) in self.folders:
            return None
        return f"Servable not found for request: Specific({name}, {version})"

    def is_busy(self):
        self.behaviour.busy -= 1
        return self.behaviour.busy >= 0

    def evaluate(self, key, signature, inputs):
        import tensorflow as tf

        time.sleep(self.behaviour.delay_s)
        shapes = ",".join(str(array.shape) for array in inputs.values())
        self.behaviour.seen.append(f"{signature} {shapes}")
        tensors = {name: tf.constant(array) for name, array in inputs.items()}
        found = self.loaded[key].signatures[signature](**tensors)
        return {name: tensor.numpy() for name, tensor in found.items()}

    def metadata(self, name, version):
        """Return a GetModelMetadataResponse."""
        from tensorflow.core.protobuf import saved_model_pb2
        from tensorflow_serving.apis import get_model_metadata_pb2 as messages

        model = saved_model_pb2.SavedModel()
        model.ParseFromString((self.folders[name, version] / "saved_model.pb").read_bytes())
        signatures = messages.SignatureDefMap()
        for key, value in model.meta_graphs[0].signature_def.items():
            signatures.signature_def[key].CopyFrom(value)
        response = messages.GetModelMetadataResponse()
        response.model_spec.name = name
        response.model_spec.version.value = self.behaviour.answer_version or version
        response.metadata["signature_def"].Pack(signatures)
        return response


def as_proto_field(array):
    """Write a tensor as the server answers by default: values one by one, no `tensor_content`."""
    from tensorflow import as_dtype
    from tensorflow.core.framework import tensor_pb2

    message = tensor_pb2.TensorProto(dtype=as_dtype(array.dtype).as_datatype_enum)
    for size in array.shape:
        message.tensor_shape.dim.add(size=size)
    kind = {"float32": "float_val", "float64": "double_val", "int64": "int64_val"}
    getattr(message, kind.get(array.dtype.name, "int_val")).extend(array.reshape(-1).tolist())
    return message


@contextmanager
def serve_grpc(folders, **behaviour):
    """Serve models over gRPC; yields the URL and the `Behaviour`, which may be changed."""
    grpc = pytest.importorskip("grpc")
    pytest.importorskip("tensorflow_serving", reason=NO_API)
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2
    from tensorflow_serving.apis import prediction_service_pb2_grpc as service

    models = Models(folders, Behaviour(**behaviour))

    class Servicer(service.PredictionServiceServicer):
        def GetModelMetadata(self, request, context):
            name, version = request.model_spec.name, request.model_spec.version.value
            if refusal := models.refusal(name, version):
                context.abort(grpc.StatusCode.NOT_FOUND, refusal)
            return models.metadata(name, version)

        def Predict(self, request, context):
            spec = request.model_spec
            if refusal := models.refusal(spec.name, spec.version.value):
                context.abort(grpc.StatusCode.NOT_FOUND, refusal)
            if models.is_busy():
                context.abort(grpc.StatusCode.UNAVAILABLE, "The batch scheduling queue is full")
            inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
            try:
                found = models.evaluate(
                    (spec.name, spec.version.value), spec.signature_name, inputs
                )
            except tf.errors.InvalidArgumentError as refusal:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, refusal.message)
            response = predict_pb2.PredictResponse()
            response.model_spec.CopyFrom(spec)
            response.model_spec.version.value = (
                models.behaviour.answer_version or spec.version.value
            )
            for name in request.output_filter or found:
                response.outputs[name].CopyFrom(as_proto_field(found[name]))
            return response

    options = [
        ("grpc.max_receive_message_length", models.behaviour.largest_message),
        ("grpc.max_send_message_length", models.behaviour.largest_answer),
    ]
    server = grpc.server(futures.ThreadPoolExecutor(2), options=options)
    service.add_PredictionServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"grpc://127.0.0.1:{port}", models.behaviour
    finally:
        server.stop(None).wait()


@contextmanager
def serve_rest(folders, **behaviour):
    """Serve models over REST; yields the URL and the `Behaviour`, which may be changed."""
    pytest.importorskip("tensorflow_serving", reason=NO_API)
    models = Models(folders, Behaviour(**behaviour))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name, version = self.model("/metadata")
            if refusal := models.refusal(name, version):
                self.answer(404, {"error": refusal})
            else:
                self.answer(200, metadata_as_json(models.metadata(name, version)))

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            name, version = self.model(":predict")
            if refusal := models.refusal(name, version):
                return self.answer(404, {"error": refusal})
            if models.is_busy():
                return self.answer(503, {"error": "The batch scheduling queue is full"})
            signatures = models.metadata(name, version)
            signature, request = read_json_request(body, signatures, name, version)
            found = models.evaluate((name, version), signature, request)
            return self.answer(200, {"outputs": as_columns(found)})

        def model(self, ending):
            assert self.path.endswith(ending), self.path
            _, one, two, name, three, version = self.path.removesuffix(ending).split("/")
            assert (one, two, three) == ("v1", "models", "versions")
            return name, int(version)

        def answer(self, status, content):
            # The server writes answers in column format with one value a line.
            text = json.dumps(content, indent=4).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client's deadline passed

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", models.behaviour
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def metadata_as_json(response):
    """Write metadata as http_rest_api_util.cc does: two messages, put together by hand."""
    from google.protobuf import json_format
    from tensorflow_serving.apis import get_model_metadata_pb2 as messages

    signatures = messages.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    spec, found = (
        json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for message in (response.model_spec, signatures)
    )
    return {"model_spec": spec, "metadata": {"signature_def": found}}


def read_json_request(body, metadata, name, version):
    """Read a request as json_tensor.cc does, through an official PredictRequest."""
    import tensorflow as tf
    from tensorflow.core.framework import types_pb2
    from tensorflow_serving.apis import get_model_metadata_pb2 as messages
    from tensorflow_serving.apis import predict_pb2

    content = json.loads(body)
    signatures = messages.SignatureDefMap()
    metadata.metadata["signature_def"].Unpack(signatures)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.version.value = version
    request.model_spec.signature_name = content["signature_name"]
    for key, info in signatures.signature_def[content["signature_name"]].inputs.items():
        assert info.dtype == types_pb2.DT_FLOAT
        values = np.array(content["inputs"][key], dtype=object)
        flat = values.reshape(-1).tolist()
        assert all(type(value) in (int, float) for value in flat), "numbers are expected"
        assert all(type(value) is float or abs(value) < 2**24 for value in flat), "lossy digits"
        tensor = request.inputs[key]
        tensor.dtype = info.dtype
        for size in values.shape:
            tensor.tensor_shape.dim.add(size=size)
        tensor.float_val.extend(flat)
    again = predict_pb2.PredictRequest.FromString(request.SerializeToString())
    inputs = {key: tf.make_ndarray(value) for key, value in again.inputs.items()}
    return again.model_spec.signature_name, inputs


def as_columns(found):
    """Write outputs as the server does: the only one stands alone; floats in nine digits."""
    lists = {
        name: array.tolist()
        if array.dtype.kind != "f"
        else np.vectorize(lambda value: float(f"{value:.9g}"), otypes=[object])(array).tolist()
        for name, array in found.items()
    }
    return lists if len(lists) > 1 else next(iter(lists.values()))


def write_model(folder, function, *, axes, channels, extra):
    """Export a function of one image as a version with `volume` and a passport."""
    import tensorflow as tf

    from common.export.passport import PASSPORT, describe_input, hash_files, without_tensors
    from common.export.saved_model import read_signatures
    from common.files import write_json

    shape = (None,) * 3 + ((len(channels),) if "C" in axes else ())
    image = tf.TensorSpec(shape, tf.float32, name="image")
    module = tf.Module()
    names = {
        "serving_default": ["labels"],
        "probabilities": ["probabilities"],
        "volume": ["labels", "probabilities"],
    }
    signatures = {
        name: tf.function(
            lambda image, keys=tuple(keys): {key: function(image)[key] for key in keys},
            input_signature=[image],
        )
        for name, keys in names.items()
    }
    mask = tf.TensorSpec((None,) * 3, tf.int16, name="mask")

    @tf.function(input_signature=[image, mask])
    def masked(image, mask):
        inside = tf.cast(mask > 0, tf.uint8)
        return {"labels": function(image)["labels"] * inside}

    signatures["masked"] = masked
    module.signatures_kept = list(signatures.values())
    tf.saved_model.save(module, str(folder), signatures=signatures)
    entry = describe_input(
        "test", axes=axes, channels=channels, intensities="any",
        **{"minimum_size": (2, 4, 4), **extra},
    )  # fmt: skip
    rng = np.random.default_rng(5)
    recorded = rng.normal(100, 20, (3, 8, 9, *shape[3:])).astype(np.float32)
    outputs = {key: value.numpy() for key, value in function(tf.constant(recorded)).items()}
    np.savez(
        folder / "parity.npz",
        **{"volume/input:image": recorded},
        **{f"volume/output:{key}": value for key, value in outputs.items()},
    )
    parity = {"largest_difference": 0.0, "tolerance": 1e-6, "case": "noise"}
    write_json(
        folder / PASSPORT,
        {
            "schema": 1, "paper": "test", "name": folder.parent.name, "version": int(folder.name),
            "data": {"kind": "phantom"}, "inputs": {"image": entry},
            "labels": {0: "background", 1: "dark", 2: "bright"},
            "preprocessing": [{"step": "resample", "in_graph": False},
                              {"step": "whiten", "in_graph": True}],
            "signatures": without_tensors(read_signatures(folder)),
            "whole_scan": {"signature": "volume"},
            "parity": {f"volume/{key}": parity for key in outputs},
            "files": hash_files(folder),
        },
    )  # fmt: skip
    return folder


def slice_by_slice(image):
    """Two channels (Z, Y, X, C), each slice standardised alone: what sarcoma's model does."""
    import tensorflow as tf

    mean = tf.reduce_mean(image, [1, 2], keepdims=True)
    values = (image - mean) / tf.math.reduce_std(image, [1, 2], keepdims=True)
    sure = tf.sigmoid(0.7 * values[..., 0] - 0.4 * values[..., 1])
    return {"labels": tf.cast(sure > 0.5, tf.uint8), "probabilities": sure}


def whole_scan(image):
    """One channel (row, column, slice), whitened as a whole, three classes, not symmetric."""
    import tensorflow as tf

    values = (image - tf.reduce_mean(image)) / tf.math.reduce_std(image)
    place = tf.cast(tf.range(tf.shape(image)[1]), tf.float32)[:, None] / 10
    classes = tf.nn.softmax(tf.stack([tf.zeros_like(values), values - place, -values], axis=-1))
    return {"labels": tf.cast(tf.argmax(classes, -1), tf.uint8), "probabilities": classes}


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """Versions by name: `slices` (two channels, may be cut) and `whole` (must stay whole)."""
    root = tmp_path_factory.mktemp("models")
    return {
        "slices": write_model(
            root / "slices" / "3", slice_by_slice, axes="ZYXC", channels=("ct", "pet"),
            extra={"independent_axes": ["Z"], "spacing_mm": (5, 4, 4), "spacing_tolerance": 0.05},
        ),
        "whole": write_model(
            root / "whole" / "1", whole_scan, axes="YXZ", channels=("post-contrast",),
            extra={"orientation": "LPS", "spacing_mm": (1, 2, 3), "spacing_tolerance": 0.01},
        ),
    }  # fmt: skip


@pytest.fixture(scope="session")
def grpc_server():
    """The gRPC stand-in: `with grpc_server([version folder, ...], **behaviour) as (url, it)`."""
    return serve_grpc


@pytest.fixture(scope="session")
def rest_server():
    """The REST stand-in, used like `grpc_server`."""
    return serve_rest
