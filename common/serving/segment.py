"""Segment a scan with an exported model, here or on a server, and try a server out."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from common.data.volumes import FORMATS, write_volume
from common.errors import OptionError, ServingError
from common.export.parity import PARITY, difference, read_parity
from common.serving.client import MASK
from common.serving.opening import open_client
from common.serving.protocol import Patience
from common.serving.scans import Scan, read_mask, read_scan

PHANTOM_NOTE = "note: this model was trained on phantoms; what it finds says nothing of a patient"


def segment(
    scans: Sequence[Path],
    *,
    output: Path,
    model: Path | None = None,
    passport: Path | None = None,
    url: str | None = None,
    mask: Path | None = None,
    probabilities: Path | None = None,
    reorient: bool = False,
    patience: Patience | None = None,
    max_message_mib: float | None = None,
) -> str:
    """Segment one scan and write its labels in the scan's own geometry.

    Args:
        scans: a file per channel, in the order of the passport.
        output: label map to write; .nii, .nii.gz, .mha, .mhd or .nrrd.
        model: see `open_client`, as for passport, url, patience and max_message_mib.
        passport: see there.
        url: see there.
        mask: region of interest on the scan's grid, for models that take one.
        probabilities: also write the probability of any label but 0, float32.
        reorient: turn the scan's axes to the model's orientation, and the labels back.
        patience: see there.
        max_message_mib: see there.

    Returns:
        A line about the labels.

    Raises:
        UserError: see `open_client`, `read_scan` and `Client.predict_scan`; or a file to write is
            one to read, or cannot be written. Nothing is written then.
    """
    read = [*scans, mask] if mask is not None else scans
    check_outputs(read, [path for path in (output, probabilities) if path is not None])
    began = time.monotonic()
    with open_client(
        model=model, passport=passport, url=url, patience=patience, max_message_mib=max_message_mib
    ) as client:
        name = client.scan_input
        dtype = client.signatures[client.whole_scan].inputs[name].dtype
        scan = read_scan(scans, client.passport["inputs"][name], dtype=dtype, reorient=reorient)
        wanted = ["labels"] + (["probabilities"] if probabilities is not None else [])
        print_notes(client.passport)
        region = None
        if mask is not None:
            spec = client.signatures[client.signature_for(wanted, masked=True)].inputs[MASK]
            region = read_mask(mask, scan, scans[0], dtype=spec.dtype)
        found = client.predict_scan(scan.tensor, wanted, mask=region, progress=show_parts())
        labels = scan.back(found["labels"])
        if probabilities is not None:
            foreground = any_label(scan, found["probabilities"])
            write_volume(probabilities, foreground, scan.geometry)
        write_volume(output, labels, scan.geometry)
        source = f"{client.passport['name']} {client.passport['version']} of {client.way.address}"
        seconds = time.monotonic() - began
        return describe(output, labels, scan, client.passport["labels"], source, seconds)


def check_outputs(scans: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Refuse what could not be written in the end, before anything is sent.

    Raises:
        OptionError: a file has an unknown ending, its folder is missing or not writable, or it is
            one of the scans or twice the same.
    """
    taken = {Path(scan).resolve() for scan in scans}
    for path in map(Path, outputs):
        if not path.name.lower().endswith(tuple(FORMATS)):
            raise OptionError(f"{path}: unknown kind of volume; expected {', '.join(FORMATS)}")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise OptionError(f"{path}: expected a folder that exists and can be written")
        if path.resolve() in taken:
            raise OptionError(f"{path} is a scan to read or another output; expected another file")
        taken.add(path.resolve())


def any_label(scan: Scan, probabilities: np.ndarray) -> np.ndarray:
    """Return the probability of any label but 0 as (Z, Y, X) float32, in the file's axes."""
    found = scan.back(probabilities)
    return found if found.ndim == 3 else (1.0 - found[..., 0]).astype(np.float32)


def describe(
    output: Path,
    labels: np.ndarray,
    scan: Scan,
    names: Mapping[str, str],
    source: str,
    seconds: float,
) -> str:
    """Return a line with the volume of every label."""
    voxel_ml = float(np.prod(scan.geometry.spacing_mm)) / 1000
    counts = np.bincount(labels.reshape(-1).astype(np.int64))
    found = [
        f"{names.get(str(number), f'label {number}')} {count * voxel_ml:.1f} ml"
        for number, count in enumerate(counts)
        if number and count
    ]
    return f"{output}: {', '.join(found) or 'nothing found'}; {source}, {seconds:.1f} s"


def print_notes(passport: Mapping) -> None:
    """Say on stderr what no check of the files can see: phantoms, and steps left to the user."""
    if passport.get("data", {}).get("kind") == "phantom":
        print(PHANTOM_NOTE, file=sys.stderr)
    steps = [step["step"] for step in passport.get("preprocessing", []) if not step["in_graph"]]
    if steps:
        print(f"note: expected of the scan before: {'; '.join(steps)}", file=sys.stderr)


def show_parts():
    """Return the function that shows parts done on a terminal; None where there is none."""
    if not sys.stderr.isatty():
        return None
    return lambda done, total: print(
        f"\rpart {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True
    )


def check(
    *,
    model: Path,
    url: str | None = None,
    patience: Patience | None = None,
    max_message_mib: float | None = None,
) -> list[str]:
    """Ask a served model for the recorded case of its export and compare the answers.

    Args:
        model: folder of the exported version; holds passport.json and parity.npz.
        url: of the server; None: the local twin.
        patience: see `open_client`.
        max_message_mib: see there.

    Returns:
        A line per output.

    Raises:
        UserError: see `open_client`.
        ServingError: an answer differs by more than the passport allows.
    """
    with open_client(
        model=model, url=url, patience=patience, max_message_mib=max_message_mib
    ) as client:
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
                        f"{client.way.address}: {key} differs by {value:.1e} from the recorded "
                        f"case; expected at most {allowed:g}"
                    )
                lines.append(f"{key}: differs by {value:.1e} of at most {allowed:g}")
        return lines
