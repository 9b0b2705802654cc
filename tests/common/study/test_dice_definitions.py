"""Every historical Dice: by hand, against what the originals computed, and against our own."""

import numpy as np
import pytest

from common.study import dice_definitions as forensics
from common.study.dice_definitions import DicePair, telling_cases

ONE, TWO = np.array([[1, 1, 0, 0]]), np.array([[0, 1, 1, 0]])
"""One voxel in common, two in each: Dice 1/2."""
NONE = np.zeros((1, 4), int)


@pytest.fixture(scope="module")
def masks():
    """Pairs of label maps (slices, rows, columns): overlapping, half empty, empty."""
    random = np.random.default_rng(0)
    one, two = (random.integers(0, 3, (6, 5, 4)) for _ in range(2))
    empty = np.zeros_like(one)
    return [(one, two), (one, one), (empty, two), (one, empty), (empty, empty)]


def test_by_hand():
    assert forensics.raseg_dice(ONE, TWO) == pytest.approx(2 / 4.00001)
    assert forensics.raseg_draft_dice(ONE, TWO) == pytest.approx(2.00001 / 4.00001)
    assert forensics.sarcoma_dice(ONE, TWO) == pytest.approx(3 / 5)
    assert forensics.dltk_dice(ONE, TWO).tolist() == [0.5, 0.5]
    assert forensics.medpy_dice(ONE, TWO) == 0.5
    # Inside label 0 nothing counts, inside label 1 one of two voxels is found: 2/3.
    assert forensics.vertebra_eval_dice(ONE, TWO) == pytest.approx((0 + 2 / 3) / 2)
    assert forensics.vertebra_patch_dice(ONE, TWO) == 0.5
    mask = np.array([[1, 1, 0, 0]])
    found = [forensics.deepmedic_dice(ONE, TWO, mask, kind=kind) for kind in (1, 2, 3)]
    assert found == pytest.approx([0.5, 0.5, 2 / 3])


def test_empty_masks_by_hand():
    """What each definition makes of nothing to be found, and of a false alarm of two voxels."""
    assert forensics.raseg_dice(NONE, NONE) == 0
    assert forensics.raseg_draft_dice(NONE, NONE) == 1
    assert forensics.raseg_draft_dice(ONE, NONE) == pytest.approx(5e-6, rel=1e-3)
    assert forensics.sarcoma_dice(NONE, NONE) == 1
    assert forensics.sarcoma_dice(ONE, NONE) == pytest.approx(1 / 3)
    assert np.isnan(forensics.dltk_dice(NONE, NONE)[1])
    assert forensics.dltk_dice_of_2017(NONE, NONE)[1] == 1
    assert forensics.medpy_dice(NONE, NONE) == 0
    assert forensics.vertebra_patch_dice(NONE, NONE) == 1
    # Two false voxels of four: 2 (4 - 2) / (8 - 2).
    assert forensics.vertebra_patch_dice(ONE, NONE) == pytest.approx(4 / 6)
    assert np.isnan(forensics.deepmedic_dice(ONE, NONE))


def test_a_batch_is_one_quotient_and_batches_a_mean():
    """Slices with overlap 2 of 2 + 2 voxels and 0 of 0 + 0: 5/5 in one batch; 1 and 1 apart."""
    found, real = np.array([[1, 1], [0, 1]]), np.array([[1, 1], [0, 0]])
    assert forensics.sarcoma_dice(found, real) == pytest.approx(5 / 6)
    assert forensics.sarcoma_dice(found, real, batch=1) == pytest.approx((1 + 1 / 2) / 2)


@pytest.mark.parametrize("case", ["rand", "same", "pred_empty", "label_empty", "both_empty",
                                  "all_fg", "three"])  # fmt: skip
def test_fetal_brain_as_recorded(golden, case):
    recorded = golden("fetal_brain")("metrics")
    found = forensics.dltk_dice(recorded[f"dice_{case}_pred"], recorded[f"dice_{case}_label"],
                                int(recorded[f"dice_{case}_n"]))  # fmt: skip
    np.testing.assert_allclose(found, recorded[f"dice_{case}_out"], rtol=1e-7)
    if not np.isnan(found[1:]).any():
        np.testing.assert_allclose(found[1:].mean(), recorded[f"dice_{case}_fgmean"], rtol=1e-6)


def test_raseg_as_recorded(golden):
    recorded = golden("raseg")("tables")
    cases = {key.split("/")[1] for key in recorded if key.startswith("dice/")}
    for case in cases - {"label_gt1"}:  # other labels than 0 and 1 are weights there
        logits, labels = (recorded[f"dice/{case}/{part}"] for part in ("logits", "labels"))
        odds = np.exp(logits[..., 1].astype(np.float64) - logits[..., 0])
        found = np.mean([forensics.raseg_dice(p / (1 + p), y)
                         for p, y in zip(odds, labels, strict=True)])  # fmt: skip
        assert found == pytest.approx(float(recorded[f"dice/{case}/dice"]), abs=1e-6), case


def test_sarcoma_as_recorded(golden):
    recorded = golden("sarcoma")("dice")
    for case in {key.split("/")[0] for key in recorded if key.endswith("/y_true")} - {"evaluate"}:
        true, found = (recorded[f"{case}/{part}"].astype(float) for part in ("y_true", "y_pred"))
        expected = float(recorded[f"{case}/dice_smooth1"])
        assert forensics.sarcoma_dice(found, true) == pytest.approx(expected, abs=1e-6), case
    true, found = (recorded[f"evaluate/{part}"].astype(float) for part in ("y_true", "y_pred"))
    values = [forensics.sarcoma_dice(found, true, batch) for batch in (1, 70)]
    assert values == pytest.approx([0.152, 0.1754], abs=5e-4)


def test_vertebra_as_recorded(golden):
    recorded = golden("vertebra")("evaluate")
    scores = [forensics.vertebra_eval_dice(recorded[f"pred{n}"], recorded[f"label{n}"])
              for n in (0, 1)]  # fmt: skip
    expected = [recorded[f"per_label{n}"].mean() for n in (0, 1)]
    assert scores == pytest.approx(expected, abs=1e-9)
    losses = golden("vertebra")("losses")
    for found, real, value in zip(losses["dice_case_pred"], losses["dice_case_gt"],
                                  losses["dice_case_value"], strict=True):  # fmt: skip
        assert forensics.vertebra_patch_dice(found, real) == pytest.approx(value)


def test_dhcp_fetal_as_recorded(golden):
    recorded = golden("dhcp_fetal")("losses_schedules_metrics")
    for number in range(5):
        probabilities = np.moveaxis(recorded[f"l{number}_p"], 1, -1)
        found = forensics.deepmedic_soft_dice(probabilities, recorded[f"l{number}_y"])
        assert 1 - found == pytest.approx(float(recorded[f"l{number}_dsc"]), abs=1e-6)


def test_the_papers_own_measures_agree(masks):
    from dhcp_fetal.measures import engine_dice
    from raseg.masks import dice_of_original
    from sarcoma.patch_files import patch_dice
    from vertebra.instances import released_dice

    region = np.zeros(masks[0][0].shape, int)
    region[:, :3] = 1
    for found, real in masks:
        one, other = (found > 0).astype(float), (real > 0).astype(float)
        assert forensics.raseg_dice(found, real) == pytest.approx(dice_of_original(found, real))
        for batch in (1, 4, 6):
            assert forensics.sarcoma_dice(one, other, batch) == pytest.approx(
                patch_dice(other, one, batch))  # fmt: skip
        assert forensics.vertebra_eval_dice(found, real) == pytest.approx(
            np.mean(list(released_dice(found, real).values())))  # fmt: skip
        expected = engine_dice(found, real, region, 3)["foreground"]
        kinds = [forensics.deepmedic_dice(found, real, region, kind=k) for k in (1, 2, 3)]
        np.testing.assert_allclose(kinds, expected)


def test_losses_that_train_agree(masks):
    import keras

    from dhcp_fetal.losses import dice_loss as engine_loss
    from raseg.config import CODE, DRAFT
    from raseg.model import DiceLoss
    from sarcoma.losses import batch_dice
    from vertebra.learning import patch_dice

    for found, real in masks:
        p, y = ((array > 0).astype(np.float32)[None] for array in (found, real))
        assert float(batch_dice(y, p)) == pytest.approx(
            forensics.sarcoma_dice(p[0], y[0]), abs=1e-6)  # fmt: skip
        logits = np.stack([np.zeros_like(p), 60 * p - 30], axis=-1)
        for config, measure in ((CODE, forensics.raseg_dice), (DRAFT, forensics.raseg_draft_dice)):
            assert -float(DiceLoss(config)(y, logits)) == pytest.approx(
                measure(p[0], y[0]), abs=1e-5)  # fmt: skip
        both = np.stack([y, np.ones_like(y)], axis=-1)
        value = float(patch_dice(both, keras.ops.convert_to_tensor(p[..., None])))
        assert value == pytest.approx(forensics.vertebra_patch_dice(p, y), abs=1e-6)
        classes = np.stack([1 - p, p], axis=-1)
        one_hot = np.stack([1 - y, y], axis=-1)
        assert 1 - float(engine_loss(one_hot, classes)) == pytest.approx(
            forensics.deepmedic_soft_dice(classes, y), abs=1e-6)  # fmt: skip


def test_telling_cases_tell():
    """Each pair of definitions differs on some case, except where they differ in masks alone."""
    rows = {row["measure"]: row for row in forensics.score_predictions(telling_cases())}
    assert len(rows) == len(forensics.DEFINITIONS) == 15
    right = rows["Dice (common.evaluation.metrics)"]
    assert right["perfect"] == "1.000"
    assert right["empty"] == "0.000"
    assert right["none, none"] == "n/a"
    # A perfect result of two bodies is 2/3 there, and a far find changes nothing.
    assert rows["vertebra eval.py"]["perfect"] == rows["vertebra eval.py"]["far find"] == "0.667"
    assert rows["vertebra eval.py"]["doubled"] == "0.667"
    # Slices without lesion and without prediction count as 1: an empty answer looks half right.
    assert float(rows["sarcoma, batches of 1"]["empty"]) > 0.3
    assert rows["dhcp_fetal DICE2"]["far find"] == "1.000"
    assert float(rows["dhcp_fetal DICE1"]["far find"]) < 1
    assert float(rows["fetal_brain dsc_l0"]["empty"]) > 0.95
    assert float(rows["vertebra training"]["none, alarm"]) > 0.99
    assert rows["raseg"]["none, none"] == "0.000"
    assert rows["fetal_brain 2017"]["none, none"] == "1.000"


def test_doubling():
    mask = np.zeros((9, 9, 9), int)
    mask[4, 4, 4] = 5
    grown = forensics.doubled(mask)
    assert (grown.max(), grown.sum()) == (1, 7)
    assert forensics.doubled(np.zeros((3, 3), int)).sum() == 0


def test_a_runs_prediction_gets_a_column():
    table = forensics.metrics_table({"run: a": DicePair(ONE, TWO)})
    assert table.rows[0]["run: a"] == "0.500"
    assert table.phantom
    formulas = forensics.formulas_table()
    assert [row["measure"] for row in formulas.rows] == [row["measure"] for row in table.rows]
