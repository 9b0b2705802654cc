"""Recorded activations against found ones, on layers worked out by hand."""

import numpy as np
import pytest

from common.errors import DataError
from common.study.microscope import (
    RecordedLayer,
    Recording,
    activations_table,
    check_drawn,
    compare_activations,
    draw_weights,
    first_divergence,
    load_recorded,
    load_recording,
)

VALUES = np.array([[[1.0, -4.0], [2.0, 0.5]]])
"""(1, 2, 2): means 1.5 and -1.75, deviations 0.5 and 2.25."""


def recording(tolerance=1e-3):
    samples = RecordedLayer(
        "first/Conv", "first", (1, 2, 2), np.array([1, 3]), np.array([-4.0, 0.5])
    )
    moments = RecordedLayer("second/Conv", "second", (1, 2, 2), mean=np.array([1.5, -1.75]),
                    deviation=np.array([0.5, 2.25]))  # fmt: skip
    return Recording("a test", tolerance, (samples, moments), {"weights": 3.0})


def verdicts(first, second):
    rows = compare_activations(recording(), {"first": first, "second": second})
    return [row["verdict"] for row in rows], first_divergence(rows)


def test_equal_layers():
    rows = compare_activations(recording(), {"first": VALUES, "second": VALUES})
    assert [row["difference"] for row in rows] == [0.0, 0.0]
    assert [row["numbers"] for row in rows] == [2, 4]
    assert [row["layer"] for row in rows] == ["first/Conv", "second/Conv"]
    assert first_divergence(rows) is None


def test_difference_is_held_to_the_scale_of_the_layer():
    """Scale 4: a difference of 0.002 is a share of 0.0005, one of 0.02 is 0.005."""
    near, far = VALUES.copy(), VALUES.copy()
    near[0, 0, 1] += 0.002
    far[0, 0, 1] += 0.02
    assert verdicts(near, VALUES) == (["equal", "equal"], None)
    assert verdicts(far, VALUES) == (["DIFFERS", "equal"], "first/Conv")
    rows = compare_activations(recording(), {"first": far, "second": VALUES})
    assert rows[0]["of scale"] == pytest.approx(0.005)


def test_moments_see_what_samples_do_not():
    moved = VALUES + np.array([0.0, 0.1])
    assert verdicts(VALUES, moved) == (["equal", "DIFFERS"], "second/Conv")


def test_another_shape_or_nan_differs():
    assert verdicts(VALUES[:, :1], VALUES)[1] == "first/Conv"
    broken = VALUES.copy()
    broken[0, 0, 1] = np.nan
    assert verdicts(broken, VALUES)[1] == "first/Conv"


def test_the_outcome_in_words_and_as_a_picture():
    found = {"first": VALUES, "second": VALUES + 1}
    table = activations_table(recording(), found, paper="paper")
    assert table.text.startswith("FIRST DIVERGENCE: second/Conv. Tolerance 1e-03")
    assert table.figures[0].png.startswith(b"\x89PNG")
    fine = activations_table(recording(), {"first": VALUES, "second": VALUES}, paper="paper")
    assert fine.text.startswith("No divergence in 2 layers")


def test_absent_recordings_are_said():
    assert load_recorded("common") is None
    assert load_recording("common", "network") is None
    table = activations_table(None, None, paper="raseg")
    assert list(table.rows) == []
    assert table.text.startswith("Not compared: this installation has no raseg/recorded.json")


def test_weights_are_drawn_by_sorted_names():
    """The order of the names given does not matter; what is not drawn takes no random number."""
    random = np.random.RandomState(5)
    expected = {"a": random.standard_normal(2), "c": random.standard_normal(3)}

    def draw(generator, name, shape):
        return None if name == "b" else generator.standard_normal(shape)

    drawn = draw_weights({"c": (3,), "b": (4,), "a": (2,)}, 5, draw)
    assert sorted(drawn) == ["a", "c"]
    for name, array in expected.items():
        np.testing.assert_array_equal(drawn[name], array.astype(np.float32))


def test_other_weights_are_refused():
    check_drawn(recording(), {"weights": 3.0 + 1e-8, "input": 1.0})
    with pytest.raises(DataError, match="the recorded weights could not be drawn again"):
        check_drawn(recording(), {"weights": 3.1})
