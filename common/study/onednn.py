"""The sides of `python -m common bench --onednn`: quick presets of all papers, on noise."""

import importlib
from pathlib import Path

import keras
import numpy as np

from common.cost.turns import Contender
from common.cost.workloads import load_workload, prepare_call, prepare_step
from common.study.contenders import configure, repeat_steps


def train(sizes, folder: Path) -> Contender:
    """Take the training step of the preset `quick`."""
    module, config, scan, xla = _make_ready(sizes)
    step = prepare_step(module, config, scan, xla=xla)
    return repeat_steps(lambda: np.ravel(step())[0], steps=1)


def predict(sizes, folder: Path) -> Contender:
    """Call the network of the preset `quick` once, as prediction does."""
    module, config, scan, _ = _make_ready(sizes)
    call = prepare_call(module, config, scan)
    return Contender(lambda: list(map(np.asarray, keras.tree.flatten(call()))), call)


def _make_ready(sizes):
    """Configure the runtime as training does; return what the workload's functions take."""
    runtime = configure(sizes)
    config = importlib.import_module(f"{sizes['paper']}.config").QUICK
    scan = sizes["scan"] and tuple(sizes["scan"])
    return load_workload(sizes["paper"]), config, scan, runtime["xla"]
