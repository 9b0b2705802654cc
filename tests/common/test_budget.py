"""What is said before training and prediction, and how near the estimate is to a measurement."""

from dataclasses import replace

import keras
import numpy as np
import pytest

from common.cost import budget
from common.cost.budget import (
    Budget,
    announce_at_first_call,
    announce_training,
    budget_of_prediction,
    budget_of_training,
    say,
    show_operations,
    show_time,
)
from common.cost.probe import measure
from common.cost.workloads import Workload, load_description
from common.papers import find_papers
from fetal_brain.config import QUICK, Config
from fetal_brain.workload import describe

SMALL = replace(QUICK, filters=(16, 16, 16), kernels=(5, 5, 1), batch_size=4)


@pytest.fixture
def dense():
    """One kernel of 6 x 3 with its bias, in batches of 5, and the work it has."""
    image = keras.Input((6,))
    network = keras.Model(image, keras.layers.Dense(3)(image))
    network.compile(keras.optimizers.Adam(), "mse")
    nothing = dict.fromkeys(("build", "compile", "make_targets"))
    return network, Workload(**nothing, training_shapes=((5, 6),), prediction_shapes=((5, 6),))


def test_training_by_hand(dense):
    """21 float32 weights: twice for the gradients, twice and two scalars for Adam; the layer keeps
    its input; its 5 x (6 + 3) numbers, one and a half times, are the workspace."""
    found = budget_of_training(*dense)
    assert found.parameters == 21
    assert found.operations == 2 * 3 * 5 * 18
    assert found.gradients == 2 * 21 * 4
    scalars = sum(
        np.dtype(v.dtype).itemsize for v in dense[0].optimizer.variables if not len(v.shape)
    )
    assert found.optimiser == 2 * 21 * 4 + scalars
    assert found.tensors == 4 * 5 * 6
    assert found.workspace == budget.BASE_OF_TRAINING + 1.5 * 4 * 5 * 9
    parts = found.tensors + found.workspace + found.gradients + found.optimiser
    assert found.growth == parts


def test_prediction_by_hand(dense):
    found = budget_of_prediction(*dense)
    assert found.operations == 2 * 5 * 18
    assert found.growth == 4 * 5 * (6 + 3) + budget.BASE_OF_PREDICTION


@pytest.mark.parametrize("kind", ["training", "prediction"])
def test_estimate_is_near_what_a_process_takes(kind):
    """The accuracy stated in `common.cost.budget`, measured once more on a small network."""
    config = replace(SMALL, patch_shape=(3, 96, 96), window=(3, 128, 128))
    workload = describe(config)
    model = workload.compile(workload.build(), False)
    estimate = (budget_of_training if kind == "training" else budget_of_prediction)(model, workload)
    measured = measure("fetal_brain", config, kind)
    grown = measured.peak_bytes - measured.start_bytes
    assert measured.seconds < measured.first_seconds
    assert 0.6 < estimate.growth / grown < 1.6


class TestWords:
    def test_one_line_before_training(self, capsys):
        workload = describe(SMALL)
        model = workload.compile(workload.build(), False)
        announce_training(model, workload, steps=300)
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.splitlines()
        assert line.startswith(f"plan: {model.count_params():,} parameters; about ")
        assert "300 steps of" in line
        assert "estimated from the network's graph" in line

    def test_one_line_before_the_first_call(self, capsys):
        workload = describe(SMALL)
        function = announce_at_first_call(lambda x: x + 1, workload.build(), workload)
        assert capsys.readouterr().err == ""
        assert [function(1), function(2)] == [2, 3]
        assert capsys.readouterr().err.count("\n") == 1

    def test_too_little_memory_is_one_warning_that_names_the_option(self, capsys):
        say(Budget(1, 1e9, tensors=2**50, workspace=0), "2 steps", lower="--batch_size")
        plan, warning = capsys.readouterr().err.splitlines()
        assert plan.startswith("plan: 1 parameters; about 10485")
        assert warning.startswith("warning: about 10485")
        assert "GiB are available" in warning
        assert warning.endswith("lower --batch_size")

    @pytest.mark.parametrize(
        ("seconds", "shown"),
        [(0.0421, "0.042 s"), (80, "80 s"), (90, "1.5 min"), (7200, "2.0 h"), (4e5, "4.6 days")],
    )
    def test_time(self, seconds, shown):
        assert show_time(seconds) == shown

    def test_operations(self):
        assert show_operations(1.2634e12) == "1.26 TFLOP"
        assert show_operations(5e6) == "5 MFLOP"


@pytest.mark.parametrize("paper", find_papers("workload.py"))
def test_every_paper_describes_its_work(paper):
    """Both benchmarks' networks can be built on the shapes that are said, and scans be counted."""
    description = load_description(paper)
    for config in description.small().values():
        workload = description.describe(config)
        model = workload.compile(workload.build(), False)
        assert budget_of_training(model, workload).growth > budget.BASE_OF_TRAINING
        network = budget.network_of(model)
        assert budget_of_prediction(network, workload).operations > 0
        inputs = [np.zeros(shape, np.float32) for shape in workload.training_shapes]
        found = network(inputs if len(inputs) > 1 else inputs[0])
        shapes = keras.tree.map_structure(lambda tensor: tuple(tensor.shape), found)
        targets = workload.make_targets(np.random.default_rng(0), shapes)
        assert all(len(target) == len(inputs[0]) for target in keras.tree.flatten(targets))
    scan = description.describe_scan(description.SCAN, next(iter(description.full_size().values())))
    assert scan.calls >= 1
    assert scan.payload["request"] > 1e6


def test_payload_and_calls_of_a_scan():
    """170 x 336 x 336 voxels of float32; windows of three slices at stride 1, one in plane."""
    description = load_description("fetal_brain")
    scan = description.describe_scan((170, 336, 336), Config())
    voxels = 170 * 336 * 336
    expected = {"request": 4 * voxels, "labels": voxels, "probabilities": 8 * voxels}
    assert scan.payload == expected
    assert scan.calls == 168 / 4
