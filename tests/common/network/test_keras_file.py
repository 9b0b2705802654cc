"""What a .keras file may hold; what one of a run holds is in test_replay."""

import zipfile

import h5py
import pytest

from common.errors import RunError
from common.network.keras_file import WEIGHTS, read_arrays


def test_an_archive_that_promises_more_than_it_holds(tmp_path):
    """A megabyte of zeros takes a kilobyte; a hole in an HDF5 file takes nothing at all."""
    bomb, hole = tmp_path / "bomb.keras", tmp_path / "hole.keras"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(WEIGHTS, bytes(1_000_000))
    with h5py.File(tmp_path / "h5", "w") as file:
        file.create_dataset("a", (10**6, 10**6), "f4", chunks=(100, 100))
    with zipfile.ZipFile(hole, "w") as archive:
        archive.write(tmp_path / "h5", WEIGHTS)
    with pytest.raises(RunError, match="found 1000000 bytes of arrays; expected"):
        read_arrays(bomb)
    with pytest.raises(RunError, match="found arrays of 4000000000000 bytes; expected"):
        read_arrays(hole)


def test_arrays_in_other_files_are_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(b"mine")
    with h5py.File(tmp_path / "h5", "w") as file:
        file.create_dataset("a", (4,), "u1", external=[(str(tmp_path / "secret"), 0, 4)])
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.write(tmp_path / "h5", WEIGHTS)
    with pytest.raises(RunError, match="found arrays that lie in other files"):
        read_arrays(tmp_path / "a.keras")
