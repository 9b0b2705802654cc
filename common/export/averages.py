"""Flips and several networks in one exported graph: the mean that `predict` takes of them.

The signatures of a whole scan, or of a window where a paper serves windows, are kept; those that
are a network's own are left out, since there is no one network.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from common.export.parity import Example
from common.export.write import Endpoint, HeldOutCase, ServingModule, scan_endpoints
from common.inference.extras import averaged, flips_along

Members = Sequence[tuple[keras.Model, Any]]
"""Networks, each with its configuration; labels are made by that of the first."""


def averaged_endpoints(
    serving: ServingModule, members: Members, axes: Sequence[int]
) -> list[Endpoint]:
    """Return the paper's signatures, whose results are means over networks and flips along axes."""
    endpoints = [
        {each.name: each for each in serving.make_endpoints(network, config)}
        for network, config in members
    ]
    config = members[0][1]

    def mean(name: str) -> Callable:
        functions = [
            tf.function(own[name].function, input_signature=own[name].signature, autograph=False)
            for own in endpoints
        ]
        run = averaged_in_graph(functions, axes)
        return lambda *inputs: serving.with_labels(run(*inputs), config)

    whole = {name: endpoints[0][name] for name in whole_scans(endpoints[0])}
    made = [replace(each, function=mean(name)) for name, each in whole.items()]
    if "volume" not in whole:
        return made
    volume, *others = made
    return [*scan_endpoints(volume.function, *volume.signature), *others]


def whole_scans(signatures: Sequence[str]) -> list[str]:
    """Return which of a paper's signatures are averaged."""
    return [name for name in ("volume", "masked") if name in signatures] or ["serving_default"]


def averaged_in_graph(functions: Sequence[Callable], axes: Sequence[int]) -> Callable:
    """Do as `common.inference.extras.averaged` of TensorFlow functions; labels have no mean."""
    flips = flips_along(axes)

    def run(*inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        sums: dict[str, Any] = {}
        for function, flip in product(functions, flips):
            found = function(*(tf.reverse(each, flip) for each in inputs))
            for name, each in found.items():
                if name != "labels":
                    whole = each.shape.rank >= inputs[0].shape.rank - 1
                    back = tf.reverse(each, flip) if whole else each
                    sums[name] = sums.get(name, 0.0) + tf.cast(back, tf.float64)
        count = len(flips) * len(functions)
        return {name: tf.cast(total / count, tf.float32) for name, total in sums.items()}

    return run


def averaged_examples(
    serving: ServingModule, members: Members, axes: Sequence[int], case: HeldOutCase
) -> dict[str, Example]:
    """Return what these signatures are compared on: the means of what `predict` gives."""
    names, inputs = list(case.arrays), {}

    def answers_of(network: keras.Model, config: Any) -> Callable:
        def run(*arrays: np.ndarray) -> dict[str, np.ndarray]:
            turned = replace(case, arrays=dict(zip(names, arrays, strict=True)))
            examples = serving.make_examples(network, config, turned)
            kept = {name: examples[name] for name in whole_scans(examples)}
            inputs.update({name: list(example.inputs) for name, example in kept.items()})
            return {
                f"{name}/{output}": array
                for name, example in kept.items()
                for output, array in example.expected.items()
                if output != "labels"
            }

        return run

    run = averaged([answers_of(*member) for member in members], axes)
    means, examples = run(*case.arrays.values()), {}
    for name, wanted in inputs.items():
        own = {key.partition("/")[2]: mean for key, mean in means.items()
               if key.startswith(f"{name}/")}  # fmt: skip
        answer = serving.with_labels(own, members[0][1])
        expected = {output: np.asarray(array) for output, array in answer.items()}
        examples[name] = Example({key: case.arrays[key] for key in wanted}, expected)
    if "volume" in examples:
        scan, expected = examples["volume"].inputs, examples["volume"].expected
        for name, output in (("serving_default", "labels"), ("probabilities", "probabilities")):
            examples[name] = Example(scan, {output: expected[output]})
    return examples
