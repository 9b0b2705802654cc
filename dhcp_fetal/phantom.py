"""Write synthetic fetal heads with brain masks and cortices, and the tables that name them."""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.data.phantoms import phantom_folder
from common.data.rng import rng_for
from common.errors import OptionError
from dhcp_fetal.config import PHANTOM_SHAPE

SHORTEST = 24


def phantom(
    out: Path,
    cases: int = 11,
    seed: int = 0,
    *,
    shape: tuple[int, int, int] = PHANTOM_SHAPE,
    spacing_mm: float = 1.25,
) -> None:
    """Write synthetic fetal heads with brain masks and cortices, and the tables that name them.

    The folder then holds t2w/, brain/ and cortex/ with NIfTI files; brain.csv for the first
    network, cortex.csv for the second, whose region of interest is the brain; ages.csv; and
    phantom.json, which marks the data as synthetic. An earlier phantom in it is replaced.

    Args:
        out: folder to write; it must be new, empty or an earlier phantom.
        cases: number of heads; the first ones do not depend on it. Ages are spread over 21 to 38
            weeks.
        seed: of everything in them.
        shape: voxels (x, y, z).
        spacing_mm: edge of a voxel; the default field of view holds a head of 38 weeks.
    """
    from dhcp_fetal.phantom_head import OLDEST_WEEKS, YOUNGEST_WEEKS, make_head, write_head

    if not 1 <= cases <= 10_000:
        raise OptionError(f"--cases: found {cases}; expected 1 to 10000")
    if seed < 0:
        raise OptionError(f"--seed: found {seed}; expected 0 or more")
    if min(shape) < SHORTEST or not 0.2 <= spacing_mm <= 5:
        raise OptionError(
            f"--shape {list(shape)}, --spacing_mm {spacing_mm}: expected {SHORTEST} voxels or more "
            "of 0.2 to 5 mm"
        )
    affine = np.diag([-spacing_mm, -spacing_mm, spacing_mm, 1.0])
    facts = {"cases": cases, "shape": list(shape), "spacing_mm": spacing_mm}
    tables = {
        "brain": ["channel_t2w,ground_truth,prediction_filename"],
        "cortex": ["channel_t2w,ground_truth,roi_mask,prediction_filename"],
        "ages": ["name,age_weeks"],
    }
    with phantom_folder(out, generator="dhcp_fetal.phantom", seed=seed, facts=facts) as folder:
        for subfolder in ("t2w", "brain", "cortex"):
            (folder / subfolder).mkdir()
        for index in tqdm(range(cases), desc="phantom", unit="case"):
            rng = rng_for(seed, index)
            # The golden section spreads any number of ages evenly.
            part = (0.5 + index * 0.6180339887) % 1.0
            age = YOUNGEST_WEEKS + part * (OLDEST_WEEKS - YOUNGEST_WEEKS)
            head = make_head(rng, age_weeks=age, shape=tuple(shape), spacing_mm=spacing_mm)
            name = f"PHANTOM{index:04d}"
            write_head(folder, name, head, affine)
            file = f"{name}.nii.gz"
            tables["brain"].append(f"t2w/{file},brain/{file},{name}")
            tables["cortex"].append(f"t2w/{file},cortex/{file},brain/{file},{name}")
            tables["ages"].append(f"{name},{age:.1f}")
        for name, rows in tables.items():
            (folder / f"{name}.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"Synthetic cases: {Path(out) / 'brain.csv'} and {Path(out) / 'cortex.csv'}")
