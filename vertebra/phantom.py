"""Write synthetic CT scans of spines in CSI's file format."""

from pathlib import Path

from tqdm import tqdm

from common.data.phantoms import phantom_folder
from common.data.rng import rng_for
from common.data.volumes import write_volume
from common.errors import OptionError
from vertebra.config import PHANTOM_SHAPE
from vertebra.phantom_spine import make_scan


def phantom(
    out: Path,
    cases: int = 10,
    seed: int = 0,
    shape: tuple[int, int, int] = PHANTOM_SHAPE,
    spacing_mm: tuple[float, float, float] = (2.0, 1.4, 1.4),
) -> None:
    """Write synthetic CT scans of spines with labels, in CSI's file format.

    The folder then holds case<id>.mhd and case<id>_label.mhd with their data files, and
    phantom.json, which marks the data as synthetic. An earlier phantom in it is replaced.

    Args:
        out: folder to write; it must be new, empty or an earlier phantom.
        cases: number of scans; the first ones do not depend on it.
        seed: of everything in them.
        shape: slices, rows, columns of each scan.
        spacing_mm: between slices, rows, columns.
    """
    if not 1 <= cases <= 10_000:
        raise OptionError(f"--cases: found {cases}; expected 1 to 10000")
    if seed < 0:
        raise OptionError(f"--seed: found {seed}; expected 0 or more")
    if not all(0.2 <= step <= 10 for step in spacing_mm):
        raise OptionError(f"--spacing_mm: found {list(spacing_mm)}; expected 0.2 to 10 mm")
    extent = [size * step for size, step in zip(shape, spacing_mm, strict=True)]
    if any(length < least for length, least in zip(extent, (80, 120, 100), strict=True)):
        raise OptionError(f"--shape: found {extent} mm; expected at least [80, 120, 100]")
    facts = {"cases": cases, "shape": list(shape), "spacing_zyx_mm": list(spacing_mm)}
    with phantom_folder(out, generator="vertebra.phantom", seed=seed, facts=facts) as folder:
        for index in tqdm(range(cases), desc="phantom", unit="case"):
            image, labels = make_scan(tuple(shape), tuple(spacing_mm), rng_for(seed, index))
            write_volume(folder / f"case{index + 1}.mhd", image.array, image.geometry)
            write_volume(folder / f"case{index + 1}_label.mhd", labels.array, labels.geometry)
    print(f"Synthetic cases: {out}")
