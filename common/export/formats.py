"""The network itself in formats of other runtimes, beside the SavedModel: ONNX, OpenVINO, LiteRT.

What is portable is the network, from its own input to its own output; the steps around it, which
the SavedModel's signatures hold, are in the passport. Keras writes each format; what it wrote is
run in the format's own runtime and compared with Keras before it is kept.
"""

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from common.errors import OptionError, one_line
from common.export.parity import difference
from common.papers import ROOT


class Format(NamedTuple):
    """How a format is written and run."""

    file: str
    packages: tuple[str, ...]
    """That must be there, the runtime last."""
    run: str
    """Name of the function here that runs a file."""


FORMATS = {
    "onnx": Format("network.onnx", ("onnx", "tf2onnx", "onnxruntime"), "run_onnx"),
    "openvino": Format("network.xml", ("openvino",), "run_openvino"),
    "litert": Format("network.tflite", ("tensorflow",), "run_litert"),
}
PATIENCE_S = 120
"""For one format to be written and run."""
FAR = 1e-3
"""A difference from Keras above which a file is not kept; float32 sums in another order stay far
below, halved weights or arithmetic do not."""


def check_formats(formats: Sequence[str]) -> None:
    """Refuse a format that is unknown or whose packages are not installed."""
    for name in formats:
        if name not in FORMATS:
            raise OptionError(f"--formats {name}: expected some of {', '.join(FORMATS)}")
        missing = [package for package in FORMATS[name].packages if find_spec(package) is None]
        if missing:
            raise OptionError(
                f"--formats {name} needs {', '.join(missing)}: "
                f"pip install 'segmentation-reproductions[{name}]'"
            )


def write_formats(
    folder: Path, network: keras.Model, inputs: Sequence[np.ndarray], formats: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Write a network in some formats and compare each with Keras.

    Each is written and run in a process of its own, for at most `PATIENCE_S`: a converter or
    runtime that crashes or never ends takes nothing with it.

    Args:
        folder: of the exported version.
        network: the trained network.
        inputs: what it is compared on, an array for each of its inputs.
        formats: some of `FORMATS`.

    Returns:
        By format: file, runtime and largest_difference; or problem, the reason why there is none.
    """
    packages = {type(layer).__module__.partition(".")[0] for layer in network.layers} - {"keras"}
    given = list(inputs) if len(inputs) > 1 else inputs[0]
    expected = keras.tree.flatten(network(given, training=False))
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        network.save(work / "network.keras")
        arrays = {f"input{n}": array for n, array in enumerate(inputs)}
        arrays |= {f"output{n}": np.asarray(array) for n, array in enumerate(expected)}
        np.savez(work / "case.npz", **arrays)
        for name in formats:
            found[name] = _in_a_process(folder, work, name, sorted(packages))
    return found


def _in_a_process(folder: Path, work: Path, name: str, packages: Sequence[str]) -> dict[str, Any]:
    """Write one format; what fails leaves no file and says why."""
    path = folder / FORMATS[name].file
    words = [sys.executable, "-m", "common.export.formats", str(work), str(path), name, *packages]
    try:
        done = subprocess.run(
            words, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        lines = done.stdout.strip().splitlines() or [f"it ended with status {done.returncode}"]
        problem = "" if done.returncode == 0 else lines[-1][:300]
    except subprocess.TimeoutExpired:
        problem = f"no end after {PATIENCE_S} s"
    if problem:
        for made in (path, path.with_suffix(".bin")):
            made.unlink(missing_ok=True)
        print(f"note: not written as {name}: {problem}", file=sys.stderr)
        return {"problem": problem}
    runtime = FORMATS[name].packages[-1]
    print(f"{path.name}: differs from Keras by {float(lines[-1]):.1e} in {runtime}")
    return {
        "file": path.name,
        "runtime": f"{runtime} {metadata.version(runtime)}",
        "largest_difference": float(lines[-1]),
    }


def main(words: Sequence[str]) -> int:
    """Write one format, in the process for it; print the largest difference, or what is wrong."""
    work, path, name, *packages = words
    for package in packages:
        importlib.import_module(package)  # registers its layers
    with np.load(Path(work) / "case.npz") as case:
        inputs = [case[key] for key in case.files if key.startswith("input")]
        expected = [case[key] for key in case.files if key.startswith("output")]
    try:
        network = keras.saving.load_model(Path(work) / "network.keras")
        network(inputs if len(inputs) > 1 else inputs[0], training=False)  # ONNX wants a shape
        if name == "openvino":
            write_openvino(Path(path), network)
        else:
            network.export(path, format=name, verbose=False)
        named = {each.name: a for each, a in zip(network.inputs, inputs, strict=True)}
        found = globals()[FORMATS[name].run](Path(path), named)
        apart = max(difference(f, e) for f, e in zip(found, expected, strict=True))
        if not apart <= FAR:
            raise ValueError(f"the outputs differ from Keras by {apart:.1e}")
    except Exception as failure:  # whatever a converter or a runtime raises
        print(f"{type(failure).__name__}: {one_line(failure)}")
        return 1
    print(apart)
    return 0


def write_openvino(path: Path, network: keras.Model) -> None:
    """Write OpenVINO's two files with whole weights; Keras' own export halves them."""
    openvino = importlib.import_module("openvino")
    saved = path.with_name("openvino-source")
    network.export(saved, format="tf_saved_model", verbose=False)
    try:
        openvino.save_model(openvino.convert_model(saved), path, compress_to_fp16=False)
    finally:
        for made in sorted(saved.rglob("*"), reverse=True):
            made.rmdir() if made.is_dir() else made.unlink()
        saved.rmdir()


def in_order(inputs: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
    """Return a network's inputs in the order of a file's, whose names contain the network's."""
    if len(inputs) == 1:
        return list(inputs.values())
    found = [[array for own, array in inputs.items() if own in name] for name in names]
    if any(len(each) != 1 for each in found):
        raise ValueError(f"found the inputs {', '.join(names)}; expected {', '.join(inputs)}")
    return [array for (array,) in found]


def run_onnx(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of an ONNX file."""
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return session.run(None, dict(zip(names, in_order(inputs, names), strict=True)))


def run_openvino(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of an OpenVINO file in float32 arithmetic, compiled for these sizes.

    Compiled for open sizes, OpenVINO 2026.4 computes without end where `fetal_brain` sees more than
    about 64 x 64 pixels, at the last sum of its decoder.
    """
    openvino = importlib.import_module("openvino")
    core = openvino.Core()
    network = core.read_model(path)
    arrays = in_order(inputs, [each.any_name for each in network.inputs])
    network.reshape({each: list(a.shape) for each, a in zip(network.inputs, arrays, strict=True)})
    model = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = model(arrays)
    return [found[output] for output in model.outputs]


def run_litert(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the outputs of a LiteRT file, in TensorFlow's own interpreter."""
    tensorflow = importlib.import_module("tensorflow")
    interpreter = tensorflow.lite.Interpreter(str(path))
    details = interpreter.get_input_details()
    arrays = in_order(inputs, [entry["name"] for entry in details])
    for entry, array in zip(details, arrays, strict=True):
        interpreter.resize_tensor_input(entry["index"], array.shape)
    interpreter.allocate_tensors()
    for entry, array in zip(details, arrays, strict=True):
        interpreter.set_tensor(entry["index"], array)
    interpreter.invoke()
    return [interpreter.get_tensor(e["index"]) for e in interpreter.get_output_details()]


def inputs_of_network(
    network: keras.Model, examples: Mapping[str, Mapping[str, np.ndarray]]
) -> list[np.ndarray]:
    """Return what a recorded case gives the network to see: the inputs of the signature that fits.

    An axis for the batch, and one for the channel, is added where a signature has none.
    """
    for arrays in examples.values():
        if len(arrays) != len(network.inputs):
            continue
        fitted = [_fit(a, i.shape) for a, i in zip(arrays.values(), network.inputs, strict=True)]
        if all(each is not None for each in fitted):
            return fitted
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=[1, *(32 if n is None else n for n in each.shape[1:])]).astype(np.float32)
        for each in network.inputs
    ]


def _fit(array: np.ndarray, shape: Sequence[int | None]) -> np.ndarray | None:
    lacking = len(shape) - array.ndim
    if lacking not in (0, 1, 2) or array.dtype != np.float32:
        return None
    if lacking:
        array = array[np.newaxis]
    if lacking == 2:
        array = array[..., np.newaxis]
    fits = all(n in (None, size) for n, size in zip(shape, array.shape, strict=True))
    return array[:1] if fits else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
