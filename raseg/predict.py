"""Segment volumes of the arrays with a trained network: masks, pictures, and NIfTI."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from common.cohort.work import HERE, Item, Workers, segment_cases
from common.cost.memory import warn_of_memory
from common.data.geometry import Geometry
from common.data.volumes import read_geometry, write_volume
from common.errors import DataError, WriteError
from common.files import atomic_file
from common.inference.extras import (
    NONE,
    Extras,
    averaged,
    axes_of,
    check_alike,
    clean_up,
    entropy_of,
    only,
)
from common.runs.folder import load_config, load_run
from common.runtime import configure_runtime
from raseg.config import ALIKE, AXES, Config
from raseg.data import (
    Volumes,
    check_tag,
    choose_volumes,
    files_of,
    open_volumes,
    read_words,
)
from raseg.masks import mask_path
from raseg.pictures import write_slices


def predict(
    tag: str,
    *,
    imgn: int | None = None,
    run: Path | None = None,
    data: Path = Path("datasets"),
    out: Path | None = None,
    pictures: bool = True,
    probabilities: bool = False,
    reference: Path | None = None,
    extras: Extras = NONE,
    on: Workers = HERE,
) -> None:
    """Segment volumes of the arrays and write masks and pictures as the original lays them out.

    Below `out`: preds/<tag>/img<n>_<tag>.npy, pictures/<tag>/img<n>/img<n>d<slice>_<tag>_true.png
    and _pred.png, and img<n>.nii.gz where the geometry is known. Source: raseg_predict.py.

    Args:
        tag: name of the training, part of the files' names.
        imgn: number of the volume, from 0; default: every held-out volume of the run.
        run: run folder; default: models/raseg_train_<tag>.
        data: folder of the arrays.
        out: where preds/ and pictures/ go; default: predictions/ in the run folder; "." is the
            original's place.
        pictures: write two pictures per slice.
        probabilities: write img<n>_<tag>_probability.npy, float32, beside the mask.
        reference: scan whose geometry the NIfTI files take; default: geometry.json in the data.
        extras: what is done beyond the paper; the entropy is img<n>_<tag>_entropy.npy.
        on: who works on the volumes.
    """
    check_tag(tag)
    run = run or Path("models") / f"raseg_train_{tag}"
    record = load_run(run)
    config = load_config(run, Config)
    volumes = open_volumes(data, config)
    numbers = choose_volumes(record, volumes, imgn)
    geometry = find_geometry(volumes, reference)
    out = out or run / "predictions"
    items = [Item(f"volume {n}", n, (mask_path(out, tag, n),)) for n in numbers]
    others = [(Path(each), load_config(Path(each), Config)) for each in extras.ensemble]
    check_alike(config, others, ALIKE)
    axes_of(extras, AXES)
    runs = [(run, config), *others]
    begin = partial(
        load_segmenter, runs, data,
        tag=tag, geometry=geometry, out=out, pictures=pictures, probabilities=probabilities,
        extras=extras,
    )  # fmt: skip
    decides = [*(each / "model.keras" for each, _ in runs), *files_of(data, config)]
    segment_cases(items, begin, what="volume", on=on, out=out, decides=decides)
    extras.record(out)


def load_segmenter(
    runs: Sequence[tuple[Path, Config]], data: Path, *, extras: Extras, **options
) -> Callable[[int], str]:
    """Load the networks of some runs and return what segments a volume; see `segment_volume`."""
    from raseg.inference import load_network, on_volumes, segment_scan

    config = runs[0][1]
    volumes = open_volumes(data, config)
    configure_runtime(seed=0)
    functions = [on_volumes(segment_scan, load_network(run, each), each) for run, each in runs]
    options |= {"config": config, "extras": extras, "volumes": volumes}
    return partial(segment_volume, segment=averaged_labels(functions, extras), **options)


def averaged_labels(functions: Sequence[Callable], extras: Extras) -> Callable:
    """Return the only function, or one that marks where the mean of all is more than a half."""
    if not extras.averages:
        return functions[0]
    mean = averaged([only("probabilities", each) for each in functions], axes_of(extras, AXES))

    def segment(image):
        found = mean(image)["probabilities"]
        return {"labels": (found > 0.5).astype(np.uint8), "probabilities": found}

    return segment


def segment_volume(
    number: int, volumes: Volumes, segment: Callable, config: Config, *,
    tag: str, geometry: Geometry | None, out: Path, pictures: bool, probabilities: bool,
    extras: Extras,
) -> str:  # fmt: skip
    """Segment one volume, write its files and return a line about it; see `predict`."""
    image = volumes.image(number)
    # The normalised images and two logits per voxel, float32.
    warn_of_memory(4 * (image.size + 2 * image[..., 0].size), what=f"volume {number}")
    begin = time.monotonic()
    found = segment(read_words(image, config, name=f"volume {number}"))
    mask = clean_up(found["labels"], extras, volumes.spacing_mm)
    path = mask_path(out, tag, number)
    write_array(path, mask.astype(np.float64))  # the original's dtype
    if probabilities:
        name = f"img{number}_{tag}_probability.npy"
        write_array(path.with_name(name), found["probabilities"])
    if extras.entropy:
        doubt = entropy_of(found["probabilities"], binary=True)
        write_array(path.with_name(f"img{number}_{tag}_entropy.npy"), doubt)
    if geometry is not None:
        # (row, column, slice) to (slice, row, column), as medical files have it.
        write_volume(out / f"img{number}.nii.gz", mask.transpose(2, 0, 1), geometry)
    seconds, drawn = time.monotonic() - begin, 0
    if pictures:
        folder = out / "pictures" / tag / f"img{number}"
        masks = {"true": volumes.label(number), "pred": mask}
        drawn = write_slices(folder, image[..., 0], masks, prefix=f"img{number}", tag=tag)
    return (
        f"volume {number}: {int(mask.sum())} voxels, {path} ({seconds:.1f} s), {drawn} "
        f"pictures ({time.monotonic() - begin - seconds:.1f} s)"
    )


def find_geometry(volumes: Volumes, reference: Path | None) -> Geometry | None:
    """Return the geometry of the volumes in (x, y, z), or None where nobody noted it."""
    if reference is not None:
        shape, geometry = read_geometry(reference)
        rows, columns, slices = volumes.shape
        if shape != (slices, rows, columns):
            raise DataError(
                f"{reference} has {shape} slices, rows, columns; the volumes have "
                f"{(slices, rows, columns)}"
            )
        return geometry
    if volumes.spacing_mm is None:
        return None
    row, column, slice_ = volumes.spacing_mm
    return Geometry(spacing_mm=(column, row, slice_))


def write_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, error=WriteError) as file:
        np.save(file, array)
