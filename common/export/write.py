"""Trained networks as SavedModels for TensorFlow Serving: written, compared, given a passport.

`python -m common verify FOLDER` verifies an exported model against its passport, offline and where
Keras cannot be imported. XLA is never forced into the graph, since builds of TensorFlow Serving
without the compiler refuse such a model.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from common.errors import DataError, RunError, UserError
from common.export.elsewhere import run_elsewhere
from common.export.formats import inputs_of_network, write_formats
from common.export.parity import PARITY, Example, ExportError, difference, write_parity
from common.export.passport import (
    PASSPORT,
    PHANTOM_USE,
    SCHEMA,
    Description,
    Provenance,
    hash_files,
    hash_weights,
    without_tensors,
)  # fmt: skip
from common.export.saved_model import forced_xla, read_signatures
from common.export.versions import refuse_existing, write_server_files
from common.export.warmup import WARMUP_FILE, WarmupRequest, write_warmup
from common.files import write_folder_atomically, write_json
from common.inference.extras import NONE, Extras
from common.papers import ROOT
from common.runs.folder import Run
from common.runs.provenance import git_state, package_version

PACKAGE = "segmentation-reproductions"
RECORDED_VOXELS = 2**18
"""Of the scan that a version keeps to be verified with; a larger one is cut to its middle."""
LABEL_TOLERANCE = 1e-4
"""Largest accepted share of unequal labels: those that tie within rounding."""


@dataclass(frozen=True)
class Endpoint:
    """One signature: a TensorFlow function that returns a dict of named tensors."""

    name: str
    function: Callable
    signature: Sequence[Any]
    """A `tf.TensorSpec` per argument; its name is the name of the input."""


@dataclass(frozen=True)
class HeldOutCase:
    """What an exported model is compared on: the raw inputs of `volume`, by name."""

    name: str
    """Printed with every difference that is measured on it."""
    arrays: Mapping[str, np.ndarray]
    """The first three axes of each are those of the scan."""
    spacing_mm: Sequence[float] | None = None
    """In the order of the axes."""
    centre: Sequence[int] | None = None
    """Voxel that must stay when the scan is cut; None: its middle."""


@dataclass(frozen=True)
class Recordings:
    """What a model is compared on when it is exported, and what is kept of it."""

    case: str
    kept: Mapping[str, Example]
    """Per signature; recorded in the version, so that it can be verified, and warmed up with."""
    whole_case: str = ""
    whole: Mapping[str, Example] = field(default_factory=dict)
    """Per signature, the uncut case; compared at the export alone. Empty: nothing was cut."""


@dataclass(frozen=True)
class Member:
    """A network of an exported model, and where it comes from."""

    network: keras.Model
    keras_file: Path
    """That `train` wrote."""
    provenance: Provenance


class ServingModule(Protocol):
    """What a paper's `serving.py` offers to the command `export`; `Config` is the paper's own."""

    def load_run_network(self, run: Path) -> tuple[keras.Model, Any]:
        """Return the trained network of a run and its `Config`."""

    def make_endpoints(self, network: keras.Model, config: Any) -> Sequence[Endpoint]:
        """Return the signatures of the model."""

    def with_labels(self, means: Mapping[str, Any], config: Any) -> dict[str, Any]:
        """Return averaged outputs, tensors or arrays, with the labels that they mean, if any."""

    def load_test_case(self, record: Run, network: keras.Model, config: Any) -> HeldOutCase:
        """Return a held-out case of the run; raise `UserError` where none can be read."""

    def make_up_case(self, config: Any) -> HeldOutCase:
        """Return seeded noise, for a network without data."""

    def make_examples(
        self, network: keras.Model, config: Any, case: HeldOutCase
    ) -> Mapping[str, Example]:
        """Return what each signature is compared on, computed as `predict` does."""

    def least_size(self, config: Any, case: HeldOutCase) -> Sequence[int]:
        """Return the voxels per axis that a case keeps when it is cut for the recording."""

    def passport_entry(self, config: Any, case: HeldOutCase) -> Description:
        """Return what the passport says of the model."""


def scan_endpoints(serve: Callable, image: Any) -> list[Endpoint]:
    """Return the three signatures of a whole scan: its labels, its probabilities, and both.

    Args:
        serve: scan -> {"labels", "probabilities"}, in TensorFlow; traced once for all three.
        image: `tf.TensorSpec` of the scan.
    """
    traced = tf.function(serve, input_signature=[image], autograph=False)

    def only(output: str) -> Callable:
        return lambda image: {output: traced(image)[output]}

    return [
        Endpoint("serving_default", only("labels"), [image]),
        Endpoint("probabilities", only("probabilities"), [image]),
        Endpoint("volume", traced, [image]),
    ]


def find_case(
    serving: ServingModule, record: Run, network: keras.Model, config: Any
) -> HeldOutCase:
    """Return a held-out case of the run, or, with a note, a made-up one if none can be read."""
    try:
        return serving.load_test_case(record, network, config)
    except (UserError, OSError) as problem:
        case = serving.make_up_case(config)
        print(f"note: no case of the run could be read, so {case.name} was used: {problem}")
        return case


def first_case(
    record: Run, subsets: Sequence[str] = ("test", "validation", "training", "train")
) -> tuple[dict, str]:
    """Return the entry of split.json that an export is compared on, and what it is called.

    The subsets are searched in order. A converted network's run has no case: `DataError`.
    """
    split = record.read_split()
    for subset in subsets:
        for entry in split.get(subset, []):
            what = "phantom " if record.manifest.get("phantom") else "case "
            return entry, f"{what}{entry.get('id', entry.get('volume'))} ({subset})"
    raise DataError("the run holds no cases")


def make_recordings(
    case: HeldOutCase,
    make_examples: Callable[[HeldOutCase], Mapping[str, Example]],
    *,
    least: Sequence[int],
    voxels: int = RECORDED_VOXELS,
) -> Recordings:
    """Compute in Python what the signatures are compared with; of a scan with more voxels a part,
    of `least` per axis or more, is kept, and the uncut one compared as well."""
    small = cut_case(case, least=least, voxels=voxels)
    if small is case:
        return Recordings(case.name, make_examples(case))
    whole = {"volume": make_examples(case)["volume"]}
    return Recordings(small.name, make_examples(small), case.name, whole)


def cut_case(case: HeldOutCase, *, least: Sequence[int], voxels: int) -> HeldOutCase:
    """Return the case itself, or the part around its centre that has at most so many voxels."""
    shape = np.array(next(iter(case.arrays.values())).shape[:3])
    size = shape.copy()
    while size.prod() > voxels and (size > least).any():
        axis = np.argmax(np.where(size > least, size, 0))
        size[axis] = max(size[axis] // 2, least[axis])
    if (size == shape).all():
        return case
    centre = shape // 2 if case.centre is None else np.asarray(case.centre)
    low = np.clip(centre - size // 2, 0, shape - size)
    part = tuple(slice(first, first + edge) for first, edge in zip(low, size, strict=True))
    name = f"{case.name}, {' x '.join(map(str, size))} of its {' x '.join(map(str, shape))} voxels"
    arrays = {key: np.ascontiguousarray(array[part]) for key, array in case.arrays.items()}
    return replace(case, name=name, arrays=arrays)


def export_model(
    folder: Path,
    *,
    members: Sequence[Member],
    endpoints: Sequence[Endpoint],
    recordings: Recordings,
    description: Description,
    tolerance: float,
    formats: Sequence[str] = (),
    extras: Extras = NONE,
) -> dict[str, dict]:
    """Write a version: SavedModel, passport, recorded case, warmup requests, Keras' own files.

    The formats are of the first network. Of the extras, flips and the mean over members are in the
    endpoints; the passport says the rest, which the client does.

    The model is reloaded in a process without Keras and compared before it is put in place as
    models/<name>/<version>; nothing is left there when anything fails.

    Returned is by "signature/output": largest_difference, tolerance, case; for what was cut also
    whole_case and its largest_difference_whole. A folder that exists is an `OptionError`, one that
    cannot be written a `RunError`, a model that differs or asks for XLA an `ExportError`.
    """
    refuse_existing(folder)
    with write_version(folder) as unfinished:
        write_saved_model(unfinished, [member.network for member in members], endpoints)
        if forced := forced_xla(unfinished):
            raise ExportError(f"the graph asks for XLA at {forced[0]} and {len(forced) - 1} more")
        parity = compare(unfinished, recordings, tolerance=tolerance)
        for number, member in enumerate(members, start=1):
            name = "model.keras" if number == 1 else f"model_{number}.keras"
            shutil.copyfile(member.keras_file, unfinished / name)
        write_parity(unfinished / PARITY, recordings.kept)
        kept, name = recordings.kept.items(), folder.parent.name
        requests = [WarmupRequest(name, signature, example.inputs) for signature, example in kept]
        write_warmup(unfinished / WARMUP_FILE, requests)
        others = {}
        if formats:
            arrays = {key: example.inputs for key, example in kept}
            seen = inputs_of_network(members[0].network, arrays)
            others = {"formats": write_formats(unfinished, members[0].network, seen, formats)}
        passport = make_passport(unfinished, folder, members, description, parity, extras)
        passport |= others
        write_json(unfinished / PASSPORT, passport)
    write_server_files(folder.parents[1])
    return parity


def make_passport(
    unfinished: Path,
    folder: Path,
    members: Sequence[Member],
    description: Description,
    parity: Mapping[str, Mapping],
    extras: Extras,
) -> dict[str, Any]:
    """Return the passport of a version that is otherwise finished and becomes `folder`."""
    first, provenance = members[0], members[0].provenance
    phantom = any(member.provenance.data["kind"] == "phantom" for member in members)
    # What was measured is of the first network alone, and of its labels as they are.
    metrics = None if extras.averages or extras.cleans else provenance.metrics
    signatures = without_tensors(read_signatures(unfinished))
    served = {name for signature in signatures.values() for name in signature["outputs"]}
    return {
        "schema": SCHEMA,
        "paper": provenance.paper,
        "name": folder.parent.name,
        "version": int(folder.name),
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": {**git_state(ROOT), "package": package_version(PACKAGE),
                 "keras": keras.__version__, "tensorflow": tf.__version__},
        "run": provenance.run,
        "data": provenance.data,
        "weights": weights_of(first.network),
        **({"extras": describe_extras(extras, members)} if extras != NONE else {}),
        "files": hash_files(unfinished),
        "inputs": description.inputs,
        "preprocessing": description.preprocessing,
        "labels": description.labels,
        "outputs": {key: words for key, words in description.outputs.items() if key in served},
        "signatures": signatures,
        "whole_scan": description.whole_scan,
        "parity": parity,
        "metrics": metrics,
        "intended_use": [*([PHANTOM_USE] if phantom else []), *description.intended_use],
        "limits": [*description.limits, *limits_of(extras), *keras_limits(first.network)],
    }  # fmt: skip


def weights_of(network: keras.Model) -> dict[str, Any]:
    """Return the number of a network's parameters and one SHA-256 over all of them."""
    return {"sha256": hash_weights(network), "parameters": int(network.count_params())}


def describe_extras(extras: Extras, members: Sequence[Member]) -> dict[str, Any]:
    """Return what the passport says of options beyond the paper; runs by their facts, not paths."""
    further = [
        {"run": each.provenance.run, "data": each.provenance.data,
         "weights": weights_of(each.network)}
        for each in members[1:]
    ]  # fmt: skip
    return {**asdict(extras), "ensemble": further}


def limits_of(extras: Extras) -> list[str]:
    """Return what to know of a model that was exported with options beyond the paper."""
    limits = []
    if extras.averages:
        limits.append("The network alone, without the mean over flips or networks, is not served.")
    if extras.cleans:
        limits.append("Small parts are removed by the client: the served labels still have them.")
    return limits


def keras_limits(network: keras.Model) -> list[str]:
    """Return what to know before a network's .keras file is loaded; empty: Keras is enough."""
    packages = {type(layer).__module__.partition(".")[0] for layer in network.layers} - {"keras"}
    return [
        f"model.keras holds layers that Keras does not have: `import {package}` comes before "
        "`keras.saving.load_model`; the SavedModel needs no code of ours."
        for package in sorted(packages)
    ]


@contextmanager
def write_version(folder: Path) -> Iterator[Path]:
    """Do as `write_folder_atomically`, and make a `RunError` of TensorFlow's errors."""
    with write_folder_atomically(folder) as unfinished:
        try:
            yield unfinished
        except tf.errors.OpError as refusal:
            reason = refusal.message.splitlines()[0].partition(" [Op:")[0].rpartition(";")[2]
            raise RunError(f"{folder} cannot be written: {reason.strip()}") from refusal


def write_saved_model(
    folder: Path, networks: Sequence[keras.Model], endpoints: Sequence[Endpoint]
) -> None:
    """Write the SavedModel of some signatures into an existing folder.

    Not by Keras' `ExportArchive`, for which TensorFlow traces every signature a second time.
    """
    module = tf.Module()
    module.weights = [variable.value for each in networks for variable in each.variables]
    signatures = {
        endpoint.name: tf.function(
            endpoint.function, input_signature=endpoint.signature, autograph=False
        ).get_concrete_function()
        for endpoint in endpoints
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)


def compare(folder: Path, recordings: Recordings, *, tolerance: float) -> dict[str, dict]:
    """Compare a SavedModel with what the network says in Python; see `export_model`."""
    examples = [each for each in (recordings.kept, recordings.whole) if each]
    inputs = [{name: example.inputs for name, example in each.items()} for each in examples]
    served = run_elsewhere(folder, *inputs)
    parity, worst = {}, {}
    for key, expected in outputs_of(recordings.kept).items():
        is_integer = np.issubdtype(expected.dtype, np.integer)
        worst[key] = difference(served[0][key], expected)
        parity[key] = {
            "largest_difference": worst[key],
            "tolerance": max(tolerance, LABEL_TOLERANCE) if is_integer else tolerance,
            "case": recordings.case,
        }
    for key, expected in outputs_of(recordings.whole).items():
        whole = difference(served[1][key], expected)
        worst[key] = float(np.maximum(worst[key], whole))
        parity[key] |= {"whole_case": recordings.whole_case, "largest_difference_whole": whole}
    beyond = {key: value for key, value in worst.items() if not value <= parity[key]["tolerance"]}
    if beyond:
        raise ExportError(f"the reloaded model differs by more than is accepted: {beyond}")
    return parity


def outputs_of(examples: Mapping[str, Example]) -> dict[str, np.ndarray]:
    """Return what is expected, by "signature/output"."""
    return {
        f"{name}/{output}": expected
        for name, example in examples.items()
        for output, expected in example.expected.items()
    }


def report_export(folder: Path, parity: Mapping[str, Mapping], *, began: float) -> None:
    """Print what `export_model` measured, how long the export took, and where the model lies."""
    cases = {entry["case"] for entry in parity.values()}
    print(f"SavedModel without Keras vs the network on {'; '.join(sorted(cases))}:")
    for key, entry in parity.items():
        whole = entry.get("largest_difference_whole")
        more = "" if whole is None else f", {whole:.1e} on the whole of {entry['whole_case']}"
        print(f"{key}: max difference {entry['largest_difference']:.1e}{more}")
    print(f"exported in {time.monotonic() - began:.1f} s")
    print(f"SavedModel: {folder}")
