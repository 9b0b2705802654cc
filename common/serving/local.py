"""The local twin of a served model: the same SavedModel, evaluated in this process."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.errors import DataError
from common.export.saved_model import foreign_operations, read_signatures
from common.serving.protocol import Request, Served, Signature, TensorSpec


class LocalModel:
    """A SavedModel evaluated with TensorFlow alone; see `protocol.Transport`."""

    limit = None
    typed = True

    def __init__(self, folder: Path, *, name: str, version: int):
        """Load the SavedModel of a folder, or raise `DataError`; it does not say its own name."""
        self.address = str(folder)
        self._identity = name, version
        try:
            self._signatures = read_signatures(folder)
            if foreign := foreign_operations(folder):
                raise ValueError(f"its graph has operations of no export: {', '.join(foreign)}")
            # Kept whole: the signatures do not keep the variables alive on their own.
            self._loaded = tf.saved_model.load(str(folder))
        except (OSError, ValueError, KeyError, tf.errors.OpError) as failure:
            reason = (str(failure).splitlines() or [type(failure).__name__])[0][:200]
            raise DataError(f"{folder} is not a SavedModel that can be loaded: {reason}") from None

    def ask_metadata(self) -> Served:
        """Return the signatures that the SavedModel holds."""
        found = {name: Signature.from_entry(entry) for name, entry in self._signatures.items()}
        return Served(*self._identity, found)

    def prepare(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> Request:
        """Return the request, of which nothing is sent."""
        return Request(signature, tuple(outputs), dict(inputs), size=0)

    def send(self, request: Request) -> dict[str, np.ndarray]:
        """Evaluate one signature; raise `DataError` if the graph rejects the input."""
        tensors = {name: tf.constant(array) for name, array in request.content.items()}
        try:
            found = self._loaded.signatures[request.signature](**tensors)
        except tf.errors.OpError as refusal:
            reason = refusal.message.splitlines()[0][:300]
            raise DataError(
                f"{self.address}, {request.signature}: rejected the input: {reason}"
            ) from None
        return {name: found[name].numpy() for name in request.outputs}

    def value_bytes(self, spec: TensorSpec) -> int:
        """Return 0: nothing is sent."""
        return 0

    def close(self) -> None:
        """Forget the model."""
        self._loaded = None
