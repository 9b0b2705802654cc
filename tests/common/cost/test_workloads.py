"""What every paper says of its network's work: shapes that fit it, scans, and usual data."""

import keras
import numpy as np
import pytest

from common.cost.operations import count_operations
from common.cost.workloads import draw_batch, load_workload
from common.papers import find_papers
from fetal_brain.config import Config
from raseg.config import PRESETS

PAPERS = find_papers("workload.py")


@pytest.mark.parametrize("paper", PAPERS)
def test_networks_fit_their_shapes(paper):
    """The small networks take a training batch and a call, and targets fit what comes out."""
    module = load_workload(paper)
    for config in module.small().values():
        work, network = module.workload_of(config), module.build_network(config)
        assert count_operations(network, work.prediction_shapes) > 0
        rng = np.random.default_rng(0)
        inputs, targets = draw_batch(module, network, config, work.training_shapes, rng)
        module.compile_network(network, config, xla=False)
        network(list(inputs) if isinstance(inputs, tuple) else inputs)
        first = keras.tree.flatten(inputs)[0]
        assert all(len(target) == len(first) for target in keras.tree.flatten(targets))


@pytest.mark.parametrize("paper", PAPERS)
def test_full_size_scans_are_counted(paper):
    module = load_workload(paper)
    config = next(iter(module.full_size().values()))
    work = module.scan_work(module.usual_data("port").scan, config)
    assert work.calls >= 1
    assert work.payload["request"] > 1e6


def test_payload_and_calls_of_a_scan():
    """170 x 336 x 336 voxels of float32; windows of three slices at stride 1, one in plane."""
    work = load_workload("fetal_brain").scan_work((170, 336, 336), Config())
    voxels = 170 * 336 * 336
    expected = {"request": 4 * voxels, "labels": voxels, "probabilities": 8 * voxels}
    assert work.payload == expected
    assert work.calls == 168 / 4


def test_quick_volumes_are_phantoms():
    """Not 512 x 512 x 20: 30 passes over the eight phantoms that `reproduce` trains on."""
    module, config = load_workload("raseg"), PRESETS["quick"]
    usual = module.usual_data("quick")
    assert module.workload_of(config, usual.scan).training_shapes == ((1, 96, 96, 20, 2),)
    assert module.count_steps(config, usual.examples) == 30 * 8
    assert module.usual_data("port").scan == (512, 512, 20)
