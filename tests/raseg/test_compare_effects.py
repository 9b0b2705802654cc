"""What the switches of the synovitis code do to phantoms; the network is nobody's."""

import keras
import pytest

from common.study.effects import measure_effects
from raseg.config import CODE
from raseg.effects import BASE, EffectBench
from raseg.inference import build_for_any_size

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    keras.utils.set_random_seed(0)
    bench = EffectBench((build_for_any_size(BASE), BASE))
    return {(row["switch"], row["stage"]): row
            for row in measure_effects(bench.probes(), base=bench.base, code=CODE)}  # fmt: skip


def test_split(rows):
    """[R12] Three of 61 volumes change sides."""
    row = rows["validation_volumes", "split"]
    assert row["changed"] == "4.92 %"
    assert row["code"] == "51 training, 0 validation, 10 test"


def test_sixteen_bits(rows):
    """[R4] The port refuses 70 000 and reads 50 000, which the code turns inside out."""
    assert rows["wrap_intensities", "binaries"]["port"].startswith("refused: volume: found the val")
    assert rows["wrap_intensities", "binaries"]["code"].startswith("stored")
    assert rows["read_as_signed", "preparation"]["changed"] != "0 %"


def test_examples(rows):
    """[R3] [R17] Every voxel of a distorted volume moves; six volumes come twice in twelve."""
    assert float(rows["augment", "examples"]["changed"].removesuffix(" %")) > 90
    order = rows["shuffle", "order"]["port"].removeprefix("volumes ").split()
    assert sorted(order[:6]) == sorted(order[6:]) == list("012345")


def test_logits_without_gradient(rows):
    """[R2] Without the ReLU hardly a logit is exactly zero; with it many voxels have two."""
    row = rows["relu_logits", "fresh network"]
    port, code = (
        [int(share.rstrip("%")) for share in row[side].rpartition(": ")[2].split(", ")]
        for side in ("port", "code")
    )
    assert max(port) <= 2
    assert max(code) > 20


def test_schedule(rows):
    """[R20] 0.15^2 of 1e-4 in the 20th pass, and 0.15^4; the code asks for a million steps."""
    assert rows["drops", "schedule"]["port"].startswith("1020 steps; rate 2.3e-06 in the 20th pass")
    assert "rate 5.1e-08 in the 20th pass" in rows["drops", "schedule"]["code"]
    assert rows["max_steps", "schedule"]["changed"] == "0 %"
    assert rows["epochs", "schedule"]["code"].startswith("refused: --epochs and --max_steps")
    together = rows["examples_per_epoch, drops, epochs, max_steps", "schedule"]
    assert together["code"].startswith("1000000 steps")
