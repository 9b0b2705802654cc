"""One scan: brought to the working grid, searched, its mask and findings written."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from common.data.geometry import Geometry, Volume
from common.data.volumes import stem_of, write_volume
from common.errors import DataError
from common.files import write_json
from common.inference.command import Shown
from common.inference.extras import NONE, Extras, clean_up
from vertebra.config import Config
from vertebra.data import load_scan, prediction_path
from vertebra.preparation import back_to_source, make_isotropic, to_raw_scale, upright
from vertebra.traverse import MOST_VISITS, Traversal, advance, asked_once, begin


def segment_scan(
    path: Path, ask: Callable, config: Config, *, out: Path, network: str, extras: Extras = NONE
) -> str:
    """Search one scan, write mask and findings, which name the network, and return a line."""
    source = load_scan(path)
    start = time.monotonic()
    working, notes = to_working_grid(source, config, name=str(path))
    if notes:
        print(f"{path.name}: {'; '.join(notes)}")
    search = run_search(path, working.array, ask, config)
    mask = Volume(search.mask, working.geometry)
    if config.keep_geometry and working is not source:
        mask = back_to_source(mask, (source.array.shape, source.geometry))
    target = prediction_path(out, stem_of(path))
    # [V16] The released way keeps the scan's own type.
    array = mask.array if config.traversal == "code" else mask.array.astype(np.uint8)
    array = clean_up(array, extras, mask.geometry.spacing_mm)
    write_volume(target, array, mask.geometry, compress=True)
    found = {"scan": path.name, "network": network, **findings(search, working)}
    write_json(target.with_suffix(".json"), found)
    labels = {vertebra.label for vertebra in search.vertebrae if vertebra.label}
    return (
        f"{path.name}: {len(labels)} vertebrae, {len(search.visits)} windows,"
        f" {time.monotonic() - start:.1f} s, ended: {search.ended}; {target}"
    )


def to_working_grid(source: Volume, config: Config, *, name: str) -> tuple[Volume, list[str]]:
    """Bring a scan to the scale, orientation and voxels that the network knows [V34] [V37].

    Returns the scan, and what was done, in words; raises `DataError`, which calls the scan `name`,
    where its scale cannot be told. The released way takes the voxels as they are and
    drops the geometry [V21].
    """
    array, note = to_raw_scale(source.array, config, name=name)
    notes = [note] if note else []
    if not config.keep_geometry:
        return Volume(array, Geometry((1.0, 1.0, 1.0))), notes
    volume = source if array is source.array else Volume(array, source.geometry)
    turned = upright(volume)
    if turned is not volume:
        notes.append("turned upright and back")
    spacing = turned.geometry.spacing_mm
    if max(abs(s - config.spacing_mm) for s in spacing) > 1e-3:
        shown = " x ".join(f"{s:.3g}" for s in spacing)
        notes.append(f"voxels of {shown} mm were resampled to {config.spacing_mm:g} mm and back")
        turned = make_isotropic(turned, config)
    return turned, notes


def run_search(path: Path, image: np.ndarray, ask: Callable, config: Config) -> Traversal:
    """Search a scan to the end and say where it is."""
    search, show = begin(image, config), Shown()
    most = MOST_VISITS if config.traversal == "code" else None
    try:
        for state in advance(search, asked_once(ask), max_visits=most):
            if state.visits:
                show(where(path, state))
    except (DataError, IndexError, ValueError, OverflowError) as failure:
        if config.traversal != "code":
            raise
        raise DataError(
            f"{path}: the released search broke down after {len(search.visits)} windows at"
            f" (z, y, x) {search.centre}: {failure}"
        ) from failure
    finally:
        show.end()
    if search.given_up:
        raise DataError(f"{path}: the released search was {search.ended}")
    return search


def where(path: Path, search: Traversal) -> str:
    """Return in a line where a search is."""
    visit, seen = search.visits[-1], len(search.visits)
    centre = ", ".join(str(int(place)) for place in visit.centre)
    left = f", {len(search.grid)} places left" if search.grid else ""
    return (f"{path.name}: window {seen} at (z, y, x) {centre}: {visit.decision}, "
            f"{len(search.vertebrae)} found{left}")  # fmt: skip


def findings(search: Traversal, working: Volume) -> dict:
    """Return the findings of a search for the JSON file beside the mask."""
    origin, direction = working.geometry.origin_mm, working.geometry.direction
    to_mm = np.reshape(direction, (3, 3)) * working.geometry.spacing_mm
    return {
        "ended": search.ended,
        "vertebrae": [
            {**vars(found), "centre_mm": origin + to_mm @ found.centre[::-1]}
            for found in search.vertebrae
        ],
        "visits": [visit._asdict() for visit in search.visits],
    }
