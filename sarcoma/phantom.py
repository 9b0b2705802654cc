"""Write a synthetic PET/CT file with the true groups, patients, shapes and windows."""

from pathlib import Path

import h5py
from tqdm import tqdm

from common.data.phantoms import phantom_folder
from common.data.rng import rng_for
from common.errors import OptionError
from sarcoma.config import DATA
from sarcoma.phantom_body import SLICES, make_patient


def phantom(out: Path, seed: int = 0, plane: int = 100) -> None:
    """Write a synthetic PET/CT file with the original's groups, patients, shapes and windows.

    Bodies with organs that take up tracer, as brain, heart, kidneys and bladder do, and one avid
    lesion each, in exactly the slices of the patient's window. phantom.json beside it marks the
    data as synthetic. An earlier phantom in the folder is replaced.

    Args:
        out: folder to write; it must be new, empty or an earlier phantom.
        seed: of everything in it.
        plane: rows and columns of a slice; the true ones have 100.
    """
    if seed < 0:
        raise OptionError(f"--seed: found {seed}; expected 0 or more")
    if not 64 <= plane <= 512:
        raise OptionError(f"--plane: found {plane}; expected 64 to 512")
    facts = {"patients": list(SLICES), "plane": plane, "spacing_mm": 5.0}
    with phantom_folder(out, generator="sarcoma.phantom", seed=seed, facts=facts) as folder:
        with h5py.File(folder / DATA.name, "w") as file:
            for index, patient in enumerate(tqdm(SLICES, desc="phantom", unit="patient")):
                for group, volume in make_patient(patient, plane, rng_for(seed, index)).items():
                    file.create_dataset(
                        f"{group}/{patient}", data=volume, compression="gzip", compression_opts=1
                    )
    print(f"Synthetic patients: {Path(out) / DATA.name}")
