"""What the switches of the vertebra code do to phantoms; the network is nobody's."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from common.errors import DataError
from common.study.effects import measure_effects
from vertebra.calibration import calibrate_sites
from vertebra.config import CODE, QUICK
from vertebra.effects import BASE, EffectBench
from vertebra.inference import build_for_any_size
from vertebra.study.oracle import Oracle, run_search

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    keras.utils.set_random_seed(0)
    config = replace(BASE, channels=4)
    network = build_for_any_size(config)
    calibrate_sites(network, [np.random.default_rng(0).normal(800, 300, (32, 32, 32, 2))
                              .astype(np.float32)])  # fmt: skip
    bench = EffectBench((network, config))
    assert bench.given is not None
    return {(row["switch"], row["stage"]): row
            for row in measure_effects(bench.probes(), base=bench.base, code=CODE)}  # fmt: skip


def number_in(words, before):
    """The number that stands before a word."""
    return float(words.partition(before)[0].split()[-1].rstrip("%"))


def test_preparation(rows):
    """[V21] [V24] [V34]"""
    assert rows["outside", "preparation"]["code"].startswith("last plane 0 HU")
    assert rows["intensity", "preparation"]["code"].startswith("values -1024 to")
    assert rows["intensity", "preparation"]["port"].startswith("values 0 to")
    assert rows["keep_geometry", "preparation"]["code"] == "origin 0, 0, 0 mm, voxels of 1 mm"
    assert rows["split_by_id", "split"]["code"] == "7 train, 3 test"


def test_patches(rows):
    """[V7] [V9] [V27]"""
    assert rows["window_limits", "patches"]["port"].startswith("0% of the patches miss")
    assert number_in(rows["window_limits", "patches"]["code"], " of the patches") > 5
    assert number_in(rows["elastic_alpha", "patches"]["port"], " (dev") == pytest.approx(
        2.1, abs=0.2
    )
    assert number_in(rows["elastic_alpha", "patches"]["code"], " (dev") == pytest.approx(
        0.14, abs=0.02
    )
    assert float(rows["integer_blur", "patches"]["code"].split()[-1]) == pytest.approx(
        -1.5, abs=0.1
    )
    assert abs(float(rows["integer_blur", "patches"]["port"].split()[-1])) < 0.02


def test_fresh_network(rows):
    """[V38] The memory hardly counts in the code; a mask begins with few voxels in the port."""
    moved = [float(rows["memory_gain", "fresh network"][side].split()[-1])
             for side in ("port", "code")]  # fmt: skip
    assert moved[0] > 10 * moved[1]
    share = [number_in(rows["sparse_begin", "fresh network"][side], " of a patch")
             for side in ("port", "code")]  # fmt: skip
    assert share[0] < share[1]


def test_schedule(rows):
    """[V2] [V18] [V33]"""
    assert rows["learning_rate_steps", "schedule"]["port"].endswith("at a rate of 1e-05")
    assert rows["learning_rate_steps", "schedule"]["code"].endswith("at a rate of 1e-03")
    assert rows["max_steps", "schedule"]["code"].startswith("20 steps")
    assert "100% of the statistics" in rows["fix_statistics_after", "schedule"]["port"]
    assert rows["steps_per_evaluation", "validation"]["code"].startswith("12500 looks")


def test_searches_with_a_network_that_knows_the_truth(rows):
    """[V10] [V11] [V17] The port finds all; the released search does not end well."""
    row = rows["traversal", "search"]
    assert row["port"].startswith("8 of 8 vertebrae, 8 finds")
    assert "broke down" in row["code"] or not row["code"].startswith("8 of 8")
    assert rows["remove_incomplete", "search"]["port"].startswith("6 of 7 vertebrae, 6 finds")
    assert rows["remove_incomplete", "search"]["code"].startswith("7 of 7 vertebrae, 7 finds")


def test_oracle_by_hand():
    """Two cubes: the upper one first, then the lower one, then nothing."""
    labels = np.zeros((32, 32, 32), np.int16)
    labels[2:10, 4:12, 4:12], labels[20:28, 4:12, 4:12] = 100, 200
    config = replace(QUICK, min_vol=50)
    oracle, memory = Oracle(labels, config), np.zeros(labels.shape, np.float32)
    for label in (200, 100):
        mask, completeness = oracle(labels, memory)
        np.testing.assert_array_equal(mask > 0.5, labels == label)
        assert completeness == 1
        memory[labels == label] = 1
    assert not (oracle(labels, memory)[0] > 0.5).any()
    assert (Oracle(labels, config, islands=True)(labels, memory * 0)[0] > 0.5).sum() == 8**3 + 3**3
    with pytest.raises(DataError, match="which the network cannot take"):
        oracle(labels[:30], memory[:30])


def test_a_search_that_breaks_down_is_described():
    labels = np.zeros((32, 32, 32), np.int16)

    def fail(image, memory):
        raise DataError("a window of odd size")

    search, ended = run_search(labels, fail, QUICK)
    assert ended == "broke down: a window of odd size"
    assert len(search.visits) == 0
