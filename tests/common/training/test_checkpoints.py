"""One file holds every variable as it was."""

import keras
import numpy as np
import pytest

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
