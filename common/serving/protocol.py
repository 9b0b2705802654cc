"""What all transports to a model have in common: signatures as data, patience, limits of messages.

They are the model in this process (`local`), TensorFlow Serving's gRPC interface
(`grpc_transport`) and its REST interface (`rest_transport`).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from common.errors import ServingError

FIRST_WAIT_S = 0.5
"""Before the second try; each further wait is twice the one before, up to `LONGEST_WAIT_S`."""
LONGEST_WAIT_S = 8.0
MIB = 1 << 20
METADATA_LIMIT = 16 * MIB
"""What the description of a model may have, however small messages with scans must be."""

NUMPY_NAMES = {"DT_FLOAT": "float32", "DT_DOUBLE": "float64", "DT_HALF": "float16"}
"""Types of TensorFlow's messages that numpy and the passport call otherwise."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class TensorSpec:
    """Type and shape of one input or output; None stands for any length."""

    dtype: str
    shape: tuple[int | None, ...] | None
    """None where not even the number of axes is known."""

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} ({', '.join('?' if n is None else str(n) for n in self.shape)})"

    def agrees(self, other: "TensorSpec") -> bool:
        """Return whether a tensor may be of both kinds."""
        if self.dtype != other.dtype or self.shape is None or other.shape is None:
            return self.dtype == other.dtype
        return len(self.shape) == len(other.shape) and all(
            None in pair or pair[0] == pair[1] for pair in zip(self.shape, other.shape, strict=True)
        )


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one function of a model, by name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    @classmethod
    def from_entry(cls, entry: Mapping) -> "Signature":
        """Return a signature from data: {"inputs": {name: {"dtype", "shape"}}, "outputs": ...}."""

        def specs(tensors: Mapping) -> dict[str, TensorSpec]:
            return {
                name: TensorSpec(t["dtype"], None if t["shape"] is None else tuple(t["shape"]))
                for name, t in tensors.items()
            }

        return cls(specs(entry["inputs"]), specs(entry["outputs"]))


@dataclass(frozen=True)
class Served:
    """What a model says of itself where it is served."""

    name: str
    version: int
    signatures: Mapping[str, Signature]


@dataclass(frozen=True)
class Patience:
    """How long one request may take, and how often it is sent again.

    Only a server that cannot be reached or says that it is overloaded is asked again. One that
    lets the deadline pass is not: it is still computing, and a second request would slow it down.
    """

    deadline_s: float = 300.0
    """For one request with all its tries."""
    retries: int = 4
    """Further tries after the first, 0.5, 1, 2, 4, 8, 8, ... seconds apart."""


@dataclass(frozen=True)
class Request:
    """One question to a model, written as it will be sent."""

    signature: str
    outputs: tuple[str, ...]
    content: Any
    """None where it is larger than a message may be."""
    size: int
    """Bytes, or the fewest it can have where it is too large; 0 where nothing is sent."""


class Transport(Protocol):
    """How a model is reached."""

    address: str
    """What messages call it."""
    limit: int | None
    """Bytes that one message may have; None: any number."""
    typed: bool
    """Whether an answer tells the types of its arrays, and has the outputs asked for alone."""

    def ask_metadata(self) -> Served:
        """Ask the model for its name, version and signatures."""

    def prepare(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> Request:
        """Write the request for some outputs of one signature."""

    def send(self, request: Request) -> dict[str, np.ndarray]:
        """Evaluate a request and return the outputs it asks for."""

    def value_bytes(self, spec: TensorSpec) -> int:
        """Return how many bytes of an answer one value has, at most."""

    def close(self) -> None:
        """Let go of connections and memory."""


class UnavailableError(Exception):
    """The server cannot be reached or is overloaded: asking again may help."""


def ask_patiently(ask: Callable[[float], Answer], patience: Patience, *, address: str) -> Answer:
    """Send a request, and again with growing pauses while the server is unavailable.

    `ask` takes the seconds that are left. A server that stays unavailable is a `ServingError`.
    """
    end, wait = time.monotonic() + patience.deadline_s, FIRST_WAIT_S
    for attempt in range(1, patience.retries + 2):
        try:
            return ask(max(end - time.monotonic(), 0.001))
        except UnavailableError as reason:
            if attempt > patience.retries or time.monotonic() + wait >= end:
                tries = "1 try" if attempt == 1 else f"{attempt} tries"
                raise ServingError(
                    f"{address}: no server answers after {tries} ({reason}); expected TensorFlow "
                    "Serving there"
                ) from None
        time.sleep(wait)
        wait = min(2 * wait, LONGEST_WAIT_S)
    raise AssertionError("unreachable: the last try returns or raises")


def late(address: str, patience: Patience, hint: str = "") -> ServingError:
    """Return the error of a deadline that has passed."""
    return ServingError(
        f"{address}: no answer within {patience.deadline_s:g} s; expected a faster server, or a "
        f"longer --deadline_s{hint}"
    )


def mib(size: int) -> str:
    """Return a number of bytes as words, such as "40.0 MiB"."""
    return f"{size} bytes" if size < MIB // 10 else f"{size / MIB:.1f} MiB"


def spec_of_message(dtype: str, sizes: Sequence[int] | None) -> TensorSpec:
    """Return the spec of a server's type, such as DT_FLOAT, and sizes, negative for any length."""
    name = NUMPY_NAMES.get(dtype, dtype.removeprefix("DT_").lower())
    known = sizes if sizes is None else tuple(None if size < 0 else size for size in sizes)
    return TensorSpec(name, known)
