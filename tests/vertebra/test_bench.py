"""What the benchmark counts; nothing here depends on a clock."""

from dataclasses import replace

import numpy as np

from common.cost.operations import count_multiply_adds
from vertebra.config import CODE
from vertebra.model import build_model
from vertebra.study.search import bench_search, next_vertebra


def test_work_of_a_pass():
    """1.57e12 multiply-adds, as counted for the original; those of a single channel by hand."""

    def count(config):
        shape = (1, *(config.patch_size,) * 3, 2)
        return sum(count_multiply_adds(build_model(config), [shape]).values())

    assert round(count(CODE) / 1e12, 2) == 1.57
    rest = sum((16 >> level) ** 3 for level in range(4)) * 2
    up = sum((16 >> level) ** 3 for level in range(3)) * 3
    dense = 1
    one = replace(CODE, channels=1, patch_size=16)
    assert count(one) == 27 * (rest + up + 16**3 * (3 + 2)) + dense


def test_perfect_answer():
    labels = np.repeat([0, 100, 200], 8).reshape(3, 4, 2)
    nothing = np.zeros(labels.shape)
    np.testing.assert_array_equal(next_vertebra(labels, nothing, 5), labels == 200)
    np.testing.assert_array_equal(next_vertebra(labels, labels == 200, 5), labels == 100)
    assert not next_vertebra(labels, labels > 0, 5).any()


def test_the_search_says_what_it_looked_at(capsys):
    bench_search((150, 140, 140))
    said = capsys.readouterr().out
    assert said.count("windows through the network of") == 2
    assert "without air" in said
