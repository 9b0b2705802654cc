"""Public atlases become tables: ages in order, every third one at the end."""

import numpy as np
import pytest

from common.data.geometry import Geometry
from common.data.volumes import write_volume
from common.errors import DataError
from dhcp_fetal.config import PORT
from dhcp_fetal.data import find_cases
from dhcp_fetal.prepare import prepare


def make(folder, *names):
    for name in names:
        (folder / f"fetal_SB_atlas_{name}").mkdir(parents=True)
        for file in ("srr", "mask", "parcellation"):
            path = folder / f"fetal_SB_atlas_{name}" / f"{file}.nii.gz"
            write_volume(path, np.ones((2, 3, 4), np.uint8), Geometry((0.8, 0.8, 0.8)))


def test_tables_of_brain_cortex_and_age(tmp_path, capsys):
    make(tmp_path / "atlas", "GA23_operated", "GA21_not", "GA22_not", "GA24_operated", "GA25_x")
    out = tmp_path / "tables"
    prepare(tmp_path / "atlas", out, config=PORT, layout="atlas")
    assert "5 ages, the last 2 of the tables" in capsys.readouterr().out
    cases = find_cases(out / "cortex.csv")
    assert [case.name for case in cases] == ["GA21_not", "GA23_operated", "GA24_operated",
                                             "GA22_not", "GA25_x"]  # fmt: skip
    files = [cases[0].channels[0].name, cases[0].labels.name, cases[0].mask.name]
    assert files == ["srr.nii.gz", "parcellation.nii.gz", "mask.nii.gz"]
    brain = find_cases(out / "brain.csv")
    assert (brain[3].labels.name, brain[3].mask) == ("mask.nii.gz", None)
    ages = (out / "ages.csv").read_text().splitlines()
    assert ages[:2] == ["id,gestational_age_weeks", "GA21_not,21"]


def test_what_is_no_atlas_is_refused(tmp_path):
    with pytest.raises(DataError, match="found no folders"):
        prepare(tmp_path, tmp_path / "tables", config=PORT, layout="atlas")
    make(tmp_path / "atlas", "GA23_operated")
    (tmp_path / "atlas" / "fetal_SB_atlas_GA23_operated" / "mask.nii.gz").unlink()
    with pytest.raises(DataError, match=r"mask\.nii\.gz does not exist; expected srr\.nii\.gz"):
        prepare(tmp_path / "atlas", tmp_path / "tables", config=PORT, layout="atlas")
    assert not (tmp_path / "tables").exists()
