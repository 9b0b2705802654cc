"""What serving costs: time of export and loading, latency against Keras, payloads."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.cost.stopwatch import time_call
from common.export.parity import difference
from common.export.warmup import WarmupRequest, encode_request
from common.export.write import Endpoint, write_saved_model

MIB = 2**20


def bench_export(
    network,
    endpoints: list[Endpoint],
    *,
    inputs: Mapping[str, np.ndarray],
    in_python: Callable[[], Mapping[str, np.ndarray]],
    signature: str = "volume",
    repeats: int = 3,
) -> None:
    """Time an exported signature against the Python path of `predict`, alternately, and print it.

    `in_python` computes its outputs with Keras from the same raw inputs. Of the `repeats` of each
    the fastest counts; one of each before is not timed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "1"
        export_s, _ = time_call(lambda: write_saved_model(folder, [network], endpoints))
        begin = time.perf_counter()
        loaded = tf.saved_model.load(str(folder))
        load_s = time.perf_counter() - begin
        folder_mib = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / MIB
    tensors = {name: tf.constant(array) for name, array in inputs.items()}

    def served():
        found = loaded.signatures[signature](**tensors)
        return {name: value.numpy() for name, value in found.items()}

    first_s, _ = time_call(served)
    expected, found = in_python(), served()
    apart = max(difference(found[name], value) for name, value in expected.items())
    times = [(time_call(served)[0], time_call(in_python)[0]) for _ in range(repeats)]
    served_s, keras_s = (min(column) for column in zip(*times, strict=True))
    request = len(encode_request(WarmupRequest("model", signature, inputs))) / MIB
    as_json = sum(json_bytes(array) for array in inputs.values()) / MIB
    response = sum(value.nbytes for value in found.values()) / MIB
    shapes = ", ".join(f"{name} {' x '.join(map(str, a.shape))}" for name, a in inputs.items())
    print(
        f"export: written in {export_s:.1f} s, loaded in {load_s:.1f} s, first call {first_s:.2f} "
        f"s, {folder_mib:.1f} MiB\n"
        f"export: {signature} of {shapes}: {served_s:.2f} s, Keras {keras_s:.2f} s, ratio "
        f"{served_s / keras_s:.2f}, largest difference {apart:.1e}\n"
        f"export: request {request:.2f} MiB (about {as_json:.1f} MiB as JSON), response "
        f"{response:.2f} MiB"
    )


def json_bytes(array: np.ndarray) -> int:
    """Return about how many bytes an array takes in a REST request, from its first thousands."""
    sample = array.reshape(-1)[:10_000]
    return len(json.dumps(sample.tolist(), separators=(",", ":"))) * array.size // sample.size
