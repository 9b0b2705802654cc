"""A served model as its passport describes it: asked for scans, in parts where that is exact.

A scan larger than one message is cut only along an axis whose slices the model processes
independently (`independent_axes` of the passport), so that the labels stay the very same; any other
is refused, since its windows or statistics would see something else in a part than in the whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.errors import OptionError, ServingError
from common.serving.protocol import Request, Signature, TensorSpec, Transport, mib

ROOM_AROUND = 1024
"""Bytes of an answer in addition to its arrays, at most."""
MASK = "mask"
"""Input of the signatures that look within a region of interest only."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Client:
    """A model that can be asked, and what its passport says of it."""

    passport: Mapping[str, Any]
    transport: Transport
    signatures: Mapping[str, Signature]
    """Of the passport, against which the model was checked when it was opened."""

    @property
    def address(self) -> str:
        """What messages call the model."""
        return self.transport.address

    @property
    def whole_scan(self) -> str:
        """Name of the signature that takes a whole scan; see `whole_scan_of`."""
        return whole_scan_of(self.passport)

    @property
    def scan_input(self) -> str:
        """Name of the one input of the signature for whole scans."""
        return scan_input_of(self.passport)

    def signature_for(self, outputs: Sequence[str], *, masked: bool = False) -> str:
        """Return the signature for whole scans that computes the least beside some outputs."""
        whole = self.signatures[self.whole_scan].inputs
        wanted = {self.scan_input, MASK} if masked else {self.scan_input}
        fitting = [
            name
            for name, signature in self.signatures.items()
            if signature.inputs.keys() == wanted
            and signature.inputs[self.scan_input] == whole[self.scan_input]
            and set(outputs) <= set(signature.outputs)
        ]
        if not fitting:
            given = "a scan and its mask" if masked else "a whole scan"
            raise OptionError(
                f"model {self.passport['name']!r} has no signature for {', '.join(outputs)} of "
                f"{given}; found {', '.join(self.signatures)}"
            )
        return min(fitting, key=lambda name: (len(self.signatures[name].outputs), name))

    def predict(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Ask for some outputs of one signature, in one request; raise `ServingError` if that is
        larger than a message may be, or the model does not answer as its passport says."""
        request = self.transport.prepare(signature, inputs, outputs)
        if self.transport.limit is not None and request.size > self.transport.limit:
            raise self._too_large(f"a request of {signature!r}", request.size)
        return self._send(request)

    def predict_scan(
        self,
        tensor: np.ndarray,
        outputs: Sequence[str],
        *,
        mask: np.ndarray | None = None,
        progress: Progress | None = None,
    ) -> dict[str, np.ndarray]:
        """Ask for outputs of a whole scan, in parts where that changes nothing and is needed.

        Args:
            tensor: in the axes of the passport.
            outputs: "labels", "probabilities" or both.
            mask: region of interest, for models that take one; the tensor's axes without C.
            progress: called after every part with the parts done and their number.

        Raises:
            ServingError: see `predict`; or the scan, or one of its slices, does not fit a message.
        """
        requests, axis = self._divide(tensor, outputs, mask)
        answers = []
        for number, request in enumerate(requests, start=1):
            answers.append(self._send(request))
            if progress is not None:
                progress(number, len(requests))
        found, voxels = {}, tuple(self._voxels(tensor.shape))
        for name in outputs:
            parts = [answer[name] for answer in answers]
            array = found[name] = np.concatenate(parts, axis) if len(parts) > 1 else parts[0]
            if array.shape[:3] != voxels:
                raise ServingError(
                    f"{self.address}: found {name} of {array.shape[:3]} voxels; expected "
                    f"{voxels}, the scan's"
                )
        return found

    def _send(self, request: Request) -> dict[str, np.ndarray]:
        found = self.transport.send(request)
        for name, array in found.items():
            spec = self.signatures[request.signature].outputs[name]
            if not self.transport.typed:
                found[name] = array = as_declared(array, spec.dtype)
            got = TensorSpec(array.dtype.name, array.shape)
            if not got.agrees(spec):
                raise ServingError(
                    f"{self.address}: found the output {name!r} of {request.signature!r} to "
                    f"be {got}; expected {spec}"
                )
        return found

    def _divide(
        self, tensor: np.ndarray, outputs: Sequence[str], mask: np.ndarray | None
    ) -> tuple[list[Request], int]:
        """Return the requests for a scan, and along which axis their answers are put together."""
        signature = self.signature_for(outputs, masked=mask is not None)
        limit, inputs = self.transport.limit, {self.scan_input: tensor}
        if mask is not None:
            inputs[MASK] = mask

        def prepare(low: int, high: int, axis: int) -> Request:
            part = (*(slice(None),) * axis, slice(low, high))
            cut = {name: array[part] for name, array in inputs.items()}
            return self.transport.prepare(signature, cut, outputs)

        whole = prepare(0, tensor.shape[0], 0)
        size = self._larger_message(whole, tensor.shape)
        if limit is None or size <= limit:
            return [whole], 0
        entry = self.passport["inputs"][self.scan_input]
        independent = entry.get("independent_axes") or []
        if not independent:
            raise self._too_large("the scan, which this model must see whole,", size)
        # C is the last axis or none, so that the answer's axis has the same number.
        axis = entry["axes"].index(independent[0])
        slices = tensor.shape[axis]
        for count in range(min(-(-size // limit), slices), slices + 1):
            step = -(-slices // count)
            shape = (*tensor.shape[:axis], step, *tensor.shape[axis + 1 :])
            requests = [prepare(low, low + step, axis) for low in range(0, slices, step)]
            size = max(self._larger_message(request, shape) for request in requests)
            if size <= limit:
                return requests, axis
        raise self._too_large("one slice of the scan", size)

    def _larger_message(self, request: Request, shape: Sequence[int]) -> int:
        """Return the bytes of a request or about those of its answer, whichever are more."""
        outputs = self.signatures[request.signature].outputs
        voxels = int(np.prod(self._voxels(shape), dtype=np.int64))
        answer = ROOM_AROUND
        for name in request.outputs if self.transport.typed else outputs:
            spec = outputs[name]
            axes = len(spec.shape or ())
            classes = spec.shape[-1] if axes == 4 and spec.shape[-1] else 1
            answer += voxels * classes * self.transport.value_bytes(spec)
        return max(request.size, answer)

    def _voxels(self, shape: Sequence[int]) -> list[int]:
        axes = self.passport["inputs"][self.scan_input]["axes"]
        return [size for size, letter in zip(shape, axes, strict=True) if letter != "C"]

    def _too_large(self, what: str, size: int) -> ServingError:
        more = ", or grpc://host:8500, where a value has 4 bytes"
        if self.transport.typed:
            more = (
                " (and, if the server was given less than its own 2 GiB, "
                f"--grpc_channel_arguments=grpc.max_receive_message_length={size} there)"
            )
        return ServingError(
            f"{self.address}: {what} needs a message of at least {mib(size)}, and one may "
            f"have {mib(self.transport.limit or 0)}; expected a larger --max_message_mib{more}"
        )


def whole_scan_of(passport: Mapping[str, Any]) -> str:
    """Return the name of the signature that takes a whole scan; `OptionError`: there is none."""
    name = passport["whole_scan"].get("signature")
    if name is None:
        raise OptionError(
            f"model {passport['name']!r} takes no whole scan in one request; expected "
            f"`{passport['whole_scan'].get('command')}`"
        )
    return name


def scan_input_of(passport: Mapping[str, Any]) -> str:
    """Return the name of the one input of that signature."""
    (name,) = passport["signatures"][whole_scan_of(passport)]["inputs"]
    return name


def as_declared(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return numbers from JSON, which knows no types, as the passport's dtype if they fit."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        whole = array.dtype.kind in "iu" and array.size
        fits = whole and limits.min <= array.min() and array.max() <= limits.max
        return array.astype(dtype) if fits else array
    return array.astype(dtype) if array.dtype.kind in "iuf" else array
