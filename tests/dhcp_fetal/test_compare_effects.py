"""What the switches of the fetal system do to phantoms; the network is nobody's."""

from dataclasses import replace

import keras
import pytest

from common.study.effects import measure_effects
from dhcp_fetal.config import CODE
from dhcp_fetal.effects import BASE, EffectBench
from dhcp_fetal.model import build_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    keras.utils.set_random_seed(0)
    bench = EffectBench((build_model(BASE), BASE))
    return {(row["switch"], row["stage"]): row
            for row in measure_effects(bench.probes(), base=bench.base, code=CODE)}  # fmt: skip


def test_preparation(rows):
    """[G25] Within the brain 0 and 1; with the bright fluid around it they are others."""
    row = rows["normalisation", "preparation"]
    assert row["port"].endswith("deviation 1.00")
    assert row["changed"] == "100.00 %"
    stored = rows["normalise_to_float", "preparation"]
    assert stored["port"].startswith("stored as float32, off by up to ")
    assert float(stored["port"].split()[-1]) < 1e-6
    assert stored["code"].startswith("stored as uint8")
    assert 1e-3 < float(stored["code"].split()[-1]) < 2e-2


def test_engine_versions(rows):
    """[D4] [D5] v0.7.0 leaves the far end of a context blank; variances differ by N / (N - 1)."""
    assert rows["compat", "training segments"]["port"].startswith("0% of the context")
    assert not rows["compat", "training segments"]["code"].startswith("0%")
    assert rows["compat", "inference"]["port"].endswith("up to 0.0e+00")
    assert float(rows["compat", "inference"]["code"].split()[-1]) > 0


def test_momentum(rows):
    """[G12] From 0.6 to 0.9, or from 0.9 to about 1.2 and divergence."""
    row = rows["momentum_overshoots", "schedule"]
    assert row["port"].startswith("begins at 0.60")
    assert row["code"] == "begins at 0.90 and ends at 1.19"


def test_tiles_and_masks(rows):
    """[G5] [G8]"""
    assert rows["tiling", "inference"]["port"].endswith("; 0 change with other tiles")
    assert not rows["tiling", "inference"]["code"].endswith("; 0 change with other tiles")
    row = rows["multiply_by_mask", "inference"]
    assert row["port"].startswith("labels up to 1,")
    assert row["code"].startswith("labels up to 2,")


def test_files(rows):
    """[G24]"""
    assert rows["copy_header", "files"]["port"] == "units mm, qform code 1, sform code 2"
    assert rows["copy_header", "files"]["code"] == "units unknown, qform code 0, sform code 2"


def test_a_network_that_does_not_fit_is_left_out():
    """The phantoms have one channel."""
    assert EffectBench((build_model(BASE), replace(BASE, input_channels=2))).given is None
