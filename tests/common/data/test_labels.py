"""Labels and masks of every stored type, voxel by voxel."""

import numpy as np
import pytest

from common.data.labels import check_classes, inside, integer_labels, join_labels
from common.errors import DataError, OptionError

TYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"]


def refusal(call, *arguments, error=DataError, **options):
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("dtype", TYPES)
def test_integers_of_every_type(dtype):
    labels = np.array([[0, 1], [2, 100]], dtype)
    found = integer_labels(labels, "a.nii")
    np.testing.assert_array_equal(found, [[0, 1], [2, 100]])
    assert found.dtype == (np.int32 if labels.dtype.kind == "f" else dtype)


def test_nearly_integers_are_rounded():
    """0.99999988 was taken by one paper and refused by another; 1e-12 was a lesion."""
    labels = np.array([1e-12, -1e-12, 0.99999988, 1.0009, 2.9991, -0.0])
    np.testing.assert_array_equal(integer_labels(labels, "a.nii", least=0), [0, 0, 1, 1, 3, 0])
    np.testing.assert_array_equal(integer_labels(np.array([True, False]), "a.nii"), [1, 0])


@pytest.mark.parametrize("value", [0.5, 1.0011, np.nan, np.inf, -np.inf])
def test_what_is_no_integer_is_refused(value):
    message = refusal(integer_labels, np.array([0.0, value]), "a.nii")
    assert message == f"a.nii: found the label value {value}; expected integer ids"


@pytest.mark.parametrize(
    ("value", "limits", "expected"),
    [
        (-1, {"least": 0}, "found the label -1; expected labels from 0"),
        (1000, {"least": 0, "most": 255}, "found the label 1000; expected 0 to 255"),
        (2, {"least": 0, "most": 1}, "found the label 2; expected 0 and 1"),
        (2**31, {}, "found the label 2147483648; expected integer ids of 32 bits"),
        (1e20, {}, "found the label 100000000000000000000; expected integer ids of 32 bits"),
    ],
)
def test_the_label_out_of_range_is_named(value, limits, expected):
    """For 1000 the smallest label, 0.0, was named."""
    assert expected in refusal(integer_labels, np.array([0, value]), "a.nii", **limits)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1, "bool"), (1, "uint8"), (65535, "uint16"), (40000, "uint16"), (32768, "int32"),
        (2**40, "int64"), (-1, "int8"), (0.5, "float32"), (1e-6, "float64"), (1e30, "float32"),
        (0.99999997, "float64"),
    ],
)  # fmt: skip
def test_what_is_not_zero_is_inside(value, dtype):
    mask = np.zeros((2, 3, 4), dtype)
    mask[1, 1:, 2] = value
    expected = np.zeros((2, 3, 4), bool)
    expected[1, 1:, 2] = True
    np.testing.assert_array_equal(inside(mask, "roi.nii"), expected)


def test_traces_of_resampling_are_outside():
    mask = np.array([0.0, 1e-12, -3e-5, 1e-3, 0.2, 1.0])
    np.testing.assert_array_equal(inside(mask, "roi.nii"), [0, 0, 0, 0, 1, 1])
    assert not inside(np.zeros(3), "roi.nii").any()
    assert "roi.nii: found NaN" in refusal(inside, np.array([np.nan, 1.0]), "roi.nii")


def test_classes_of_joined_labels():
    found = join_labels(np.array([0, 1, 2, 3, 9, 10]), (0, (1, 3), 10))
    assert found.dtype == np.uint8
    assert found.tolist() == [0, 1, 0, 1, 0, 2]
    assert "no id twice" in refusal(
        join_labels, np.zeros(3, int), (0, 1, (2, 1)), error=OptionError
    )


def test_a_class_too_many_names_the_option():
    check_classes(np.array([0, 1]), "a.nii", 2)
    message = refusal(check_classes, np.array([0, 8]), "a.nii", 2)
    assert message == "a.nii: found the class 8, expected 0 to 1 (--classes 2)"
