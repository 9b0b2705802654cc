"""Which patches training sees, in which order, and how they are cut."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from common.data.prepared_store import write_prepared_case
from common.errors import DataError, OptionError
from fetal_brain.batches import make_dataset
from fetal_brain.config import CODE, PAPER, PORT, input_shape
from fetal_brain.sampling import (
    BLOCK,
    ShuffleBuffer,
    TrainingSampler,
    corner_of,
    count_classes,
    draw_validation_batch,
    find_voxel,
    patches_per_class,
)

SMALL = replace(PORT, patch_shape=(3, 8, 8), offset_sigma=0.0, batch_size=4, max_steps=50)


def store(folder, labels, n_classes=2):
    """Store cases whose images hold each voxel's own number, so that a patch tells its place."""
    cases = []
    for index, label in enumerate(labels):
        image = np.arange(label.size, dtype=np.float32).reshape(*label.shape, 1)
        arrays = {"image": image, "label": label, "slice_counts": count_classes(label, n_classes)}
        cases.append(write_prepared_case(folder, f"case{index}", arrays))
    return cases


def random_label(seed, shape=(6, 20, 22), share=0.3):
    return (np.random.default_rng(seed).random(shape) < share).astype(np.uint8)


@pytest.fixture
def cases(tmp_path):
    return store(tmp_path, [random_label(seed) for seed in range(5)])


def test_classes_share_the_patches_rounded_half_to_even():
    assert patches_per_class(20, 2) == [10, 10]
    assert patches_per_class(5, 2) == [2, 2]
    assert patches_per_class(7, 2) == [4, 4]
    assert patches_per_class(10, 2, [1, 4]) == [2, 8]


def test_corner_by_hand():
    """Edge 8 reaches 4 down and 3 up; edge 3 one each way; the border moves it inwards."""
    shape, edges = (6, 20, 22), (3, 8, 8)
    assert corner_of((3, 10, 11), shape, edges).tolist() == [2, 6, 7]
    assert corner_of((0, 4, 3), shape, edges).tolist() == [0, 0, 0]
    assert corner_of((5, 17, 18), shape, edges).tolist() == [3, 12, 14]


def test_every_voxel_is_found_by_its_rank():
    label = np.random.default_rng(0).integers(0, 3, (4, 5, 6)).astype(np.uint8)
    label[1] = 0  # a slice without the other classes
    counts = count_classes(label, 3)
    assert counts.shape == (3, 4)
    for class_ in range(3):
        found = [find_voxel(label, counts, class_, rank) for rank in range(counts[class_].sum())]
        np.testing.assert_array_equal(found, np.argwhere(label == class_))


@pytest.mark.parametrize("slices_as_channels", [False, True])
def test_patches_have_the_shapes_that_are_said(cases, slices_as_channels):
    config = replace(SMALL, slices_as_channels=slices_as_channels)
    image, label = TrainingSampler(cases, config, seed=1)(0)
    assert (image.shape, label.shape) == (input_shape(config), input_shape(config)[:-1])
    assert (image.dtype, label.dtype) == (np.float32, np.int32)


def test_slices_become_channels_and_the_middle_one_the_label(cases):
    """[F26]"""
    thick = TrainingSampler(cases, SMALL, seed=1)
    flat = TrainingSampler(cases, replace(SMALL, slices_as_channels=True), seed=1)
    for index in range(20):
        (image, label), (channels, middle) = thick(index), flat(index)
        for slice_ in range(3):
            np.testing.assert_array_equal(channels[0, :, :, slice_], image[slice_, :, :, 0])
        np.testing.assert_array_equal(middle[0], label[1])


def test_a_patch_is_a_block_of_the_flipped_volume(cases):
    sampler = TrainingSampler(cases, SMALL, seed=3)
    seen = Counter()
    for index in range(200):
        image, label = sampler(index)
        case = cases[sampler.locate(index).case]
        flipped = {axis for axis in range(3) if np.diff(image[..., 0], axis=axis).flat[0] < 0}
        seen[frozenset(flipped)] += 1
        low = int(image.min())
        block = tuple(
            slice(start, start + edge)
            for start, edge in zip(np.unravel_index(low, (6, 20, 22)), (3, 8, 8), strict=True)
        )
        for patch, whole in ((image, case.arrays["image"]), (label, case.arrays["label"])):
            np.testing.assert_array_equal(patch, np.flip(whole[block], tuple(flipped)))
    assert len(seen) == 8  # every combination of flips


@pytest.mark.parametrize("edge", [7, 8])
@pytest.mark.parametrize("place", [0, 1, 3, 4, 9, 15, 16, 18, 19])
def test_the_centre_lies_where_flipping_the_volume_first_puts_it(tmp_path, edge, place):
    """One voxel of brain: its place in the patch follows from the original's formula, by hand."""
    label = np.zeros((6, 20, 20), np.uint8)
    label[2, place, 10] = 1
    config = replace(SMALL, patch_shape=(3, edge, edge))
    sampler = TrainingSampler(store(tmp_path, [label]), config, seed=5)
    flips = set()
    for index in range(200):
        if sampler.locate(index).class_ == 0:
            continue
        image, patch = sampler(index)
        flipped = bool(image[0, 1, 0, 0] < image[0, 0, 0, 0])
        mirrored = 19 - place if flipped else place
        centre = max(min(mirrored, 20 - (edge - edge // 2)), edge // 2)
        assert np.argwhere(patch)[0][1] == mirrored - (centre - edge // 2)
        flips.add(flipped)
    assert flips == {False, True}


def test_offset_is_one_normal_draw_per_patch(tmp_path):
    """400 draws: standard error of the mean 0.1, of the deviation 0.07."""
    cases = store(tmp_path, [random_label(0)])
    plain = TrainingSampler(cases, SMALL, seed=2)
    moved = TrainingSampler(cases, replace(SMALL, offset_sigma=2.0), seed=2)
    offsets = []
    for index in range(400):
        # The voxel numbers reach 2640: float32 rounds the sum to 2**-13.
        difference = moved(index)[0] - plain(index)[0]
        assert np.ptp(difference) < 1e-3
        offsets.append(difference.mean())
    assert abs(np.mean(offsets)) < 0.4
    assert np.std(offsets) == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("per_example", [True, False])
def test_augmentation_is_shared_by_a_pass_or_not(cases, per_example):
    """[F15]"""
    config = replace(SMALL, augment_per_example=per_example, offset_sigma=1.0)
    still = TrainingSampler(cases, config, seed=4, augment=False)
    sampler = TrainingSampler(cases, config, seed=4)
    offsets = {}
    for index in range(300):
        source = sampler.locate(index)
        # The mean of a patch of voxel numbers tells its place; the offset is what remains.
        offset = float(np.round(sampler(index)[0].min() % 1, 2))
        offsets.setdefault((source.pass_, source.case), set()).add(offset)
        assert still(index)[0].min() % 1 == 0
    assert len(offsets) >= 10
    counts = [len(values) for values in offsets.values()]
    assert max(counts) == 1 if not per_example else max(counts) > 10


def test_centres_of_a_class_are_uniform_and_not_repeated_within_a_pass(tmp_path):
    """40 voxels of brain far from the border, 10 of them per pass, 200 passes: 50 each."""
    label = np.zeros((9, 30, 30), np.uint8)
    label[2:6, 10:15, 15:17] = 1
    sampler = TrainingSampler(store(tmp_path, [label]), SMALL, seed=6, augment=False)
    centres = {}
    for index in range(200 * 20):
        source = sampler.locate(index)
        if source.class_ == 1:
            image, patch = sampler(index)
            assert patch[1, 4, 4] == 1
            centres.setdefault(source.pass_, []).append(int(image[1, 4, 4, 0]))
    for drawn in list(centres.values())[:190]:  # the last passes are in the shuffle buffer still
        assert len(drawn) == len(set(drawn)) == 10
    counts = np.array(list(Counter(itertools.chain(*centres.values())).values()))
    assert len(counts) == 40
    assert ((counts - 50) ** 2 / 50).sum() < 73  # chi-square, 39 degrees of freedom, 0.1 %


def test_a_class_with_few_voxels_gives_few_patches(tmp_path):
    """[F9] 3 voxels of brain in one case, none in the other: 13 and 10 patches a pass."""
    few, none = np.zeros((2, 6, 20, 22), np.uint8)
    few[3, 5, 5:8] = 1
    config = replace(SMALL, shuffle_files=False, shuffle_window=1)
    sampler = TrainingSampler(store(tmp_path, [few, none]), config, seed=1)
    sources = [sampler.locate(index) for index in range(46)]
    drawn = [(source.pass_, source.case, source.class_) for source in sources]
    expected = [(0, 0, 0)] * 10 + [(0, 0, 1)] * 3 + [(0, 1, 0)] * 10
    assert drawn == expected + [(1, case, class_) for _, case, class_ in expected]
    assert len({sampler(index)[0].tobytes() for index in range(10, 13)}) == 3


def test_files_are_shuffled_or_in_the_order_of_the_list(cases):
    """[F14]"""
    config = replace(SMALL, shuffle_window=1)

    def orders(config):
        sampler = TrainingSampler(cases, config, seed=1)
        return [
            tuple(sampler.locate(100 * pass_ + 20 * place).case for place in range(5))
            for pass_ in range(8)
        ]

    assert set(orders(replace(config, shuffle_files=False))) == {(0, 1, 2, 3, 4)}
    shuffled = orders(config)
    assert len(set(shuffled)) > 4
    assert {tuple(sorted(order)) for order in shuffled} == {(0, 1, 2, 3, 4)}


def test_order_restarts_after_an_evaluation_with_new_patches(cases):
    """[F14] A chunk of 5 steps of 4 patches ends within the first volume."""
    config = replace(
        SMALL, shuffle_files=False, shuffle_window=1, steps_per_evaluation=5,
        restart_order_every_evaluation=True,
    )  # fmt: skip
    sampler = TrainingSampler(cases, config, seed=1)
    assert {sampler.locate(index).case for index in range(100)} == {0}
    assert [sampler.locate(index).chunk for index in (0, 19, 20, 99)] == [0, 0, 1, 4]
    assert len({sampler(20 * chunk)[0].tobytes() for chunk in range(5)}) > 1


def test_pipeline_statistics_are_the_originals(golden_dir, tmp_path):
    """One chunk of the code's pipeline, 30 files; tolerances of the recording."""
    golden = json.loads((golden_dir / "fetal_brain" / "pipeline.json").read_text())
    label = random_label(0, shape=(3, 8, 8))
    config = replace(CODE, patch_shape=(3, 8, 8))
    assert (config.batch_size, config.shuffle_window) == (golden["batch"], golden["shuffle"])
    sampler = TrainingSampler(store(tmp_path, [label] * golden["files"]), config, seed=11)
    sources = [sampler.locate(index) for index in range(golden["steps"] * golden["batch"])]
    files = np.array([source.case for source in sources]).reshape(-1, golden["batch"])
    brain = np.array([source.class_ for source in sources]).reshape(files.shape)
    volumes = [len(set(batch)) for batch in files.tolist()]
    for run in golden["runs"]:
        counts = np.bincount(files.ravel(), minlength=golden["files"])
        assert np.abs(counts - run["patches_per_file"]).max() <= 10
        assert np.mean(volumes) == pytest.approx(run["volumes_per_batch_mean"], rel=0.05)
        fractions = brain.mean(axis=1)
        assert fractions.mean() == pytest.approx(run["brain_centred_fraction_mean"], rel=0.05)
        # 500 batches: the deviation's own standard error is 3 %, in both runs.
        assert fractions.std() == pytest.approx(run["brain_centred_fraction_std"], rel=0.1)
    assert files[:2].max() <= 4  # the first 84 patches: volumes 0 to 4


def test_shuffle_buffer_holds_so_many_elements():
    window, places = 16, 3 * BLOCK
    order = ShuffleBuffer(window, np.random.default_rng(0))
    taken = np.array([order[place] for place in range(places)])
    assert len(set(taken.tolist())) == places
    assert (taken <= np.arange(places) + window - 1).all()
    assert np.array_equal(np.sort(taken)[: places - 20 * window], np.arange(places - 20 * window))
    # The wait in a buffer of 16 is geometric: mean 15 places, as an element leaves with 1/16.
    assert np.mean(np.arange(places) + window - 1 - taken) == pytest.approx(15, rel=0.05)


def test_shuffle_buffer_of_one_keeps_the_order():
    order = ShuffleBuffer(1, np.random.default_rng(0))
    assert [order[place] for place in range(5)] == [0, 1, 2, 3, 4]


def test_a_patch_depends_on_its_number_alone(cases):
    config = replace(SMALL, offset_sigma=1.0)
    forward = TrainingSampler(cases, config, seed=9)
    patches = [forward(index) for index in range(60)]
    backward = TrainingSampler(cases, config, seed=9)
    backward(2 * BLOCK)
    for index in reversed(range(60)):
        for found, expected in zip(backward(index), patches[index], strict=True):
            np.testing.assert_array_equal(found, expected)
    other = TrainingSampler(cases, config, seed=10)
    assert any(not np.array_equal(other(index)[0], patches[index][0]) for index in range(5))


def test_dataset_may_begin_at_any_step(cases):
    config = replace(SMALL, offset_sigma=1.0, max_steps=12)
    whole = list(make_dataset(cases, config, 3).as_numpy_iterator())
    rest = list(make_dataset(cases, config, 3, first_step=7).as_numpy_iterator())
    assert len(whole) == 12
    assert len(rest) == 5
    for found, expected in zip(rest, whole[7:], strict=True):
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
    sampler = TrainingSampler(cases, config, seed=3)
    np.testing.assert_array_equal(whole[5][0][2], sampler(5 * 4 + 2)[0])


def test_validation_batch_is_one_of_the_first_volumes(tmp_path):
    """[F20] 10 patches of the first 73 of the stream: volumes 0 to 3, no augmentation."""
    cases = store(tmp_path, [random_label(seed) for seed in range(6)])
    config = replace(CODE, patch_shape=(3, 8, 8))
    images, labels = draw_validation_batch(cases, config, 1, 0)
    assert images.shape == (10, 3, 8, 8, 1)
    assert labels.shape == (10, 3, 8, 8)
    assert (np.diff(images[..., 0], axis=-1) == 1).all()  # neither flipped nor offset
    for image, label in zip(images, labels, strict=True):
        block = np.isin(np.arange(2640).reshape(6, 20, 22), image)
        assert any(
            np.array_equal(case.arrays["label"][block].reshape(label.shape), label)
            for case in cases[:4]
        )
    again, _ = draw_validation_batch(cases, config, 1, 0)
    later, _ = draw_validation_batch(cases, config, 1, 1)
    np.testing.assert_array_equal(again, images)
    assert not np.array_equal(later, images)


def test_the_papers_validation_batch_has_its_shapes(cases):
    images, labels = draw_validation_batch(cases, replace(PAPER, patch_shape=(3, 8, 8)), 1, 0)
    assert images.shape == (10, 1, 8, 8, 3)
    assert labels.shape == (10, 1, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patches_per_volume": 1}, "patches_per_volume: found 1; expected at least one for each"),
        ({"shuffle_window": 0}, "shuffle_window: found 0; expected 1 or more"),
        ({"offset_sigma": -1.0}, "offset_sigma: found -1.0; expected 0 or more"),
    ],
)
def test_impossible_options_are_refused(cases, change, message):
    with pytest.raises(OptionError, match=message):
        TrainingSampler(cases, replace(SMALL, **change), seed=1)


def test_no_cases_are_refused():
    with pytest.raises(DataError, match="no cases to draw patches from"):
        TrainingSampler([], SMALL, seed=1)


def test_a_case_smaller_than_the_patch_is_refused(cases):
    with pytest.raises(DataError, match=r"case case0: found \(6, 20, 22\) .* \(3, 21, 8\)"):
        TrainingSampler(cases, replace(SMALL, patch_shape=(3, 21, 8)), seed=1)
