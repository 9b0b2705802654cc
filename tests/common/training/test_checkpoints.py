"""One file holds every variable as it was."""

import keras
import numpy as np
import pytest

from common.errors import RunError
from common.training.checkpoints import read_checkpoint, write_checkpoint


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint32", "int64", "bool"])
def test_checkpoints_keep_every_dtype(tmp_path, dtype):
    values = np.array([[0, 1, 2.5]]).astype(np.float32)
    variable = keras.Variable(values, dtype=dtype, trainable=False)
    before = np.asarray(variable).tobytes()
    write_checkpoint(tmp_path / "c.npz", {"model": [variable]}, {"step": 3})
    variable.assign(keras.ops.zeros_like(variable))
    stored = read_checkpoint(tmp_path / "c.npz")
    stored.assign({"model": [variable]})
    assert np.asarray(variable).tobytes() == before
    assert stored.position == {"step": 3}
    assert read_checkpoint(tmp_path / "absent.npz") is None


def archive(path, header, packed=False, **arrays):
    save = np.savez_compressed if packed else np.savez
    with open(path, "wb") as file:
        save(file, header=np.array(header), **arrays)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("{", "Expecting property name enclosed in double quotes"),
        ("[]", "list indices must be integers or slices, not str"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
        ('{"position": {}, "groups": {"model": 2}}', "model/00001 is not a file in the archive"),
        ('{"position": {}, "groups": {"model": "x"}}', "object cannot be interpreted as an int"),
        ('{"position": 7, "groups": {}}', "'int' object is not iterable"),
    ],
)
def test_damaged_headers_are_one_line(tmp_path, header, found):
    path = tmp_path / "last.npz"
    archive(path, header, **{"model/00000": np.zeros(3)})
    with pytest.raises(RunError) as refusal:
        read_checkpoint(path)
    assert str(refusal.value).startswith(f"checkpoint {path} is damaged (")
    assert found in str(refusal.value)
    assert str(refusal.value).endswith("); remove it to begin the run again")


def test_packed_arrays_which_could_be_of_any_size_are_not_read(tmp_path):
    path = tmp_path / "last.npz"
    archive(path, '{"position": {}, "groups": {"model": 1}}', packed=True,
            **{"model/00000": np.zeros(10**6)})  # fmt: skip
    with pytest.raises(RunError, match=r"is damaged \(its arrays are compressed\)"):
        read_checkpoint(path)
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(RunError, match=r"last\.npz is damaged \("):
        read_checkpoint(path)
