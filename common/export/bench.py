"""What serving costs: export and loading time, latency beside Keras in the same run, payloads."""

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.export.parity import difference
from common.export.warmup import Request, encode_request
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
) -> dict[str, float]:
    """Time an exported signature against the Python path of `predict`, alternately.

    Args:
        network: whose variables the endpoints use.
        endpoints: signatures of the model.
        inputs: of the timed signature, by name.
        in_python: computes its outputs with Keras from the same raw inputs.
        signature: the timed one.
        repeats: timed calls of each, the fastest counts; one of each before is not timed.

    Returns:
        export_s, load_s, first_call_s, served_s, keras_s, ratio (served / keras), difference,
        folder_mib, request_mib, response_mib, json_request_mib.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "1"
        export_s = seconds(lambda: write_saved_model(folder, network, endpoints))
        begin = time.perf_counter()
        loaded = tf.saved_model.load(str(folder))
        load_s = time.perf_counter() - begin
        folder_mib = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / MIB
    tensors = {name: tf.constant(array) for name, array in inputs.items()}

    def served():
        found = loaded.signatures[signature](**tensors)
        return {name: value.numpy() for name, value in found.items()}

    first_call_s = seconds(served)
    expected, found = in_python(), served()
    times = [(seconds(served), seconds(in_python)) for _ in range(repeats)]
    served_s, keras_s = (min(column) for column in zip(*times, strict=True))
    measured = {
        "export_s": export_s,
        "load_s": load_s,
        "first_call_s": first_call_s,
        "served_s": served_s,
        "keras_s": keras_s,
        "ratio": served_s / keras_s,
        "difference": max(difference(found[name], value) for name, value in expected.items()),
        "folder_mib": folder_mib,
        "request_mib": len(encode_request(Request("model", signature, inputs))) / MIB,
        "response_mib": sum(value.nbytes for value in found.values()) / MIB,
        "json_request_mib": sum(json_bytes(array) for array in inputs.values()) / MIB,
    }
    report(signature, inputs, measured)
    return measured


def seconds(work: Callable[[], object]) -> float:
    """Return the wall seconds of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def json_bytes(array: np.ndarray) -> int:
    """Return about how many bytes an array takes in a REST request, from its first thousands."""
    sample = array.reshape(-1)[:10_000]
    return len(json.dumps(sample.tolist(), separators=(",", ":"))) * array.size // sample.size


def report(signature: str, inputs: Mapping[str, np.ndarray], measured: Mapping[str, float]) -> None:
    """Print what `bench_export` measured."""
    shapes = ", ".join(f"{name} {' x '.join(map(str, a.shape))}" for name, a in inputs.items())
    print(
        f"export: written in {measured['export_s']:.1f} s, loaded in {measured['load_s']:.1f} s, "
        f"first call {measured['first_call_s']:.2f} s, {measured['folder_mib']:.1f} MiB"
    )
    print(
        f"export: {signature} of {shapes}: {measured['served_s']:.2f} s, Keras "
        f"{measured['keras_s']:.2f} s, ratio {measured['ratio']:.2f}, largest difference "
        f"{measured['difference']:.1e}"
    )
    print(
        f"export: request {measured['request_mib']:.2f} MiB (about "
        f"{measured['json_request_mib']:.1f} MiB as JSON), response "
        f"{measured['response_mib']:.2f} MiB"
    )
