"""The REST interface of TensorFlow Serving: JSON, with every voxel written as decimal digits.

The server takes numbers only as nested lists: its {"b64": ...} is for strings, not for floats. It
writes an answer with one value a line. A scan of integers is as large as over gRPC, one with
fractions nearly 3 times, and labels are about 19 times; hence the smaller limit.

Source: https://www.tensorflow.org/tfx/serving/api_rest; tensorflow_serving/util/json_tensor.cc.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence

import numpy as np

from common.errors import ServingError
from common.serving import protocol
from common.serving.protocol import Patience, mib

LIMIT_MIB = 256
"""Default of what one JSON message may have; a scan beyond it is better sent over gRPC."""
LARGEST_WHOLE = 2**24
"""The server refuses digits without a point from here on: float32 cannot hold them all."""
UNREACHED = (urllib.error.URLError, TimeoutError, ConnectionError, http.client.HTTPException)
"""What urllib raises where no server answers, or not in time."""
REST_HINT = "; the server's own limit is --rest_api_timeout_in_ms, 30 s unless it is set"

DAMAGED = KeyError, TypeError, ValueError, AttributeError, OverflowError
"""What an answer of another form than the server's leads to."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Scans go to the server that the user named and to no other."""

    def redirect_request(self, *_):
        return None


_OPENER = urllib.request.build_opener(_NoRedirects)


class RestServer:
    """A model behind `http://host:port`; see `protocol.Transport`."""

    typed = False

    def __init__(
        self, base: str, *, name: str, version: int, patience: Patience, limit: int | None = None
    ):
        """Note where the server is: the URL without /v1, such as http://localhost:8501."""
        self.address = base
        self.limit = LIMIT_MIB * protocol.MIB if limit is None else limit
        self._name, self._version, self._patience = name, version, patience
        self._model = f"{base}/v1/models/{name}/versions/{version}"

    def ask_metadata(self) -> protocol.Served:
        """Ask the server for the model's signatures."""
        answer = self._ask(f"{self._model}/metadata", None, limit=protocol.METADATA_LIMIT)
        try:
            found = answer["metadata"]["signature_def"]["signature_def"]
            return protocol.Served(
                answer["model_spec"]["name"],
                int(answer["model_spec"]["version"]),
                {
                    name: protocol.Signature(_specs(entry["inputs"]), _specs(entry["outputs"]))
                    for name, entry in found.items()
                    if entry.get("inputs")  # "__saved_model_init_op" has none
                },
            )
        except DAMAGED:
            raise self._strange("no signatures in it") from None

    def prepare(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> protocol.Request:
        """Write the JSON of a request; the server answers with all outputs of the signature."""
        least = sum(2 * array.size for array in inputs.values())  # a digit and a comma each
        if least > self.limit:
            return protocol.Request(signature, tuple(outputs), None, least)
        body = encode(signature, inputs)
        return protocol.Request(signature, tuple(outputs), body, len(body))

    def send(self, request: protocol.Request) -> dict[str, np.ndarray]:
        """Evaluate a request on the server; the answer names no version, the URL does."""
        answer = self._ask(f"{self._model}:predict", request.content, limit=self.limit)
        found = answer.get("outputs") if isinstance(answer, dict) else None
        if found is None:
            raise self._strange('no "outputs" in it')
        outputs = request.outputs
        if not isinstance(found, dict):  # the value of a single output stands alone
            found = {outputs[0]: found} if len(outputs) == 1 else {}
        missing = [name for name in outputs if name not in found]
        if missing:
            raise self._strange(f"no output {missing[0]!r} in it")
        try:
            return {name: np.asarray(found[name]) for name in outputs}
        except ValueError:
            raise self._strange("lists of unequal lengths") from None

    def value_bytes(self, spec: protocol.TensorSpec) -> int:
        """Return the bytes of a line: four blanks for every level, the digits, comma and end."""
        digits = 3 if np.issubdtype(spec.dtype, np.integer) else 14
        return 4 * (2 + len(spec.shape or ())) + digits + 2

    def close(self) -> None:
        """Do nothing: a connection lasts for one request."""

    def _ask(self, url: str, body: bytes | None, *, limit: int):
        def ask(seconds: float):
            request = urllib.request.Request(
                url, data=body, headers={"Content-Type": "application/json"}
            )
            try:
                end = time.monotonic() + seconds
                with _OPENER.open(request, timeout=seconds) as response:
                    return self._read(response, limit, end)
            except urllib.error.HTTPError as refusal:
                raise self._explain(refusal, body) from None
            except UNREACHED as failure:
                reason = getattr(failure, "reason", failure)
                if isinstance(reason, TimeoutError):
                    raise protocol.late(self.address, self._patience, REST_HINT) from None
                raise protocol.UnavailableError(_words(reason)) from None

        return protocol.ask_patiently(ask, self._patience, address=self.address)

    def _read(self, response, limit: int, end: float):
        text = bytearray()
        while len(text) <= limit and (piece := response.read1(1 << 20)):
            text += piece
            if time.monotonic() > end:  # the timeout is for each piece
                raise TimeoutError
        if len(text) > limit:
            raise ServingError(
                f"{self.address}: the answer has more than {mib(limit)} of JSON; expected a "
                "larger --max_message_mib, or grpc://host:8500, which needs a twentieth"
            )
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise self._strange("no JSON") from None

    def _explain(self, refusal: urllib.error.HTTPError, body: bytes | None) -> Exception:
        """Turn an HTTP status into an error of one line."""
        try:
            said = _words(json.loads(refusal.read(10_000))["error"])
        except (ValueError, KeyError, TypeError, OSError):
            said = _words(refusal.reason)
        model = f"model {self._name!r}, version {self._version}"
        if refusal.code == 503:
            return protocol.UnavailableError(said)
        if refusal.code == 504:
            return protocol.late(self.address, self._patience, REST_HINT)
        if refusal.code == 404:
            return ServingError(f"{self.address}: found no {model} there ({said})")
        if refusal.code == 413:
            return ServingError(
                f"{self.address}: the message is too large ({mib(len(body or b''))} of JSON); "
                "expected a larger limit of what lies between, or grpc://host:8500"
            )
        return ServingError(
            f"{self.address}: {model} rejected the request, HTTP {refusal.code}: {said}"
        )

    def _strange(self, what: str) -> ServingError:
        return ServingError(
            f"{self.address}: found an answer with {what}; expected that of TensorFlow Serving's "
            "REST interface"
        )


def encode(signature: str, inputs: Mapping[str, np.ndarray]) -> bytes:
    """Return a request of the Predict interface as UTF-8 JSON, its float32 values exact to the bit.

    The column format: rows ("instances") are for signatures with a batch axis, which whole scans
    lack. The arrays must be finite.
    """
    columns = ",".join(f"{json.dumps(name)}:{_nested(array)}" for name, array in inputs.items())
    return f'{{"signature_name":{json.dumps(signature)},"inputs":{{{columns}}}}}'.encode()


def _nested(array: np.ndarray) -> str:
    if array.ndim > 1:
        return "[" + ",".join(map(_nested, array)) + "]"
    if array.dtype.kind in "biu":
        return json.dumps(array.tolist(), separators=(",", ":"))
    largest = float(np.abs(array).max(initial=0.0))
    if largest < LARGEST_WHOLE and (array == np.rint(array)).all():
        return json.dumps(array.astype(np.int32).tolist(), separators=(",", ":"))
    # Nine digits are float32 to the bit, even where the server's parser is off by three double
    # ulps; fewer, the shortest ones, would lie nearer to the midpoint of two floats.
    digits = "%.9g" if largest < LARGEST_WHOLE else "%.9e"
    return "[" + ",".join(map(digits.__mod__, array.tolist())) + "]"


def _specs(entries: Mapping) -> dict[str, protocol.TensorSpec]:
    specs = {}
    for name, info in entries.items():
        shape = info["tensor_shape"]
        sizes = [int(axis["size"]) for axis in shape.get("dim", ())]
        specs[name] = protocol.spec_of_message(
            info["dtype"], None if shape.get("unknown_rank") else sizes
        )
    return specs


def _words(reason) -> str:
    return " ".join(str(getattr(reason, "strerror", None) or reason).split())[:300]
