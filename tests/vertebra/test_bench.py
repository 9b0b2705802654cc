"""What the benchmark counts; nothing here depends on a clock."""

from dataclasses import replace

import numpy as np

from vertebra.bench import bench, multiply_adds, next_vertebra
from vertebra.config import CODE


def test_work_of_a_pass():
    """1.57e12 multiply-adds, as counted for the original; 27 of a single voxel by hand."""
    assert round(multiply_adds(CODE) / 1e12, 2) == 1.57
    one = replace(CODE, channels=1, patch_size=16)
    rest = sum((16 >> level) ** 3 for level in range(4)) * 2
    up = sum((16 >> level) ** 3 for level in range(3)) * 3
    assert multiply_adds(one) == 27 * (rest + up + 16**3 * (3 + 2))


def test_perfect_answer():
    labels = np.repeat([0, 100, 200], 8).reshape(3, 4, 2)
    nothing = np.zeros(labels.shape)
    np.testing.assert_array_equal(next_vertebra(labels, nothing, 5), labels == 200)
    np.testing.assert_array_equal(next_vertebra(labels, labels == 200, 5), labels == 100)
    assert not next_vertebra(labels, labels > 0, 5).any()


def test_benchmark_says_what_it_measured(capsys):
    bench(channels=2, patch_size=16, repeats=1, volume=(150, 140, 140))
    said = capsys.readouterr().out
    for words in ("ratio", "matmul rate", "bfloat16 against float32", "tf.nn.moments",
                  "without air", "windows through the network"):  # fmt: skip
        assert words in said
