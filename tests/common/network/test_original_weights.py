"""Reading real TensorFlow checkpoints and assigning by name, all or nothing."""

from pathlib import Path

import keras
import numpy as np
import pytest

from common.errors import DataError
from common.network.original_weights import assign_by_name, read_tf_checkpoint

TENSORS = {
    "conv/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "conv/bias": np.array([1.5, -2.5], np.float32),
    "conv/kernel/Momentum": np.full((2, 3), 0.25, np.float32),
    "global_step": np.array(7, np.int64),
}
STATE = 'model_checkpoint_path: "{0}"\nall_model_checkpoint_paths: "{0}"\n'


def write_checkpoint(prefix, tensors=TENSORS):
    """Write a checkpoint in TensorFlow's own format; the operation that TF 1 savers run."""
    import tensorflow as tf

    prefix.parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )
    return prefix


def assert_read(path):
    read = read_tf_checkpoint(path)
    assert sorted(read) == sorted(TENSORS)
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(read[name], value, strict=True)


@pytest.fixture
def checkpoint(tmp_path):
    return write_checkpoint(tmp_path / "trained" / "model.ckpt-7")


class TestRead:
    @pytest.mark.parametrize("ending", ["", ".index", ".data-00000-of-00001", ".meta"])
    def test_prefix_and_files(self, checkpoint, ending):
        assert_read(Path(f"{checkpoint}{ending}"))

    def test_folder_with_one_checkpoint(self, checkpoint):
        assert_read(checkpoint.parent)

    def test_folder_says_which_is_the_latest(self, checkpoint):
        write_checkpoint(checkpoint.with_name("model.ckpt-9"), {"other": np.zeros(1)})
        (checkpoint.parent / "checkpoint").write_text(STATE.format("model.ckpt-7"))
        assert_read(checkpoint.parent)

    def test_folder_that_was_moved(self, checkpoint):
        """An estimator given an absolute folder writes absolute names."""
        old_place = "/somewhere/else/trained/model.ckpt-7"
        (checkpoint.parent / "checkpoint").write_text(STATE.format(old_place))
        assert_read(checkpoint.parent)

    @pytest.mark.parametrize("part", ["", "saved_model.pb", "variables"])
    def test_saved_model(self, tmp_path, part):
        write_checkpoint(tmp_path / "1500" / "variables" / "variables")
        (tmp_path / "1500" / "saved_model.pb").write_bytes(b"")
        assert_read(tmp_path / "1500" / part)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(DataError, match=r"nowhere: no checkpoint.*nowhere\.index"):
            read_tf_checkpoint(tmp_path / "nowhere")

    def test_folder_without_a_checkpoint(self, tmp_path):
        with pytest.raises(DataError, match=r"expected a `checkpoint` file.*found none"):
            read_tf_checkpoint(tmp_path)

    def test_folder_with_several(self, checkpoint):
        write_checkpoint(checkpoint.with_name("model.ckpt-9"))
        with pytest.raises(DataError, match=r"found model\.ckpt-7, model\.ckpt-9"):
            read_tf_checkpoint(checkpoint.parent)

    def test_latest_is_gone(self, checkpoint):
        (checkpoint.parent / "checkpoint").write_text(STATE.format("model.ckpt-8"))
        with pytest.raises(DataError, match=r"names model\.ckpt-8, which is not there"):
            read_tf_checkpoint(checkpoint.parent)

    @pytest.mark.parametrize("text", [b"step seven {", b"\xff\xfe", b"\0" * 99])
    def test_checkpoint_file_of_another_kind(self, checkpoint, text):
        (checkpoint.parent / "checkpoint").write_bytes(text)
        with pytest.raises(DataError, match="expected a line"):
            read_tf_checkpoint(checkpoint.parent)

    @pytest.mark.parametrize("ending", [".index", ".data-00000-of-00001"])
    def test_truncated(self, checkpoint, ending):
        file = Path(f"{checkpoint}{ending}")
        file.write_bytes(file.read_bytes()[:-9])
        with pytest.raises(DataError, match=r"model\.ckpt-7.*truncated") as caught:
            read_tf_checkpoint(checkpoint)
        assert "\n" not in str(caught.value)

    def test_damaged(self, checkpoint):
        """The format carries checksums; a flipped bit is told, not loaded."""
        file = Path(f"{checkpoint}.data-00000-of-00001")
        content = bytearray(file.read_bytes())
        content[5] ^= 1
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"model\.ckpt-7"):
            read_tf_checkpoint(checkpoint)

    def test_values_are_gone(self, checkpoint):
        Path(f"{checkpoint}.data-00000-of-00001").unlink()
        with pytest.raises(DataError, match=r"model\.ckpt-7"):
            read_tf_checkpoint(checkpoint)

    def test_file_of_another_kind(self, tmp_path):
        file = tmp_path / "model.h5"
        file.write_bytes(b"\x89HDF\r\n" * 100)
        with pytest.raises(DataError, match=r"model\.h5: no readable TensorFlow checkpoint"):
            read_tf_checkpoint(file)


class TestAssign:
    @pytest.fixture
    def targets(self):
        """A kernel that the port keeps transposed, and a bias."""
        kernel = keras.Variable(np.zeros((3, 2)), dtype="float32")
        bias = keras.Variable(np.zeros(2), dtype="float32")
        return {"conv/kernel": (kernel, np.transpose), "conv/bias": (bias, None)}

    def test_all_fit(self, targets):
        left = assign_by_name(TENSORS, targets, ignored=("*/Momentum", "global_step"))
        assert left == ["conv/kernel/Momentum", "global_step"]
        np.testing.assert_array_equal(targets["conv/kernel"][0], TENSORS["conv/kernel"].T)
        np.testing.assert_array_equal(targets["conv/bias"][0], TENSORS["conv/bias"])

    def test_predicate(self, targets):
        left = assign_by_name(TENSORS, targets, ignored=[lambda name: name not in targets])
        assert left == ["conv/kernel/Momentum", "global_step"]

    def assert_refused(self, tensors, targets, match, ignored=("*/Momentum", "global_step")):
        with pytest.raises(DataError, match=match) as caught:
            assign_by_name(tensors, targets, ignored=ignored, source="model.ckpt-7")
        assert str(caught.value).startswith("model.ckpt-7 is of another architecture: ")
        for variable, _ in targets.values():
            np.testing.assert_array_equal(variable, np.zeros(variable.shape))

    def test_left_over(self, targets):
        self.assert_refused(
            TENSORS, targets, r"left over in the file: conv/kernel/Momentum$", ["global_step"]
        )

    def test_many_left_over_are_counted(self, targets):
        many = {f"extra_{index}": np.zeros(1) for index in range(5)}
        expected = r"left over in the file: extra_0, extra_1, extra_2 and 2 more$"
        self.assert_refused(TENSORS | many, targets, expected)

    def test_missing(self, targets):
        tensors = {name: value for name, value in TENSORS.items() if name != "conv/bias"}
        self.assert_refused(tensors, targets, r"conv/bias of shape \(2,\) is missing$")

    def test_other_shape(self, targets):
        tensors = TENSORS | {"conv/kernel": np.zeros((2, 4)), "conv/bias": np.zeros(3)}
        expected = r"conv/kernel has shape \(4, 2\), expected \(3, 2\) \(and 1 more\)$"
        self.assert_refused(tensors, targets, expected)

    def test_shape_that_the_transform_cannot_take(self, targets):
        targets["conv/kernel"] = targets["conv/kernel"][0], lambda value: value.transpose(1, 0)
        tensors = TENSORS | {"conv/kernel": np.zeros(6)}
        expected = r"conv/kernel has shape \(6,\), which cannot become \(3, 2\)$"
        self.assert_refused(tensors, targets, expected)

    def test_text_instead_of_numbers(self, targets):
        tensors = TENSORS | {"conv/bias": np.array([b"a", b"b"])}
        self.assert_refused(tensors, targets, "conv/bias holds .*, expected numbers")


def test_a_path_that_is_taken_for_a_pattern_is_refused(tmp_path):
    prefix = write_checkpoint(tmp_path / "model")
    folder = tmp_path / "ck [1]"
    folder.mkdir()
    for path in tmp_path.glob("model*"):
        path.rename(folder / path.name)
    with pytest.raises(DataError, match=r"ck \[1\]/model has a '\[', by which TensorFlow finds no"):
        read_tf_checkpoint(folder / prefix.name)
