"""Arrays in .npy files: what cannot be read is one line, what is made has its space."""

import os
import struct

import numpy as np
import pytest

from common.data.arrays import create_array, open_array
from common.errors import DataError


def npy(header, data=b""):
    header = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


FIELDS = "{'descr': '<i2', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        npy("{'descr': '<i2', 'shape': (2,"),  # which numpy's parser calls a TokenError
        npy("\0\x07("),
        npy("[]"),
        npy(FIELDS % "(4,)", b"1234"),
        npy(FIELDS % "(10**9, 10**9)"),
        npy(FIELDS % "(-4,)", b"12345678"),
        npy(FIELDS.replace("<i2", "|O") % "(4,)", b"12345678"),
        b"PK\x05\x06" + bytes(18),  # an archive of no arrays
    ],
)
def test_damaged_arrays_are_one_line(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(DataError) as refusal:
        open_array(path)
    assert str(refusal.value).startswith(f"{path} is no readable .npy array: ")
    assert "\n" not in str(refusal.value)


def test_a_new_array_has_all_of_its_space(tmp_path):
    """In a file with holes, a full disk ends the process at the first write to one of them."""
    array = create_array(tmp_path / "a.npy", (3, 100_000), np.int16)
    assert os.stat(tmp_path / "a.npy").st_blocks * 512 >= 600_000
    array[1, 5] = 7
    array.flush()
    expected = np.zeros((3, 100_000), np.int16)
    expected[1, 5] = 7
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    np.testing.assert_array_equal(open_array(tmp_path / "a.npy"), expected)
    assert not open_array(tmp_path / "a.npy").flags.writeable
