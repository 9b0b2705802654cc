"""What it costs to send a scan: bytes and seconds of its messages, over gRPC and as JSON.

Only the client's own work is measured, unless a server is named: writing the request, reading an
answer. The answer is made up here as the server would write it.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from common.errors import OptionError
from common.serving.opening import find_passport, load_grpc, open_client
from common.serving.protocol import MIB, Patience, Signature
from common.serving.rest_transport import encode

SHAPE = (40, 256, 256)
ROW = "{:<24}{:>13}{:>10}{:>10}{:>13}{:>13}"


def bench(
    *, model: Path, url: str | None = None, shape: str | None = None, repeats: int = 3, **where: Any
) -> list[str]:
    """Measure the messages of one scan for a model, and a server's answer if there is a URL.

    The options are those of the command line and of `open_client`; of the `repeats` of each step
    the median counts.
    """
    passport = find_passport(model, None, url=url)
    name = passport["whole_scan"].get("signature")
    if name is None:
        raise OptionError(f"--model {model} takes no whole scan in one request; expected another")
    ((key, spec),) = Signature.from_entry(passport["signatures"][name]).inputs.items()
    scans = make_scans(read_shape(shape), passport["inputs"][key], spec.dtype)
    lines = [ROW.format("message", "MiB sent", "write s", "MiB back", "read s", "bytes/voxel")]
    for what, scan in scans.items():
        labels = (scan if "C" not in passport["inputs"][key]["axes"] else scan[..., 0]) > 200
        for protocol, measure in (("gRPC", measure_grpc), ("JSON", measure_json)):
            sent, write, back, read = measure(
                "serving_default", {key: scan}, labels.astype(np.uint8), repeats
            )
            lines.append(ROW.format(
                f"{protocol}, {what}", f"{sent / MIB:.1f}", f"{write:.2f}", f"{back / MIB:.1f}",
                f"{read:.2f}", f"{sent / scan.size:.1f}",
            ))  # fmt: skip
    if url is not None:
        with open_client(model=model, url=url, **where) as client:
            scan = scans["integers"]
            seconds, _ = timed(lambda: client.predict_scan(scan, ["labels"]), repeats)
            lines.append(
                f"{client.address}: {seconds:.2f} s for a scan of "
                f"{' x '.join(map(str, scan.shape))} with its labels, the network's time included "
                f"(median of {repeats})"
            )
    return lines


def read_shape(text: str | None) -> tuple[int, int, int]:
    """Read "Z,Y,X"; raise `OptionError` unless it is three numbers from 1."""
    try:
        shape = SHAPE if text is None else tuple(int(word) for word in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) != 3 or min(shape) < 1:
        raise OptionError(f"--shape: found {text!r}; expected Z,Y,X, such as 40,256,256")
    return shape


def make_scans(shape: Sequence[int], entry: Mapping, dtype: str) -> dict[str, np.ndarray]:
    """Return a made-up scan in a model's axes: in scanner units, and with fractions."""
    sizes = dict(zip("ZYX", shape, strict=True), C=len(entry["channels"]))
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 150.0, [sizes[letter] for letter in entry["axes"]])
    return {"integers": np.rint(values).astype(dtype), "fractions": values.astype(dtype)}


def measure_grpc(
    signature: str, inputs: Mapping[str, np.ndarray], labels: np.ndarray, repeats: int
) -> tuple[int, float, int, float]:
    """Return bytes sent, seconds to write them, bytes of the answer, seconds to read it."""
    grpc = load_grpc("grpc://")
    server = grpc.GrpcServer("localhost:1", name="bench", version=1, patience=Patience())
    with closing(server):
        prepare = partial(server.prepare, signature, inputs, ["labels"])
        write, sent = timed(lambda: prepare().content.SerializeToString(), repeats)
    messages = grpc.messages
    response = messages.PredictResponse()
    tensor = response.outputs["labels"]
    messages.fill_tensor(tensor, labels)
    # As the server answers by default: one number after the other, no block of bytes.
    tensor.tensor_content = b""
    tensor.int_val.extend(labels.reshape(-1).tolist())
    answer = response.SerializeToString()
    read, _ = timed(
        lambda: messages.read_tensor(messages.PredictResponse.FromString(answer).outputs["labels"]),
        repeats,
    )
    return len(sent), write, len(answer), read


def measure_json(
    signature: str, inputs: Mapping[str, np.ndarray], labels: np.ndarray, repeats: int
) -> tuple[int, float, int, float]:
    """Do as `measure_grpc` for the REST interface, whose answers have one value a line."""
    write, sent = timed(lambda: encode(signature, inputs), repeats)
    answer = json.dumps({"outputs": labels.tolist()}, indent=4).encode()
    read, _ = timed(lambda: np.asarray(json.loads(answer)["outputs"]), repeats)
    return len(sent), write, len(answer), read


def timed(function: Callable, repeats: int):
    """Return the median seconds of a function, and its last result."""
    seconds = []
    for _ in range(max(repeats, 1)):
        began = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - began)
    return median(seconds), result
