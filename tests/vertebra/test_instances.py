"""Matching of instances and the released measure, recorded and by hand."""

import numpy as np
import pytest

from vertebra.instances import match_instances, released_dice


@pytest.mark.parametrize("pair", [0, 1])
def test_released_measure(golden, pair):
    """[V20] Its numbers for both recorded pairs; the background is averaged in as 0."""
    recorded = golden("evaluate")
    found = released_dice(recorded[f"pred{pair}"], recorded[f"label{pair}"])
    assert list(found) == recorded[f"labels{pair}"].tolist()
    np.testing.assert_allclose(list(found.values()), recorded[f"per_label{pair}"], rtol=1e-6)


def test_released_average(golden):
    recorded = golden("evaluate")
    values = [value for pair in (0, 1)
              for value in released_dice(recorded[f"pred{pair}"],
                                         recorded[f"label{pair}"]).values()]  # fmt: skip
    assert len(values) == recorded["reported_n"]
    np.testing.assert_allclose(np.mean(values), recorded["reported_average"], rtol=1e-6)


@pytest.mark.parametrize("pair", [0, 1])
def test_right_measures(golden, pair):
    """The best Dice of each vertebra, and that of all of them together."""
    recorded = golden("evaluate")
    prediction, reference = recorded[f"pred{pair}"], recorded[f"label{pair}"]
    matching = match_instances(prediction, reference)
    np.testing.assert_allclose(
        matching.dice.max(axis=1), recorded[f"true_best_match_dice{pair}"], rtol=1e-6
    )
    both = np.count_nonzero((prediction > 0) & (reference > 0))
    whole = 2 * both / (np.count_nonzero(prediction) + np.count_nonzero(reference))
    np.testing.assert_allclose(whole, recorded[f"true_foreground_dice{pair}"], rtol=1e-6)


def test_perfect_result_of_17_vertebrae():
    """17/18 for the released measure, whatever the vertebrae are called."""
    reference = np.repeat(np.arange(18), 4).reshape(18, 2, 2)
    prediction = np.where(reference > 0, 100 * (18 - reference), 0)
    assert np.mean(list(released_dice(prediction, reference).values())) == pytest.approx(17 / 18)
    matching = match_instances(prediction, reference)
    assert (matching.precision, matching.recall, matching.f1) == (1, 1, 1)
    assert dict(matching.pairs)[1] == 1700


def test_one_find_over_two_vertebrae():
    """Matched with one of them; its IoU is exactly one half for equal sizes, which counts."""
    reference = np.array([0, 1, 1, 2, 2, 0, 3, 3])
    prediction = np.array([0, 7, 7, 7, 7, 9, 0, 0])
    matching = match_instances(prediction, reference)
    assert matching.found == 1
    assert matching.precision == pytest.approx(1 / 2)
    assert matching.recall == pytest.approx(1 / 3)
    assert matching.f1 == pytest.approx(2 / 5)
    assert len(matching.pairs) == 1
    # The released measure finds nothing wrong with either.
    assert released_dice(prediction, reference)[1] == released_dice(prediction, reference)[2] == 1


def test_nothing_found_and_nothing_there():
    nothing, one = np.zeros(4, int), np.ones(4, int)
    assert match_instances(nothing, one).recall == 0
    assert np.isnan(match_instances(nothing, one).precision)
    assert match_instances(one, nothing).precision == 0
    assert np.isnan(match_instances(nothing, nothing).f1)
