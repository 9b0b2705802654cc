"""The messages themselves, held to the official definitions; URLs; patience."""

import http.server
import json
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2

from common.errors import OptionError, ServingError
from common.serving import messages, protocol
from common.serving.client import as_declared
from common.serving.grpc_transport import GrpcServer
from common.serving.opening import Address, open_transport, parse_url
from common.serving.protocol import Patience, TensorSpec, UnavailableError, ask_patiently
from common.serving.rest_transport import RestServer, encode

QUICK = Patience(deadline_s=5, retries=0)


@pytest.fixture
def image():
    return np.random.default_rng(1).normal(100, 30, (3, 4, 5)).astype(np.float32)


class TestGrpc:
    @pytest.fixture
    def transport(self):
        transport = GrpcServer("127.0.0.1:1", name="brain", version=7, patience=QUICK)
        yield transport
        transport.close()

    def test_request_is_the_official_message_in_bytes(self, transport, image):
        """The voxels stand in it as they lie in memory; around them less than 200 bytes."""
        reason = "tensorflow-serving-api is not installed"
        predict_pb2 = pytest.importorskip("tensorflow_serving.apis.predict_pb2", reason=reason)
        request = transport.prepare("volume", {"image": image}, ["labels"])
        sent = request.content.SerializeToString()
        assert request.size == len(sent)
        assert image.nbytes < request.size < image.nbytes + 200
        read = predict_pb2.PredictRequest.FromString(sent)
        assert (read.model_spec.name, read.model_spec.version.value) == ("brain", 7)
        assert read.model_spec.signature_name == "volume"
        assert list(read.output_filter) == ["labels"]
        assert read.inputs["image"].tensor_content == image.tobytes()
        assert [axis.size for axis in read.inputs["image"].tensor_shape.dim] == [3, 4, 5]

    def test_without_the_package_one_line_names_it(self, monkeypatch):
        import sys

        from common import serving

        monkeypatch.setitem(sys.modules, "grpc", None)
        monkeypatch.delitem(sys.modules, "common.serving.grpc_transport", raising=False)
        monkeypatch.delattr(serving, "grpc_transport", raising=False)
        with pytest.raises(OptionError, match=r"pip install grpcio protobuf`, or http://host"):
            open_transport({"name": "a", "version": 1}, None, "grpc://h:1", QUICK, None)


@pytest.mark.parametrize(
    "kind", ["f4", "f8", "f2", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"]
)
class TestTensors:
    """Against TensorFlow's own messages, as bytes and as lists of values."""

    def test_as_bytes(self, kind):
        array = np.arange(24).reshape(2, 3, 4).astype(kind)
        message = messages.MESSAGES["Tensor"]()
        messages.fill_tensor(message, array)
        theirs = tensor_pb2.TensorProto.FromString(message.SerializeToString())
        np.testing.assert_array_equal(tf.make_ndarray(theirs), array, strict=True)
        np.testing.assert_array_equal(messages.read_tensor(message), array, strict=True)

    def test_as_values(self, kind):
        array = (np.arange(6) % 5).reshape(2, 3).astype(kind)
        theirs = tf.make_tensor_proto(array)
        whole = theirs.SerializeToString()
        theirs.ClearField("tensor_content")
        values = array.reshape(-1)
        values = values.view(np.uint16) if kind == "f2" else values
        getattr(theirs, messages.VALUES.get(theirs.dtype, "int_val"))[:] = values.tolist()
        for sent in (whole, theirs.SerializeToString()):
            message = messages.MESSAGES["Tensor"].FromString(sent)
            np.testing.assert_array_equal(messages.read_tensor(message), array, strict=True)


def test_a_short_list_goes_on_with_its_last_value():
    theirs = tensor_pb2.TensorProto(dtype=types_pb2.DT_INT32, int_val=[3, 7])
    theirs.tensor_shape.dim.add(size=4)
    message = messages.MESSAGES["Tensor"].FromString(theirs.SerializeToString())
    np.testing.assert_array_equal(messages.read_tensor(message), [3, 7, 7, 7])
    del message.int_val[:]
    with pytest.raises(ServingError, match="found 0 numbers in a tensor of"):
        messages.read_tensor(message)
    message.dtype = types_pb2.DT_STRING
    with pytest.raises(ServingError, match="a tensor of type DT_STRING"):
        messages.read_tensor(message)


class TestJson:
    def test_whole_numbers_are_short_and_all_come_back_to_the_bit(self, image):
        for array in (np.rint(image), image, image * 1e-30, image * 1e9, np.float32([[2**24, 3]])):
            text = encode("volume", {"image": array})
            found = json.loads(text)
            assert found["signature_name"] == "volume"
            values = found["inputs"]["image"]
            np.testing.assert_array_equal(np.array(values, np.float64).astype(np.float32), array)
        assert b'"inputs":{"image":[[[' in encode("volume", {"image": np.rint(image)})
        assert b"." not in encode("volume", {"image": np.rint(image)})

    def test_no_digits_that_the_server_refuses_as_lossy(self):
        """json_tensor.cc takes digits without a point only below 2**24."""
        text = encode("s", {"x": np.float32([2.0**24, 5.0])})
        assert json.loads(text)["inputs"]["x"] == [16777216.0, 5.0]
        assert all(isinstance(value, float) for value in json.loads(text)["inputs"]["x"])

    def test_nine_digits_are_far_from_the_midpoint_of_two_floats(self):
        """Each value is read right even by a parser that is off by three double ulps."""
        rng = np.random.default_rng(0)
        array = rng.integers(0, 2**31 - 2**24, 20000, dtype=np.uint32).view(np.float32)
        values = np.array(json.loads(encode("s", {"x": array}))["inputs"]["x"])
        for ulps in (-3, 3):
            off = values * (1 + ulps * np.finfo(np.float64).eps)
            np.testing.assert_array_equal(off.astype(np.float32), array)

    def test_types_of_answers(self):
        assert as_declared(np.array([[1, 2]]), "uint8").dtype == np.uint8
        assert as_declared(np.array([[1, 256]]), "uint8").dtype == np.int64
        assert as_declared(np.array([0.5]), "uint8").dtype == np.float64
        assert as_declared(np.array([0, 1]), "float32").dtype == np.float32


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("grpc://host:8500", Address("grpc", "host:8500")),
        ("grpcs://[::1]:8500/brain/3", Address("grpcs", "[::1]:8500", "brain", 3)),
        ("http://host:8501", Address("http", "http://host:8501")),
        ("http://host:8501/v1/", Address("http", "http://host:8501")),
        ("http://host/v1/models/brain", Address("http", "http://host", "brain")),
        ("https://host/tf/v1/models/a_b/versions/12",
         Address("https", "https://host/tf", "a_b", 12)),
    ],
)  # fmt: skip
def test_urls(url, expected):
    assert parse_url(url) == expected


@pytest.mark.parametrize(
    "url",
    ["host:8500", "grpc://host", "grpc://host:8500/a/b", "grpc://host:port", "ftp://host:1",
     "http://", "http://host/v1/models/a:predict", "http://host/v1?x=1", ""],
)  # fmt: skip
def test_urls_that_are_none(url):
    with pytest.raises(OptionError, match=r"--url: found .*; expected grpc://host:8500 or http"):
        parse_url(url)


class TestPatience:
    def test_waits_grow_and_end(self, monkeypatch):
        """0.5, 1, 2, 4, 8, 8 seconds; the seventh refusal is told."""
        waits, now = [], [100.0]

        def sleep(seconds):
            waits.append(seconds)
            now[0] += seconds

        monkeypatch.setattr(time, "sleep", sleep)
        monkeypatch.setattr(time, "monotonic", lambda: now[0])

        def refuse(seconds):
            raise UnavailableError("full")

        with pytest.raises(ServingError, match=r"a: no server answers after 7 tries \(full\)"):
            ask_patiently(refuse, Patience(1000, 6), address="a")
        assert waits == [0.5, 1, 2, 4, 8, 8]
        waits.clear()
        with pytest.raises(ServingError, match="after 3 tries"):
            ask_patiently(refuse, Patience(3, 6), address="a")
        assert waits == [0.5, 1]

    def test_every_try_has_the_time_that_is_left(self, monkeypatch):
        monkeypatch.setattr(protocol, "FIRST_WAIT_S", 0.01)
        given = []

        def ask(seconds):
            given.append(seconds)
            if len(given) < 3:
                raise UnavailableError("away")
            return "answer"

        assert ask_patiently(ask, Patience(60, 4), address="a") == "answer"
        assert 60 >= given[0] > given[1] > given[2] > 50


def test_kinds_of_tensors():
    known = TensorSpec("float32", (3, None, 2))
    assert known.agrees(TensorSpec("float32", (None, 5, 2)))
    assert known.agrees(TensorSpec("float32", None))
    assert not known.agrees(TensorSpec("float32", (3, 5)))
    assert not known.agrees(TensorSpec("float32", (3, 5, 1)))
    assert not known.agrees(TensorSpec("float64", (3, 5, 2)))
    assert str(known) == "float32 (3, ?, 2)"


class TestHostileServer:
    """What listens at the address need not be TensorFlow Serving."""

    @pytest.fixture
    def ask(self):
        """A function that asks a server, whose answer another function writes, for signatures."""
        servers = []

        def ask(answer, deadline_s=5):
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    answer(self)

                def log_message(self, *_):
                    pass

            servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{servers[-1].server_address[1]}"
            patience = Patience(deadline_s=deadline_s, retries=0)
            return RestServer(address, name="m", version=1, patience=patience).ask_metadata()

        yield ask
        for server in servers:
            server.shutdown()
            server.server_close()

    def test_redirects_are_not_followed(self, ask):
        seen = []

        def elsewhere(handler):
            seen.append(handler.path)
            handler.send_response(302)
            handler.send_header("Location", "/other")
            handler.end_headers()

        with pytest.raises(ServingError, match="rejected the request, HTTP 302"):
            ask(elsewhere)
        assert seen == ["/v1/models/m/versions/1/metadata"]

    def test_one_deadline_for_all_pieces(self, ask):
        """A byte every 0.1 s held a deadline of 3 s for as long as bytes came."""

        def drip(handler):
            handler.send_response(200)
            handler.end_headers()
            for _ in range(100):
                try:
                    handler.wfile.write(b" ")
                    handler.wfile.flush()
                except OSError:
                    return
                time.sleep(0.1)

        began = time.monotonic()
        with pytest.raises(ServingError, match="no answer within 1 s"):
            ask(drip, deadline_s=1)
        assert time.monotonic() - began < 5

    @pytest.mark.parametrize(
        "text",
        ["[" * 100_000, "[]", '{"metadata": []}', '{"metadata": {"signature_def": 1e999}}',
         '{"model_spec": {"name": "m", "version": 1e999}, '
         '"metadata": {"signature_def": {"signature_def": {}}}}',
         '{"model_spec": {"name": "m", "version": 1}, '
         '"metadata": {"signature_def": {"signature_def": {"a": []}}}}'],
    )  # fmt: skip
    def test_strange_answers_are_one_line(self, ask, text):
        def answer(handler):
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(text.encode())

        with pytest.raises(ServingError, match="expected that of TensorFlow Serving's"):
            ask(answer)
