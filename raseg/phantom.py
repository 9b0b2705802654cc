"""Write synthetic wrists in the original's format: two arrays of all volumes."""

from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from common.data.arrays import create_array
from common.data.phantoms import phantom_folder
from common.data.rng import rng_for
from common.errors import OptionError
from common.files import write_json
from raseg.config import PHANTOM_SHAPE
from raseg.data import GEOMETRY, PAIRS, PRE
from raseg.phantom_wrist import make_wrist, spacing_of


def phantom(
    out: Path,
    cases: int = 12,
    seed: int = 0,
    *,
    shape: tuple[int, int, int] = PHANTOM_SHAPE,
    task: Literal["synovitis", "bme"] = "synovitis",
) -> None:
    """Write synthetic wrists as the arrays that prepare reads.

    The folder then holds images_and_labels.npy and pre_images.npy (for --task bme
    t2imgs_and_prereg_labels.npy), geometry.json, and phantom.json, which marks the data as
    synthetic. An earlier phantom in it is replaced.

    Args:
        out: folder to write; it must be new, empty or an earlier phantom.
        cases: number of volumes; the first ones do not depend on it.
        seed: of everything in them.
        shape: rows, columns, slices of each volume; 512,512,20 is the original's.
        task: synovitis from two scans, or bone marrow oedema from one.
    """
    if not 1 <= cases <= 10_000:
        raise OptionError(f"--cases: found {cases}; expected 1 to 10000")
    if seed < 0:
        raise OptionError(f"--seed: found {seed}; expected 0 or more")
    if any(size < least for size, least in zip(shape, (32, 32, 6), strict=True)):
        raise OptionError(f"--shape: found {list(shape)}; expected at least [32, 32, 6]")
    spacing = spacing_of(shape)
    facts = {"cases": cases, "shape": list(shape), "spacing_mm": list(spacing), "task": task}
    with phantom_folder(out, generator="raseg.phantom", seed=seed, facts=facts) as folder:
        pairs = create_array(folder / PAIRS[task], (cases, 2, *shape), np.int16)
        pre = []
        if task == "synovitis":
            pre.append(create_array(folder / PRE, (cases, *shape), np.int16))
        for index in tqdm(range(cases), desc="phantom", unit="volume", disable=None):
            images, pairs[index, 1] = make_wrist(tuple(shape), rng_for(seed, index), task)
            for array, image in zip((pairs[:, 0], *pre), images, strict=True):
                array[index] = image
        for array in (pairs, *pre):
            array.flush()
        write_json(folder / GEOMETRY, {"spacing_mm": list(spacing)})
    print(f"Synthetic volumes: {Path(out) / PAIRS[task]}")
