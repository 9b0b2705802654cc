"""The passport of an exported model: what it is, what it expects, where it came from, how it was
compared with the trained network.

`passport.json` lies in the folder of a version and needs nothing of this project to be read. It
names every other file of the folder with its SHA-256, so that `python -m common verify` notices a
change of any. Whoever can write the folder can also write another passport: against that the folder
has to be signed (docs/serving.md).
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import RunError
from common.export.versions import find_versions
from common.files import read_json, sha256_of
from common.runs.folder import Run
from common.runs.provenance import hash_data_files
from common.runs.training_grid import TrainingGrid

SCHEMA = 1
PASSPORT = "passport.json"

PER_CLASS = {"labels": "of each voxel", "probabilities": "of each class, on the last axis"}
FOREGROUND = {"labels": "of each voxel", "probabilities": "of label 1"}
"""The two ways in which papers answer."""
PHANTOM_USE = "Trained on phantoms: for trying the software, not for any patient."
RESEARCH_USE = "Research and teaching. No medical device; not tested on patients of any clinic."


@dataclass(frozen=True)
class Description:
    """What a paper says of its exported model beyond what can be read from files."""

    inputs: Mapping[str, Mapping[str, Any]]
    """By input name: modality, axes, channels, orientation, spacing_mm {expected, tolerance},
    minimum_size, intensities."""
    preprocessing: Sequence[Mapping[str, Any]]
    """Steps from what the client sends to what the network sees; each has `step` and `in_graph`."""
    labels: Mapping[int, str]
    """What each number in `labels` means."""
    outputs: Mapping[str, str]
    """By output name, what its numbers are."""
    limits: Sequence[str]
    """What the model cannot do, in sentences."""
    intended_use: Sequence[str] = (RESEARCH_USE,)
    whole_scan: Mapping[str, Any] = field(default_factory=lambda: {"signature": "volume"})
    """The signature that takes a whole scan, or None there and the command that does."""

    def on_grid(self, grid: TrainingGrid | None) -> "Description":
        """Return the description whose inputs expect the orientation and voxels of the training."""
        if grid is None:
            return self
        sizes = dict(zip("XYZ", grid.spacing_mm, strict=True))
        inputs = {}
        for name, entry in self.inputs.items():
            expected = [sizes[axis] for axis in entry["axes"] if axis in sizes]
            spacing = {**entry["spacing_mm"], "expected": expected}
            inputs[name] = {**entry, "orientation": grid.orientation, "spacing_mm": spacing}
        return replace(self, inputs=inputs)


@dataclass(frozen=True)
class Provenance:
    """Where a network comes from, as far as its run folder tells."""

    paper: str
    run: dict
    data: dict
    metrics: dict | None

    @classmethod
    def of_run(cls, record: Run) -> "Provenance":
        """Read a run folder; no path of it goes into the passport."""
        report = record.path / "report" / "report.json"
        return cls(
            paper=record.paper,
            run={
                "config_sha256": sha256_of(record.path / "config.yaml"),
                "preset": record.config.get("preset"),
                "seed": record.manifest.get("seed"),
                "status": record.status,
                "trained_steps": record.manifest.get("training", {}).get("steps"),
                "cases": {name: len(cases) for name, cases in record.read_split().items()},
                "commit": record.manifest.get("git", {}).get("commit"),
            },
            data=training_data(record),
            metrics=read_json(report) if report.is_file() else None,
        )


def training_data(record: Run) -> dict:
    """Return what a network was trained on: kind, number of files, one SHA-256 over all of them.

    Whether files are the paper's is not known here; a run may say so in its manifest (`data_kind`).
    """
    manifest, kind = record.manifest, "own files"
    if manifest.get("converted_from") is not None:
        kind = "converted weights"
    if manifest.get("phantom"):
        kind = "phantom"
    return {
        "kind": manifest.get("data_kind", kind),
        "files": len(manifest.get("data_files", {})),
        "sha256": hash_data_files(manifest),
    }


def read_passport(folder: Path) -> dict:
    """Read the passport of an exported version; raise `RunError` if it is absent or damaged."""
    path = Path(folder) / PASSPORT
    if not path.is_file():
        raise RunError(f"{folder} is not an exported model: expected {PASSPORT} in it")
    content = read_json(path)
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise RunError(f"{path}: found schema {schema!r}; expected {SCHEMA}")
    return content


def check_folder(folder: Path) -> None:
    """Raise `RunError` for what cannot be an exported version."""
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder; expected models/<name>/<version>")
    if (folder / PASSPORT).is_file() or (folder / "saved_model.pb").is_file():
        return
    versions = find_versions(folder)
    where = f"one of its versions, such as {folder / str(versions[-1])}" if versions else PASSPORT
    raise RunError(f"{folder} is not an exported model; expected {where}")


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder but the passport, by path with slashes."""
    return {name: sha256_of(path) for name, path in _files_below(folder).items()}


def _files_below(folder: Path) -> dict[str, Path]:
    found = {path.relative_to(folder).as_posix(): path
             for path in sorted(Path(folder).rglob("*")) if not path.is_dir()}  # fmt: skip
    found.pop(PASSPORT, None)
    return found


def find_changes(folder: Path, expected: Mapping[str, str]) -> list[str]:
    """Return which files are missing, extra or changed from their SHA-256, a sentence each."""
    present = _files_below(folder)
    wrong = [f"{name} is missing" for name in sorted(expected.keys() - present.keys())]
    wrong += [f"{name} is not in the passport" for name in present if name not in expected]
    for name in sorted(present.keys() & expected.keys()):
        try:
            found, wanted = sha256_of(present[name]), expected[name]
            if found != wanted:
                wrong.append(f"{name} was changed: sha256 {found[:12]}, expected {wanted[:12]}")
        except OSError as refusal:
            wrong.append(f"{name} cannot be read: {refusal.strerror}")
    return wrong


def hash_weights(network: Any) -> str:
    """Return one SHA-256 over names, shapes and numbers of a Keras network's variables."""
    digest = hashlib.sha256()
    for variable in network.weights:
        array = np.ascontiguousarray(variable.numpy())
        digest.update(f"{variable.path} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def without_tensors(signatures: Mapping[str, Mapping]) -> dict:
    """Return signatures without the graph's own names, which change with every export."""

    def specs(tensors: Mapping) -> dict:
        return {key: {"dtype": t["dtype"], "shape": t["shape"]} for key, t in tensors.items()}

    return {name: {side: specs(tensors) for side, tensors in sides.items()}
            for name, sides in signatures.items()}  # fmt: skip


def describe_input(
    modality: str,
    *,
    axes: str,
    channels: Iterable[str],
    intensities: str,
    minimum_size: Sequence[int],
    spacing_mm: Sequence[float] | None = None,
    spacing_tolerance: float | None = None,
    orientation: str = "as stored",
    **more: Any,
) -> dict[str, Any]:
    """Return one entry of `Description.inputs`.

    Args:
        modality: such as "T2-weighted MRI stack".
        axes: of the array, such as "ZYX" or "ZYXC".
        channels: in their order; one name where the array has no channel axis.
        intensities: their unit or scale.
        minimum_size: voxels per spatial axis below which the model refuses or is useless.
        spacing_mm: voxel size in the order of `axes`; None: any, or not known.
        spacing_tolerance: relative, beyond which a scan should be resampled first.
        orientation: what the axes must point to; "as stored": as the training files have them.
        more: further facts.
    """
    return {
        "modality": modality,
        "axes": axes,
        "channels": list(channels),
        "orientation": orientation,
        "spacing_mm": {
            "expected": None if spacing_mm is None else list(spacing_mm),
            "tolerance": spacing_tolerance,
        },
        "minimum_size": list(minimum_size),
        "intensities": intensities,
        **more,
    }
