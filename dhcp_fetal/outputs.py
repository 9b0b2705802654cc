"""The files of a segmented case: names and headers as the engine's, or our own short ones."""

from pathlib import Path

import numpy as np

from dhcp_fetal.config import Config
from dhcp_fetal.images import Image, write_image
from dhcp_fetal.session import Saved
from dhcp_fetal.tiles import Prediction


def result_paths(
    out: Path, name: str, config: Config, *, saved: Saved | None
) -> tuple[Path | None, dict[int, Path]]:
    """Return where label map and probability maps of a case go.

    Args:
        out: folder.
        name: of the case.
        config: uses `classes`.
        saved: the original's names: <name>_Segm, <name>_ProbMapClass<c>; None: <name> alone and no
            probabilities.
    """
    if saved is None:
        return out / f"{name}.nii.gz", {}
    ending = f"_{saved.label_suffix}" if saved.label_suffix else ""
    wanted = saved.probabilities or (True,) * config.classes
    maps = {
        c: out / f"{name}_{saved.probability_suffix}{c}.nii.gz"
        for c in range(config.classes)
        if c < len(wanted) and wanted[c]
    }
    return (out / f"{name}{ending}.nii.gz" if saved.labels else None), maps


def paths_written(out: Path, name: str, config: Config, *, saved: Saved | None) -> list[Path]:
    """Return the files of a case in the order in which they are written; see `result_paths`."""
    labels, maps = result_paths(out, name, config, saved=saved)
    return [*([labels] if labels else []), *maps.values()]


def write_results(
    out: Path, name: str, found: Prediction, scan: Image, config: Config, *, saved: Saved | None
) -> list[Path]:
    """Write the results of a case in the scan's own geometry; return the files.

    Raises:
        DataError: the folder cannot be written.
    """
    label_path, maps = result_paths(out, name, config, saved=saved)
    out.mkdir(parents=True, exist_ok=True)
    if label_path is not None:
        write_image(label_path, found.labels.astype(np.int16), scan, copy_header=config.copy_header)
    for class_, path in maps.items():
        write_image(path, found.probabilities[..., class_], scan, copy_header=config.copy_header)
    return paths_written(out, name, config, saved=saved)
