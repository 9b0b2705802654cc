"""Five small runs with one real case on the disk each, and what `export` makes of them."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

PAPERS = ("dhcp_fetal", "fetal_brain", "raseg", "sarcoma", "vertebra")


@dataclass(frozen=True)
class Exported:
    """One exported model."""

    paper: str
    run: Path
    folder: Path
    """models/<paper>/1"""
    said: str
    """What the export printed."""


def fetal_brain_run(folder: Path):
    """A stack of five slices that is larger than the windows."""
    from common.data.geometry import Geometry
    from common.data.volumes import write_volume
    from fetal_brain.config import QUICK
    from fetal_brain.inference import build_for_any_plane

    config = replace(QUICK, filters=(4, 4, 8), kernels=(3, 3, 1), patch_shape=(3, 32, 32),
                     window=(3, 32, 32), window_stride=(1, 16, 16))  # fmt: skip
    rng = np.random.default_rng(0)
    scan = rng.integers(100, 900, (5, 44, 39)).astype(np.int16)
    write_volume(folder / "scan.nii.gz", scan, Geometry((1.25, 1.25, 3.5)))
    split = {"test": [{"id": "scan", "image_path": str(folder / "scan.nii.gz")}]}
    return config, build_for_any_plane(config), {}, split


def raseg_run(folder: Path):
    """The last of six phantoms, and the binaries that name their folder."""
    from common.cli import main
    from raseg.config import QUICK
    from raseg.inference import build_for_any_size

    config = replace(QUICK, filters=(2, 4), validation_volumes=0)
    data, bins = folder / "datasets", folder / "bins"
    for words in (
        ["phantom", "--out", data, "--cases", 6, "--shape", "32,32,6"],
        ["prepare", "--tag", "t", "--val", 1, "--preset", "quick", "--validation_volumes", 0,
         "--data", data, "--data_dir", bins],
    ):  # fmt: skip
        assert main("raseg", argv=[str(word) for word in words]) == 0
    split = {"test": [{"volume": 5}]}
    return config, build_for_any_size(config), {"tag": "t", "data_dir": bins}, split


def sarcoma_run(folder: Path):
    """A patient of the recorded file."""
    from sarcoma.config import QUICK
    from sarcoma.data import find_patients
    from sarcoma.inference import build_for_inference

    config = replace(QUICK, filters=(4, 4, 8), pad_small_slices=True)
    source = Path(__file__).parents[2] / "golden" / "sarcoma" / "synthetic_petct.h5"
    patient = find_patients(source, config)["STS_003"]
    entry = {"id": patient.id, "source": str(patient.source), "shape": list(patient.shape)}
    return config, build_for_inference(config), {}, {"test": [entry]}


def vertebra_run(folder: Path):
    """A scan of two windows, one above the other."""
    from common.data.rng import rng_for
    from common.data.volumes import write_volume
    from vertebra.config import QUICK
    from vertebra.inference import build_for_any_size
    from vertebra.phantom_spine import make_scan

    config = replace(QUICK, channels=2, inference_statistics="batch")
    image, _ = make_scan((48, 32, 32), (3.0, 3.0, 3.0), rng_for(0, 0))
    write_volume(folder / "case1.nrrd", image.array, image.geometry)
    split = {"test": [{"id": "case1", "image_path": str(folder / "case1.nrrd")}]}
    return config, build_for_any_size(config), {}, split


def dhcp_fetal_run(folder: Path):
    """A small head with its mask; a network with a residual connection."""
    import nibabel

    from dhcp_fetal.config import QUICK
    from dhcp_fetal.model import build_model

    config = replace(
        QUICK, filters=(4, 4, 6, 6), context_filters=((4, 4, 6, 6),),
        fc_filters=(8, 8), fc_kernels=((3, 3, 3), (1, 1, 1), (1, 1, 1)), fc_residual_layers=(2,),
        fc_padding=("mirror", "valid", "valid"), fc_dropout=(0.0, 0.2, 0.2),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    scan = rng.normal(300, 60, (40, 36, 33)).astype(np.float32)
    scan[10:30, 8:28, 8:25] += 200
    mask = np.zeros(scan.shape, np.uint8)
    mask[6:30, 8:28, 5:25] = 1
    for name, array in (("scan", scan), ("mask", mask)):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1.5, 1.5, 1.5, 1])),
                     folder / f"{name}.nii.gz")  # fmt: skip
    entry = {"id": "scan", "channels": [str(folder / "scan.nii.gz")], "labels": None,
             "mask": str(folder / "mask.nii.gz"), "weight_maps": []}  # fmt: skip
    return config, build_model(config), {}, {"test": [entry]}


def make_run(paper: str, folder: Path) -> Path:
    """Write a finished run whose network has something to say everywhere."""
    import keras

    from common.network.trained import save_network
    from common.runs.folder import open_run

    keras.utils.set_random_seed(3)
    config, network, options, split = globals()[f"{paper}_run"](folder)
    rng = np.random.default_rng(3)
    for variable in network.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.05, variable.shape))
    run = folder / "run"
    with open_run(run, paper=paper, options=options, config=config, seed=3) as record:
        record.write_split({"training": [], **split})
        if paper == "dhcp_fetal":  # its layers are its own, and `save_network` is for Keras' own
            network.save(record.path / "model.keras")
        else:
            save_network(network, record.path / "model.keras")
    return run


@pytest.fixture(scope="session")
def exported(made_once):
    """Return a function: name of a paper -> its exported model, made at the first call."""
    import io
    from contextlib import redirect_stdout

    from common.export.command import export as export_run

    def export(paper: str) -> Exported:
        def make(folder):
            run, said = make_run(paper, folder), io.StringIO()
            with redirect_stdout(said):
                export_run(paper, run, folder.parent / "models")
            (folder / "said.txt").write_text(said.getvalue())

        folder = made_once(f"exported/{paper}", make)
        model = folder.parent / "models" / paper / "1"
        return Exported(paper, folder / "run", model, (folder / "said.txt").read_text())

    return export
