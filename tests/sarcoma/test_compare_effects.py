"""What the switches of the sarcoma code do to phantoms; the network is nobody's."""

import keras
import pytest

from common.study.effects import measure_effects
from sarcoma.config import CODE
from sarcoma.effects import BASE, EffectBench
from sarcoma.inference import build_for_inference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    keras.utils.set_random_seed(0)
    bench = EffectBench((build_for_inference(BASE), BASE))
    return {(row["switch"], row["stage"]): row
            for row in measure_effects(bench.probes(), base=bench.base, code=CODE)}  # fmt: skip


def test_flips(rows):
    """[S1] A perfect prediction scores 1 where labels follow, and about 0.55 where they do not."""
    row = rows["flip_labels", "patches"]
    assert row["port"].endswith("Dice 1.00")
    assert 0.4 < float(row["code"].rpartition(" ")[2]) < 0.7


def test_geometry(rows):
    """[S4] Twice the output's row in the code, 14 rows further in the port."""
    row = rows["label_geometry", "network"]
    assert "input rows 18, 28, 38" in row["port"]
    assert "input rows 8, 28, 48" in row["code"]


def test_split(rows):
    """[S2] STS_031 would be on both sides; together both lists make the code's five patients."""
    assert rows["training_patients", "split"]["code"].startswith("refused: patient STS_031 is in")
    together = rows["training_patients, validation_patients", "split"]
    assert together["code"] == "5 training, 0 validation, 2 test"
    assert together["changed"] == "14.29 %"
    near = rows["validation", "validation"]["code"].partition("%")[0]
    assert int(near) > 30


def test_preparation(rows):
    """[S23] [S30] The phantom's lesion shows on PET alone; by slice all slices spread alike."""
    assert "pet" not in rows["modalities", "preparation"]["code"]
    assert rows["standardise", "preparation"]["code"].endswith("slices spread by 1.00 to 1.00")
    assert rows["pad_small_slices", "reading"]["port"].startswith("refused: small.h5: the slices")


def test_networks(rows):
    """[S11] [S13] [S14] Parameters as counted; identity and bilinear keep scores apart."""
    assert rows["two_path", "network"]["code"].startswith("14.5 million numbers; the wide kernel")
    assert rows["context_init", "network"]["port"].endswith("correlation 1.00")
    assert "0% of that appears in the other class" in rows["context_upsampling", "network"]["port"]


def test_slices_and_patches(rows):
    """[S3] [S24] [S28]"""
    assert rows["centre_index", "patches"]["changed"] != "0 %"
    whole, window = (rows["training_slices", "patches"][side] for side in ("port", "code"))
    assert "of 1404928 patches" in whole  # (175 + 168) slices of 64 x 64
    assert "of 163840 patches" in window  # (10 + 30) slices
    assert rows["avid_share", "patches"]["port"] == whole
