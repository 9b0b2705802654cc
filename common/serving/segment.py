"""Segment a scan with an exported model, here or on a server, and try a server out."""

import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.data.volumes import stem_of, write_volume
from common.errors import OptionError, ServingError
from common.export.parity import PARITY, difference, read_parity
from common.inference.command import show_progress
from common.inference.extras import NONE, as_exported, clean_up, entropy_of
from common.inference.one_scan import DICOM, check_place
from common.serving.client import MASK, Client
from common.serving.opening import open_client
from common.serving.scans import Scan, read_mask, read_scan

PHANTOM_NOTE = "note: this model was trained on phantoms; what it finds says nothing of a patient"


def segment(
    scans: Sequence[Path],
    *,
    output: Path,
    mask: Path | None = None,
    probabilities: Path | None = None,
    reorient: bool = False,
    **where: Any,
) -> str:
    """Segment one scan and write its labels in the scan's own geometry; return a line about them.

    The scan has a file per channel, in the order of the passport; the options are those of the
    command line and of `open_client`. Where a `UserError` is raised, nothing is written.
    """
    order = Order(tuple(scans), output, mask, probabilities)
    check_writable(order.inputs, [path for path in (output, probabilities) if path is not None])
    with open_client(**where) as client:
        return carry_out(order, client, reorient=reorient, notes=True)


@dataclass(frozen=True)
class Order:
    """A scan to segment and where to."""

    scans: tuple[Path, ...]
    """A file per channel."""
    output: Path
    mask: Path | None = None
    probabilities: Path | None = None

    @property
    def inputs(self) -> list[Path]:
        """All files that are read."""
        return [*self.scans, *([] if self.mask is None else [self.mask])]

    @property
    def entropy(self) -> Path:
        """Where the entropy goes if the model was exported with one."""
        return self.output.with_name(f"{stem_of(self.output)}_entropy.nii.gz")


def carry_out(order: Order, client: Client, *, reorient: bool, notes: bool = False) -> str:
    """Segment a scan with an open model, write what was ordered, and return a line about it.

    Labels are cleaned up, and their entropy written, if the model was exported with that. With
    `notes`, `print_notes` speaks once the scan is known to fit.
    """
    began = time.monotonic()
    name, first = client.scan_input, order.scans[0]
    dtype = client.signatures[client.whole_scan].inputs[name].dtype
    scan = read_scan(order.scans, client.passport["inputs"][name], dtype=dtype, reorient=reorient)
    if notes:
        print_notes(client.passport)
    extras = as_exported(NONE, client.passport)
    if extras.entropy:
        check_writable(order.inputs, [order.entropy])
    needed = order.probabilities is not None or extras.entropy
    wanted = ["labels"] + (["probabilities"] if needed else [])
    region = None
    if order.mask is not None:
        spec = client.signatures[client.signature_for(wanted, masked=True)].inputs[MASK]
        region = read_mask(order.mask, scan, first, dtype=spec.dtype)
    found = client.predict_scan(scan.tensor, wanted, mask=region, progress=show_progress("parts"))
    labels = clean_up(scan.back(found["labels"]), extras, scan.geometry.spacing_mm)
    if extras.entropy:
        chances = found["probabilities"]
        doubt = scan.back(entropy_of(chances, binary=chances.ndim == 3))
        write_volume(order.entropy, doubt, scan.geometry)
    if order.probabilities is not None:
        foreground = scan.back(found["probabilities"])
        if foreground.ndim == 4:  # of each class: of any label but 0
            foreground = (1.0 - foreground[..., 0]).astype(np.float32)
        write_volume(order.probabilities, foreground, scan.geometry)
    write_labels(order.output, labels, scan, first, client.passport)
    source = f"{client.passport['name']} {client.passport['version']} of {client.address}"
    volumes = volumes_of(labels, scan, client.passport["labels"])
    return f"{order.output}: {volumes}; {source}, {time.monotonic() - began:.1f} s"


def write_labels(
    output: Path, labels: np.ndarray, scan: Scan, source: Path, passport: Mapping
) -> None:
    """Write labels as a volume, or as a DICOM Segmentation of the series they were found on."""
    if not output.name.lower().endswith(DICOM):
        write_volume(output, labels, scan.geometry)
        return
    dicom_seg = importlib.import_module("common.data.dicom_seg")  # its libraries are an extra
    dicom_seg.write_segmentation(
        output, labels, source,
        names={int(number): name for number, name in passport["labels"].items()},
        algorithm=passport["name"], version=str(passport["version"]),
    )  # fmt: skip


def check_writable(scans: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Raise `OptionError` for what could not be written in the end, before anything is sent."""
    taken = {Path(scan).resolve() for scan in scans}
    for path in map(Path, outputs):
        check_place(path, Path(scans[0]), name=str(path))
        if path.resolve() in taken:
            raise OptionError(f"{path} is a scan to read or another output; expected another file")
        taken.add(path.resolve())


def volumes_of(labels: np.ndarray, scan: Scan, names: Mapping[str, str]) -> str:
    """Return the volume of every label in words."""
    voxel_ml = float(np.prod(scan.geometry.spacing_mm)) / 1000
    counts = np.bincount(labels.reshape(-1).astype(np.int64))
    found = [
        f"{names.get(str(number), f'label {number}')} {count * voxel_ml:.1f} ml"
        for number, count in enumerate(counts)
        if number and count
    ]
    return ", ".join(found) or "nothing found"


def print_notes(passport: Mapping) -> None:
    """Print on stderr what no check of the files can see: phantoms, and steps left to the user."""
    if passport.get("data", {}).get("kind") == "phantom":
        print(PHANTOM_NOTE, file=sys.stderr)
    steps = [step["step"] for step in passport.get("preprocessing", []) if not step["in_graph"]]
    if steps:
        print(f"note: expected to be done already: {'; '.join(steps)}", file=sys.stderr)


def check(model: Path, **where: Any) -> list[str]:
    """Ask a served model for the recorded case of its export; return a line per output.

    The folder of the exported version holds the case and its passport. An answer that differs by
    more than the passport allows is a `ServingError`.
    """
    with open_client(model=model, **where) as client:
        inputs, outputs = read_parity(Path(model) / PARITY)
        lines = []
        for signature, arrays in inputs.items():
            names = [key.partition("/")[2] for key in outputs if key.startswith(f"{signature}/")]
            found = client.predict(signature, arrays, names)
            for name in names:
                key = f"{signature}/{name}"
                value = difference(found[name], outputs[key])
                allowed = client.passport["parity"][key]["tolerance"]
                if not value <= allowed:
                    raise ServingError(
                        f"{client.address}: {key} differs by {value:.1e} from the recorded "
                        f"case; expected at most {allowed:g}"
                    )
                lines.append(f"{key}: differs by {value:.1e} of at most {allowed:g}")
        return lines
