"""The original's reader, against what it gave when it was run (see golden reader.npz)."""

from dataclasses import replace

import numpy as np
import pytest
from fetal_brain_reader import augment_volume, extract_balanced, read_examples

from common.data.labels import join_labels
from common.errors import DataError
from fetal_brain.config import CODE
from fetal_brain.data import find_cases, load_case, prepare_case


@pytest.fixture(scope="module")
def golden(golden_dir):
    return np.load(golden_dir / "fetal_brain" / "reader.npz")


@pytest.fixture(scope="module")
def golden_cases(golden_dir):
    cases = find_cases(golden_dir / "fetal_brain" / "data.csv")
    return [prepare_case(load_case(case, CODE), CODE) for case in cases]


@pytest.mark.parametrize("k", range(6))
def test_augmentation_is_the_originals(golden, k):
    image, label = augment_volume(
        golden[f"aug{k}_img_in"],
        golden[f"aug{k}_lbl_in"],
        sigma=1.0,
        random=np.random.RandomState(int(golden[f"aug{k}_seed"])),
    )
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image, golden[f"aug{k}_img_out"])
    np.testing.assert_array_equal(label, golden[f"aug{k}_lbl_out"])


CASES = ["normal", "odd", "n5", "few", "none", "edge", "exact", "weights", "classlist"]


@pytest.mark.parametrize("case", CASES)
def test_patches_are_the_originals(golden, case):
    """The image holds each voxel's own index, so that a patch shows where it was cut."""
    label = golden[f"ecb_{case}_label"]
    image = np.stack(np.indices(label.shape), axis=-1)
    weights = f"ecb_{case}_class_weights"
    images, labels = extract_balanced(
        image,
        label,
        example_size=golden[f"ecb_{case}_example_size"],
        n_examples=int(golden[f"ecb_{case}_n_examples"]),
        classes=(0, 2, 1) if case == "classlist" else 2,
        class_weights=golden[weights] if weights in golden else None,
        random=np.random.RandomState(int(golden[f"ecb_{case}_seed"])),
    )
    np.testing.assert_array_equal(images[:, 0, 0, 0], golden[f"ecb_{case}_corners"])
    np.testing.assert_array_equal(labels.sum(axis=(1, 2, 3)), golden[f"ecb_{case}_label_sums"])
    assert images.shape[:4] == tuple(golden[f"ecb_{case}_out_shape"])[:4]


def test_volume_smaller_than_the_patch_is_refused():
    with pytest.raises(DataError, match=r"\(2, 9, 9\) voxels; expected at least \(3, 8, 8\)"):
        extract_balanced(
            np.zeros((2, 9, 9, 1), np.float32),
            np.zeros((2, 9, 9), np.uint8),
            example_size=(3, 8, 8),
            n_examples=4,
            classes=2,
            random=np.random.RandomState(0),
        )


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_reader_is_the_originals(golden, golden_cases, mode):
    """Both volumes, 20 patches each. The floats differ by the precision of the whitening alone:
    the original sums in float32."""
    random = np.random.RandomState(42)
    patches = list(read_examples(golden_cases, CODE, random=random, augment=mode == "train"))
    images = np.stack([image for image, _ in patches])
    labels = np.stack([label for _, label in patches])
    prefix = f"readfn_{mode}_"
    np.testing.assert_array_equal(labels.sum(axis=(1, 2, 3)), golden[prefix + "label_sums"])
    np.testing.assert_array_equal(labels[[0, 10]], golden[prefix + "labels_0_10"])
    corners = images[:, :, ::127, ::127, 0].reshape(40, 12)
    np.testing.assert_allclose(corners, golden[prefix + "corner_values"], atol=1e-5)
    found = [(patch.mean(dtype=float), patch.std(dtype=float)) for patch in images]
    np.testing.assert_allclose(found, golden[prefix + "meanstd"], atol=1e-5)


def test_a_volume_without_brain_gives_background_patches_only():
    """[F9] The original went on to index what was not there."""
    image, label = np.zeros((3, 8, 9, 1), np.float32), np.zeros((3, 8, 9), np.uint8)
    config = replace(CODE, patch_shape=(3, 8, 8))
    patches = list(
        read_examples([(image, label)], config, random=np.random.RandomState(1), augment=False)
    )
    assert len(patches) == 10


@pytest.mark.parametrize("k", range(2))
def test_whole_volumes_are_the_originals(golden, golden_cases, k):
    image, label = golden_cases[k]
    assert image.shape == tuple(golden[f"readfn_full{k}_shape"])
    assert image.dtype == np.float32
    np.testing.assert_allclose(
        image[1, 60, :, 0], golden[f"readfn_full{k}_slice1_row60"], atol=1e-5
    )
    assert label.sum() == golden[f"readfn_full{k}_label_sum"]


def test_label_ids_are_the_originals(golden):
    np.testing.assert_array_equal(
        join_labels(golden["labelmap_in"], (0, 2)), golden["labelmap_out"]
    )


@pytest.mark.parametrize("case", ["int16", "uint8", "f64", "const"])
def test_whitening_is_the_originals(golden, case):
    from common.data.normalisation import whiten

    whitened = whiten(golden[f"white_{case}_in"])
    assert whitened.dtype == np.float32
    np.testing.assert_allclose(whitened, golden[f"white_{case}_out"], atol=1e-5)
