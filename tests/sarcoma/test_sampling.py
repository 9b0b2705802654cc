"""Patches, their labels, the pool, order and flips against the original's."""

from dataclasses import replace

import numpy as np
import pytest

from common.errors import DataError, OptionError
from sarcoma.batches import make_dataset
from sarcoma.config import CODE, PORT
from sarcoma.data import find_patients, split_patients
from sarcoma.prepared import prepare_cases
from sarcoma.sampling import (
    PatchSampler,
    Stack,
    centre_labels,
    cut,
    make_pool,
    reflected,
    sizes_of,
    split_pool,
)

BOTH = replace(CODE, modalities=("ct", "pet"))
SMALL = replace(PORT, pad_small_slices=True)


@pytest.fixture(scope="module")
def prepared(golden_dir, tmp_path_factory):
    """The recorded file, prepared with both modalities."""
    path = golden_dir / "sarcoma" / "synthetic_petct.h5"
    split = split_patients(find_patients(path, BOTH), BOTH)
    folder = tmp_path_factory.mktemp("prepared")
    return {subset: prepare_cases(cases, folder, BOTH) for subset, cases in split.items()}


@pytest.fixture(scope="module")
def stack(prepared):
    """The test windows: 43 slices, 13 760 patches."""
    return Stack(prepared["test"], BOTH, slices="window")


class TestPatches:
    @pytest.mark.parametrize("size", [2, 3, 4, 5])
    def test_where_they_lie(self, golden, size):
        """SAME padding puts the odd pixel after, for every size; exact."""
        recorded = golden("preprocess")
        ramp = recorded["ramp/in"][0, ..., 0]
        for r in range(6):
            for c in range(5):
                start = (size - 1) // 2
                found = cut(ramp, r - start, c - start, size)
                np.testing.assert_array_equal(found.ravel(), recorded[f"ramp/k{size}"][0, r, c])

    def test_recorded_patches(self, stack, golden):
        """[S22] Images 2.4e-7 (their standardisation); labels exact. Beyond the slice: 0."""
        recorded = golden("preprocess")
        assert len(stack) == recorded["n_test"]
        for row, patch in enumerate(recorded["patch_idx"]):
            image, label = stack.draw(patch)
            assert (image.shape, image.dtype) == ((56, 56, 2), np.float32)
            for channel, name in enumerate(("ct", "pet")):
                np.testing.assert_allclose(
                    image[..., channel, None], recorded[f"{name}_patches"][row], atol=1e-5
                )
            np.testing.assert_array_equal(label, recorded["y_patches"][row])

    def test_all_labels(self, stack, golden):
        """[S3] [S5] Every class exact, and the voxels of all 13 760 label patches together."""
        recorded = golden("preprocess")
        classes = np.unpackbits(recorded["y_test"])[: recorded["y_test_len"]]
        np.testing.assert_array_equal(stack.classes(), classes.astype(bool))
        assert stack.classes().sum() == recorded["y_test_sum"]
        counts = np.array([int(stack.draw(p)[1].sum()) for p in range(len(stack))])
        assert counts.sum() == recorded["y_patch_test_sum"]
        histogram = np.bincount(counts // 28, minlength=29)
        np.testing.assert_array_equal(histogram, recorded["ypos_per_patch_hist"])

    def test_class_is_the_neighbours(self):
        """[S3] Index 28 looks at (r + 1, c + 1); the last row and column are never lesion."""
        label = np.zeros((1, 4, 5), bool)
        label[0, 2, 3] = label[0, 0, 0] = True
        found = centre_labels(label, CODE.centre_index)
        assert np.argwhere(found[0]).tolist() == [[1, 2]]
        np.testing.assert_array_equal(centre_labels(label, PORT.centre_index), label)

    def test_reflection(self):
        """As numpy's `reflect`, which repeats where the margin is larger than the slice."""
        for size in (1, 2, 5, 7):
            expected = np.pad(np.arange(size), 23, mode="reflect") if size > 1 else np.zeros(47)
            np.testing.assert_array_equal(reflected(np.arange(-23, size + 23), size), expected)

    @pytest.mark.parametrize("index", [0, 777, 13_759])
    def test_cascade_inputs(self, prepared, stack, index):
        """The second input is the first one's centre; the target is the patch's class."""
        config = replace(BOTH, architecture="cascade")
        own = Stack(prepared["test"], config, slices="window")
        (first, second), y = own.draw(index)
        np.testing.assert_array_equal(second, first[14:42, 14:42])
        np.testing.assert_array_equal(first, stack.draw(index)[0])
        assert y == stack.classes()[index]

    def test_dilated_inputs(self, prepared):
        """[S12] 404 pixels, reflected; the labels are those of the middle 32."""
        config = replace(BOTH, architecture="dilated")
        own = Stack(prepared["test"], config, slices="window")
        assert (own.sizes.input, own.sizes.output) == (404, 32)
        patch = 4 * 320 + 9 * 16 + 7
        image, label = own.draw(patch)
        patient, z, r, c = own.locate(patch)
        assert (r, c) == (9, 7)
        plane = own.images[patient][z]
        np.testing.assert_array_equal(image[201 + 3, 201 - 5], plane[12, 2])
        assert label.shape == (32, 32)
        np.testing.assert_array_equal(label[15 - 9 : 15 + 11, 15 - 7 : 15 + 9],
                                      own.labels[patient][z])  # fmt: skip


class TestPool:
    def test_balanced(self, stack):
        """[S25] All patches around lesion and as many others, each once."""
        pool, classes = make_pool(stack, CODE), stack.classes()
        assert len(pool) == len(set(pool.tolist())) == 2 * classes.sum() == 1708
        assert classes[pool].sum() == classes.sum()
        assert 0.3 < classes[pool[:400]].mean() < 0.7
        np.testing.assert_array_equal(pool, make_pool(stack, CODE))

    def test_unbalanced(self, stack):
        pool = make_pool(stack, replace(CODE, balance=False))
        np.testing.assert_array_equal(np.sort(pool), np.arange(13_760))

    def test_avid_background(self, stack):
        """[S28] Half of the background patches are around voxels far above their slice's mean."""
        classes, avid = stack.classes(), stack.avid()
        pool = make_pool(stack, replace(CODE, avid_share=0.5))
        background = pool[~classes[pool]]
        available = int((avid & ~classes).sum())
        assert avid[background].sum() >= min(available, 427)
        assert len(pool) <= 1708

    def test_split_by_place(self):
        """[S2] 33822 of the true 41338 patches; the same share of another pool."""
        pool = np.arange(41_338)
        first, second = split_pool(pool, CODE)
        assert (len(first), len(second)) == (33_822, 7_516)
        assert (len(first) // 18 * 18, len(second)) == (33_822, 4 * 1_879)
        first, second = split_pool(pool[:1708], CODE)
        assert (len(first), len(second)) == (1397, 311)

    def test_all_slices(self, prepared):
        """[S24] Every slice of the test patients, not those of the window alone."""
        assert len(Stack(prepared["test"], BOTH, slices="all")) == 350 * 320

    def test_no_lesion(self, prepared):
        own = Stack(prepared["test"], BOTH, slices="window")
        own.labels = [np.zeros_like(label) for label in own.labels]
        with pytest.raises(DataError, match="no patch is around a lesion voxel"):
            make_pool(own, CODE)

    def test_bad_share(self, stack):
        with pytest.raises(OptionError, match="avid_share: found 2"):
            make_pool(stack, replace(CODE, avid_share=2))

    def test_no_patients(self):
        with pytest.raises(DataError, match="no patients to draw patches from"):
            Stack([], CODE, slices="all")


class TestOrder:
    def test_recorded_stream(self, stack, golden):
        """Order and flips of 10 patches in batches of 4, seed 5; the last batch of 2 is dropped.

        Exact, for the first epoch: the batches that Keras' generator would have drawn.
        """
        rows = golden("flow")["flow/rows"]
        config = replace(CODE, batch_size=4)
        sampler = PatchSampler(stack, np.arange(10), config, seed=5)
        for batch, place, source, code, _, _ in rows:
            if batch < 2:
                patch, flips = sampler.locate(4 * batch + place)
                assert patch == source
                assert flips.tolist() == [code >= 2, code % 2 == 1]

    def test_later_epochs(self, stack):
        """Every patch once an epoch, each epoch in an order of its own, from any step on."""
        sampler = PatchSampler(stack, np.arange(100, 120), replace(CODE, batch_size=5), seed=3)
        epochs = [[sampler.locate(20 * e + i)[0] for i in range(20)] for e in range(3)]
        assert [sorted(epoch) for epoch in epochs] == [list(range(100, 120))] * 3
        assert epochs[0] != epochs[1]
        random = np.random.RandomState(3 + 4)
        assert epochs[1] == (100 + random.permutation(20)).tolist()

    def test_labels_stay_behind_in_the_code(self, stack):
        """[S1] The code flips the image alone: three masks of four are wrong."""
        patch = int(np.flatnonzero(stack.classes())[5])
        image, label = stack.draw(patch)
        for flips in ((True, False), (False, True), (True, True)):
            axes = np.flatnonzero(flips)
            found, code = stack.draw(patch, flips=flips)
            np.testing.assert_array_equal(found, np.flip(image, axes))
            np.testing.assert_array_equal(code, label)
            stack.config = replace(BOTH, flip_labels=True)
            port = stack.draw(patch, flips=flips)[1]
            stack.config = BOTH
            np.testing.assert_array_equal(port, np.flip(label, axes))
            assert not np.array_equal(port, code)

    def test_share_of_wrong_masks(self, stack, golden):
        """[S1] Flips of 4000 draws are as even as the recorded ones."""
        recorded = golden("flow")["flip_code_counts_4000"]
        sampler = PatchSampler(stack, np.arange(4000), replace(CODE, batch_size=50), seed=0)
        flips = np.array([sampler.locate(i)[1] for i in range(4000)])
        counts = np.bincount(flips[:, 1] + 2 * flips[:, 0], minlength=4)
        assert np.abs(counts - 1000).max() < 100
        assert np.abs(recorded - 1000).max() < 100

    def test_without_augmentation(self, stack):
        config = replace(CODE, augment=False)
        sampler = PatchSampler(stack, np.arange(100), config, seed=0)
        assert not any(sampler.locate(i)[1].any() for i in range(100))

    @pytest.mark.parametrize("architecture", ["unet2d", "cascade", "dilated"])
    def test_batches(self, prepared, architecture):
        """The dataset from step 3 on is what it would have been from the beginning."""
        config = replace(BOTH, architecture=architecture, batch_size=2, flip_labels=True)
        own = Stack(prepared["test"], config, slices="window")
        sampler = PatchSampler(own, make_pool(own, config)[:40], config, seed=0)
        whole = list(make_dataset(sampler, first_step=0, last_step=5))
        rest = list(make_dataset(sampler, first_step=3, last_step=5))
        assert (len(whole), len(rest)) == (5, 2)
        x, y = whole[3]
        again, y_again = rest[0]
        np.testing.assert_array_equal(y, y_again)
        first = x[0] if architecture == "cascade" else x
        first_again = again[0] if architecture == "cascade" else again
        np.testing.assert_array_equal(first, first_again)
        size = sizes_of(config).input
        assert first.shape == (2, size, size, 2)

    def test_too_few_patches(self, stack):
        with pytest.raises(DataError, match="found 3 patches to train on; expected at least a"):
            PatchSampler(stack, np.arange(3), CODE, seed=0)
