"""Reading .pth files safely, and assigning what is in them."""

import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest

from common.errors import DataError
from vertebra.config import CODE
from vertebra.model import build_model
from vertebra.original_weights import assign_original, read_original, variables_by_name
from vertebra.pth import MAGIC, PROTOCOL, read_pth

SMALL = replace(CODE, channels=4)


@pytest.mark.parametrize("name", ["small_legacy.pth", "small_zip.pth"])
def test_both_formats_bit_for_bit(golden_dir, recipe, name):
    """58 tensors with the names, types and bits that were written."""
    found, expected = read_original(golden_dir / "vertebra" / name), recipe.make_weights(4, 1021)
    assert set(found) == set(expected)
    assert len(found) == 58
    for key, array in expected.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array)


@pytest.mark.shared
def test_released_file(shared):
    """[V32] Tensors tagged for a GPU are read on any machine; 10 700 training passes."""
    found = read_original(shared / "data" / "vertebra" / "IterativeFCN_pretrained.pth")
    assert len(found) == 58
    assert found["conv_up.0.weight"].shape == (64, 128, 3, 3, 3)
    assert found["conv_initial.2.num_batches_tracked"] == 10_700
    assert found["conv_rest.5.num_batches_tracked"] == 74_900


def test_nothing_is_left_over(golden_dir):
    """On either side: 50 tensors for 50 variables, and 8 counters that the port has no use for."""
    model = build_model(SMALL)
    tensors = read_original(golden_dir / "vertebra" / "small_legacy.pth")
    left = assign_original(model, tensors)
    assert len(left) == 8
    assert all(name.endswith("num_batches_tracked") for name in left)
    targets = variables_by_name(model)
    assert set(targets) | set(left) == set(tensors)
    ours = {id(v) for v in model.weights if not v.name.startswith(("site_", "fixed"))}
    assert {id(v) for v, _ in targets.values()} == ours
    for name, (variable, transform) in targets.items():
        array = tensors[name] if transform is None else transform(tensors[name])
        np.testing.assert_array_equal(np.asarray(variable), array)


def test_weights_of_another_width_are_refused(golden_dir):
    """[V5] Trained with 4 channels, asked for with 8: one line, and nothing is assigned."""
    model = build_model(replace(CODE, channels=8))
    before = [np.array(v) for v in model.weights]
    tensors = read_original(golden_dir / "vertebra" / "small_zip.pth")
    with pytest.raises(DataError, match=r"another architecture.*expected"):
        assign_original(model, tensors, source="small_zip.pth")
    for old, variable in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, variable)


class Harmful:
    """Pickles as a call of os.system."""

    def __reduce__(self):
        return os.system, ("touch /tmp/vertebra-was-here",)


def write_legacy(path, value):
    """A file in the legacy format around any pickle."""
    with path.open("wb") as file:
        for part in (MAGIC, PROTOCOL, {"little_endian": True}, value, []):
            pickle.dump(part, file, protocol=2)


def write_zip(path, value):
    """A file in the zip format around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value, protocol=2))


@pytest.mark.parametrize("write", [write_legacy, write_zip])
def test_code_in_a_file_is_never_run(tmp_path, write):
    path = tmp_path / "weights.pth"
    write(path, OrderedDict(a=Harmful()))
    with pytest.raises(DataError, match=r"names \w+\.system"):
        read_pth(path)
    assert not os.path.exists("/tmp/vertebra-was-here")


@pytest.mark.parametrize("name", ["builtins.eval", "torch.nn.Module", "builtins.getattr"])
def test_unknown_names_are_refused(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(DataError, match=name):
        read_pth(path)


@pytest.mark.parametrize("name", ["small_legacy.pth", "small_zip.pth"])
@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.97])
def test_truncated_files(golden_dir, tmp_path, name, part):
    data = (golden_dir / "vertebra" / name).read_bytes()
    path = tmp_path / "weights.pth"
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(DataError, match=r"weights\.pth"):
        read_pth(path)


def test_tensors_that_reach_beyond_their_numbers(golden_dir, tmp_path):
    """A crafted size cannot read other memory."""
    data = (golden_dir / "vertebra" / "small_legacy.pth").read_bytes()
    # dense.bias has one number and stride 1; claim more of them
    old = b"K\x01\x85" + b"q"
    assert data.count(old) >= 1
    path = tmp_path / "weights.pth"
    path.write_bytes(data.replace(old, b"K\xff\x85q"))
    with pytest.raises(DataError):
        read_pth(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a pickle", struct.pack("<q", 5)])
def test_other_files(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_pth(path)


def test_absent_file_and_no_tensors(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_pth(tmp_path / "none.pth")
    write_zip(tmp_path / "plain.pth", {"a": 1})
    with pytest.raises(DataError, match="state dict"):
        read_original(tmp_path / "plain.pth")
    buffer = io.BytesIO()
    pickle.dump([1, 2], buffer)
    write_zip(tmp_path / "list.pth", [1, 2])
    with pytest.raises(DataError, match="list"):
        read_pth(tmp_path / "list.pth")
