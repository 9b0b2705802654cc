"""Write synthetic motion-corrupted stacks of a fetal head in the original's format."""

from pathlib import Path

from tqdm import tqdm

from common.data.phantoms import phantom_folder
from common.data.rng import rng_for
from common.data.volumes import write_volume
from common.errors import OptionError
from fetal_brain.config import PHANTOM_SHAPE
from fetal_brain.phantom_stack import SPACING_ZYX_MM, make_stack


def phantom(
    out: Path, cases: int = 10, seed: int = 0, shape: tuple[int, int, int] = PHANTOM_SHAPE
) -> None:
    """Write synthetic stacks with label files and the list that names them.

    The folder then holds imgs/ and seg/ with NIfTI files, phantom.csv, and phantom.json, which
    marks the data as synthetic. An earlier phantom in it is replaced.

    Args:
        out: folder to write; it must be new, empty or an earlier phantom.
        cases: number of stacks; the first ones do not depend on it.
        seed: of everything in them.
        shape: slices, rows, columns of each stack.
    """
    if not 1 <= cases <= 10_000:
        raise OptionError(f"--cases: found {cases}; expected 1 to 10000")
    if seed < 0:
        raise OptionError(f"--seed: found {seed}; expected 0 or more")
    if any(size < least for size, least in zip(shape, (3, 64, 64), strict=True)):
        raise OptionError(f"--shape: found {list(shape)}; expected at least [3, 64, 64]")
    facts = {"cases": cases, "shape": list(shape), "spacing_zyx_mm": list(SPACING_ZYX_MM)}
    with phantom_folder(out, generator="fetal_brain.phantom", seed=seed, facts=facts) as folder:
        rows = ["iFIND_id,image,segmentation"]
        for subfolder in ("imgs", "seg"):
            (folder / subfolder).mkdir()
        for index in tqdm(range(cases), desc="phantom", unit="case", disable=None):
            image, label = make_stack(tuple(shape), rng_for(seed, index))
            name = f"PHANTOM{index:04d}"
            write_volume(folder / f"imgs/{name}.nii.gz", image.array, image.geometry)
            write_volume(folder / f"seg/{name}.nii.gz", label, image.geometry)
            rows.append(f"{name},imgs/{name}.nii.gz,seg/{name}.nii.gz")
        (folder / "phantom.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    print(f"Synthetic cases: {Path(out) / 'phantom.csv'}")
