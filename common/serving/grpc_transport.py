"""The gRPC interface of TensorFlow Serving; its messages are in `common.serving.messages`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from common.errors import ServingError
from common.serving import messages, protocol
from common.serving.protocol import Patience, mib

LARGEST_MIB = 2047
"""Protobuf and TensorFlow Serving take 2 GiB less one byte."""
RECONNECT_MS = 200
"""A refused connection is tried anew after this time, not after gRPC's second."""


class GrpcServer:
    """A model behind `grpc://host:port`; see `protocol.Transport`."""

    typed = True

    def __init__(
        self, target: str, *, name: str, version: int, patience: Patience, limit: int | None = None,
        secure: bool = False,
    ):  # fmt: skip
        """Prepare a channel to host:port, secured with the system's certificates on request."""
        self.address = f"{'grpcs' if secure else 'grpc'}://{target}"
        self.limit = LARGEST_MIB * protocol.MIB if limit is None else limit
        self._name, self._version, self._patience = name, version, patience
        options = [
            ("grpc.max_send_message_length", self.limit),
            ("grpc.max_receive_message_length", max(self.limit, protocol.METADATA_LIMIT)),
            ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
            ("grpc.min_reconnect_backoff_ms", RECONNECT_MS),
            ("grpc.max_reconnect_backoff_ms", 10 * RECONNECT_MS),
        ]
        if secure:
            self._channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
        else:
            self._channel = grpc.insecure_channel(target, options)
        self._predict = self._method("Predict", messages.PredictResponse)
        self._ask_metadata = self._method("GetModelMetadata", messages.GetModelMetadataResponse)

    def ask_metadata(self) -> protocol.Served:
        """Ask the server for the model's signatures."""
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._fill(request.model_spec)
        response = self._call(self._ask_metadata, request)
        described = response.metadata["signature_def"]
        if not described.type_url.endswith("/tensorflow.serving.SignatureDefMap"):
            raise ServingError(f"{self.address}: found no signatures in the answer")
        signatures = messages.SignatureDefMap.FromString(described.value)
        return protocol.Served(
            response.model_spec.name,
            response.model_spec.version.value,
            {
                name: protocol.Signature(self._specs(entry.inputs), self._specs(entry.outputs))
                for name, entry in signatures.signature_def.items()
            },
        )

    def prepare(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> protocol.Request:
        """Write a PredictRequest, 4 bytes for each float32; other outputs stay at the server."""
        least = sum(array.nbytes for array in inputs.values())
        if least > self.limit:  # which protobuf may not even be able to hold
            return protocol.Request(signature, tuple(outputs), None, least)
        message = messages.PredictRequest(output_filter=outputs)
        self._fill(message.model_spec)
        message.model_spec.signature_name = signature
        for name, array in inputs.items():
            messages.fill_tensor(message.inputs[name], array)
        return protocol.Request(signature, tuple(outputs), message, message.ByteSize())

    def send(self, request: protocol.Request) -> dict[str, np.ndarray]:
        """Evaluate a request on the server; the answer must name the same model and signature."""
        response = self._call(self._predict, request.content)
        found = response.model_spec
        answered = (found.name, found.version.value, found.signature_name)
        if answered != (self._name, self._version, request.signature):
            raise ServingError(
                f"{self.address}: found an answer of model {found.name!r}, version "
                f"{found.version.value}, signature {found.signature_name!r}; expected "
                f"{self._name!r}, {self._version}, {request.signature!r}"
            )
        missing = [name for name in request.outputs if name not in response.outputs]
        if missing:
            raise ServingError(f"{self.address}: the answer lacks the output {missing[0]!r}")
        return {name: messages.read_tensor(response.outputs[name]) for name in request.outputs}

    def value_bytes(self, spec: protocol.TensorSpec) -> int:
        """Return the bytes of a number; of small integers the server packs as few as one."""
        return max(np.dtype(spec.dtype).itemsize, 2)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _method(self, name: str, answer: type) -> Callable:
        return self._channel.unary_unary(
            messages.METHOD + name,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )

    def _fill(self, model_spec) -> None:
        model_spec.name = self._name
        model_spec.version.value = self._version

    def _specs(self, entries) -> dict[str, protocol.TensorSpec]:
        specs = {}
        for name, info in entries.items():
            shape, dtype = info.tensor_shape, messages.NAMES.get(info.dtype, str(info.dtype))
            known = None if shape.unknown_rank else [axis.size for axis in shape.dim]
            specs[name] = protocol.spec_of_message(dtype, known)
        return specs

    def _call(self, method: Callable, request) -> Any:
        def ask(seconds: float):
            try:
                return method(request, timeout=seconds)
            except grpc.RpcError as failure:
                raise self._explain(failure, request.ByteSize()) from None

        return protocol.ask_patiently(ask, self._patience, address=self.address)

    def _explain(self, failure, size: int) -> Exception:
        """Turn a gRPC status into an error of one line."""
        code, codes = failure.code(), grpc.StatusCode
        said = " ".join((failure.details() or "").split())[:300]
        model = f"model {self._name!r}, version {self._version}"
        if code is codes.UNAVAILABLE:
            return protocol.UnavailableError(said)
        if code is codes.DEADLINE_EXCEEDED:
            return protocol.late(self.address, self._patience)
        if code is codes.NOT_FOUND:
            return ServingError(f"{self.address}: found no {model} there ({said})")
        if code is codes.RESOURCE_EXHAUSTED:
            return ServingError(
                f"{self.address}: the message is too large ({said}; {mib(size)} were sent); "
                "expected a larger --max_message_mib, and grpc.max_receive_message_length in the "
                "server's --grpc_channel_arguments or in what lies between"
            )
        return ServingError(f"{self.address}: {model} rejected the request, {code.name}: {said}")
