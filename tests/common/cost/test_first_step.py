"""What training and prediction say once their first step or scan has shown what it takes."""

import re

import keras
import numpy as np
import pytest

from common.cost.first_step import after_first, line_of_steps
from common.cost.memory import GIB, available_memory, bytes_of, warn_of_memory
from common.errors import DataError
from common.runs.failures import Failures
from common.training.journal import FirstSteps


def train(steps, batches):
    image = keras.Input((2,))
    network = keras.Model(image, keras.layers.Dense(1)(image))
    network.compile("sgd", "mse")
    said = []
    x = np.zeros((batches, 2), np.float32)
    callback = FirstSteps(steps, said.append)
    network.fit(x, x[:, :1], batch_size=1, epochs=1, verbose=0, callbacks=[callback])
    return said


class TestTraining:
    def test_the_second_step_counts_and_the_rest_follows_from_it(self):
        """298 steps of 1.5 s are 447 s, or 7.45 minutes."""
        line = line_of_steps([9.0, 1.5], 300)
        assert re.fullmatch(
            r"measured: the first step took 9 s with compilation, the second 1\.5 s; "
            r"about 7\.5 min for 298 more at this load, without validation; "
            r"peak memory \d+\.\d\d GiB",
            line,
        )

    @pytest.mark.parametrize(
        ("seconds", "steps", "middle"),
        [
            ([9.0], 1, "took 9 s with compilation; peak"),
            ([9.0, 1.5], 2, "with compilation, the second 1.5 s; peak"),
        ],
    )
    def test_nothing_is_foretold_where_nothing_is_left(self, seconds, steps, middle):
        assert middle in line_of_steps(seconds, steps)

    @pytest.mark.parametrize("steps", [1, 2, 5])
    def test_it_is_said_once(self, steps):
        (line,) = train(steps, steps)
        assert line.startswith("measured: the first step took ")
        assert (f"{steps - 2} more" in line) == (steps > 2)

    def test_a_run_that_is_done_says_nothing(self):
        assert train(0, 1) == []


class TestPrediction:
    def test_one_line_after_the_first_scan(self, capsys):
        seen = []
        for item in after_first(["a", "b", "c"], Failures(3, "scan")):
            assert capsys.readouterr().err.count("\n") == (item == "b")
            seen.append(item)
        assert seen == ["a", "b", "c"]

    def test_words(self, capsys):
        list(after_first([1, 2, 3], Failures(3, "volume")))
        several = capsys.readouterr().err
        assert re.match(r"measured: the first volume took \S+ s; about \S+ s for 2 more ", several)
        list(after_first([1], Failures(3, "volume")))
        assert "more" not in capsys.readouterr().err
        assert list(after_first([], Failures(3, "volume"))) == []
        assert capsys.readouterr().err == ""

    def test_a_scan_that_failed_is_not_the_first(self, capsys):
        failures, lines = Failures(3, "scan"), []
        for item in after_first([1, 2, 3], failures):
            lines.append(capsys.readouterr().err.count("measured"))
            with failures.of(str(item)):
                if item == 1:
                    raise DataError("no scan")
        assert lines == [0, 0, 1]

    def test_nothing_is_said_of_a_first_scan_that_was_left(self, capsys):
        items = after_first([1, 2], Failures(3, "scan"))
        assert next(items) == 1
        items.close()
        assert capsys.readouterr().err == ""


class TestMemory:
    def test_too_little_is_one_warning(self, capsys):
        warn_of_memory(2**50, what="scan 7")
        (line,) = capsys.readouterr().err.splitlines()
        assert re.fullmatch(
            r"warning: scan 7 needs about 1048576\.0 GiB of memory but only \d+\.\d GiB is "
            r"available; the process may be killed",
            line,
        )
        assert float(line.split("only ")[1].split()[0]) < available_memory() / GIB + 1

    def test_enough_is_silent(self, capsys):
        warn_of_memory(1000, what="scan 7")
        assert capsys.readouterr().err == ""

    def test_bytes_of_variables(self):
        """A kernel of 6 x 3 and its bias of 3, float32; a whole number of 8 bytes."""
        dense = keras.layers.Dense(3)
        dense.build((None, 6))
        count = keras.Variable(0, dtype="int64")
        assert bytes_of([*dense.variables, count]) == 4 * 21 + 8
