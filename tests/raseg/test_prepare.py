"""The binaries byte for byte, the arrays' checks, the split, and the index."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from common.errors import DataError, OptionError
from raseg.binaries import (
    Layout,
    find_binaries,
    index_path,
    read_record,
    split_into_bins,
    training_path,
    validation_path,
)
from raseg.config import CODE, DRAFT, PORT
from raseg.data import open_volumes, split_volumes
from raseg.inspection import inspect_arrays
from raseg.prepare import prepare


@pytest.fixture
def arrays(tmp_path):
    """Return a function that writes the two arrays and gives their folder."""

    def write(pairs, pre=None, folder="datasets"):
        target = tmp_path / folder
        target.mkdir(exist_ok=True)
        np.save(target / "images_and_labels.npy", pairs)
        if pre is not None:
            np.save(target / "pre_images.npy", pre)
        return target

    return write


def random_volumes(count=8, shape=(6, 5, 4), seed=0):
    """Plausible arrays: intensities up to 60 000, labels 0 and 1."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 60_000, (count, 2, *shape))
    pairs[:, 1] = rng.random((count, *shape)) < 0.2
    return pairs, rng.integers(0, 60_000, (count, *shape))


def run(folder, tmp_path, *, val=2, config=CODE, tag="t"):
    prepare(tag, val, config=config, data=folder, data_dir=tmp_path / "bins")
    return tmp_path / "bins"


@pytest.mark.parametrize("case", ["edge", "frac", "few"])
def test_bytes_equal_the_original(golden, arrays, tmp_path, case):
    """Negative, fractional and too large numbers, and fewer volumes than files [R13]."""
    recorded = golden("datasets_tiny")
    folder = arrays(recorded[f"{case}/images_and_labels"], recorded[f"{case}/pre_images"])
    bins = run(folder, tmp_path, val=int(recorded[f"{case}/val"]))
    for number in range(1, 6):
        found = training_path(bins, "t", number).read_bytes()
        assert found == recorded[f"{case}/bin_{number}"].tobytes(), number
    assert not validation_path(bins, "t").exists()


def test_counts_of_the_original():
    assert split_into_bins(51) == [10, 10, 10, 10, 11]
    assert split_into_bins(47) == [9, 9, 9, 9, 11]
    assert split_into_bins(3) == [0, 0, 0, 0, 3]
    assert Layout((512, 512, 20), 2).record_bytes == 31_457_280
    assert Layout((512, 512, 20), 1).record_bytes == 20_971_520
    assert Layout((128, 128, 16), 2).record_bytes == 1_572_864


def test_validation_binary(arrays, tmp_path):
    """The port writes the volumes before the held-out ones to a file of their own."""
    pairs, pre = random_volumes(10)
    bins = run(arrays(pairs, pre), tmp_path, val=2, config=PORT)
    found = find_binaries(bins, "t", PORT)
    assert (len(found.training), len(found.validation)) == (5, 3)
    image, label = read_record(found.validation[0], found.layout, signed=False)
    np.testing.assert_array_equal(image[..., 0], pairs[5, 0])
    np.testing.assert_array_equal(image[..., 1], pre[5])
    np.testing.assert_array_equal(label, pairs[5, 1])
    assert found.index["split"] == {
        "training": [0, 1, 2, 3, 4],
        "validation": [5, 6, 7],
        "test": [8, 9],
    }
    run(tmp_path / "datasets", tmp_path, val=2, config=CODE)  # the code's way removes it again
    assert not find_binaries(bins, "t", CODE).validation


def test_large_intensities_survive(arrays, tmp_path):
    """40000 is read as 40000 in the port and as -25536 in the original."""
    pairs, pre = random_volumes(3)
    pairs[0, 0, 0, 0, 0] = 40_000
    bins = run(arrays(pairs, pre), tmp_path, val=1)
    record = find_binaries(bins, "t", CODE).training[0]
    layout = Layout((6, 5, 4), 2)
    assert read_record(record, layout, signed=False)[0][0, 0, 0, 0] == 40_000
    assert read_record(record, layout, signed=True)[0][0, 0, 0, 0] == 40_000 - 65_536


def test_warning_of_negative_intensities(arrays, tmp_path, capsys):
    pairs, pre = random_volumes(3)
    run(arrays(pairs, pre), tmp_path, val=1)
    assert "above 32767 will be read as negative" in capsys.readouterr().err


@pytest.mark.parametrize("change", [lambda a: a / 65535, lambda a: (a - a.min()) / a.std() * 4])
@pytest.mark.parametrize("wrap", [False, True])
def test_intensities_in_small_units_are_refused(tmp_path, arrays, change, wrap):
    """Stored as whole numbers, volumes from 0 to 1 were all zero."""
    pairs, pre = (array.astype(np.float64) for array in random_volumes(3))
    pairs[:, 0], pre = change(pairs[:, 0]), change(pre)
    folder, config = arrays(pairs, pre), replace(PORT, validation_volumes=0, wrap_intensities=wrap)
    with pytest.raises(DataError, match=r"volume 0: values of 0.* % of their deviation as whole"):
        run(folder, tmp_path, val=1, config=config)
    (fault,) = inspect_arrays(folder, config, tmp_path).entries[0].faults
    assert "of their deviation as whole numbers" in fault


def test_settings_of_prepare_are_those_of_train(arrays, tmp_path):
    """Binaries of one preset were trained on with another without a word."""
    bins = run(arrays(*random_volumes(3)), tmp_path, val=1)
    assert len(find_binaries(bins, "t", CODE).training) == 2
    with pytest.raises(DataError, match=r"with --validation_volumes 0; found 5, expected the pr"):
        find_binaries(bins, "t", replace(CODE, validation_volumes=5))
    with pytest.raises(DataError, match=r"with --wrap_intensities true; found false"):
        find_binaries(bins, "t", replace(CODE, wrap_intensities=False))


@pytest.mark.parametrize(("value", "shown"), [(-3, "-3"), (70_000, "70000")])
def test_port_refuses_what_does_not_fit(arrays, tmp_path, value, shown):
    pairs, pre = random_volumes(5)
    pre[2, 1, 1, 1] = value
    config = replace(PORT, validation_volumes=0)
    with pytest.raises(DataError, match=f"volume 2: found the value {shown}, which 16 bits cannot"):
        run(arrays(pairs, pre), tmp_path, config=config)
    assert not list((tmp_path / "bins").iterdir())


def test_nan_is_refused(arrays, tmp_path):
    pairs, pre = (array.astype(float) for array in random_volumes(5))
    pairs[1, 0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="volume 1: found NaN or infinite"):
        run(arrays(pairs, pre), tmp_path)
    assert not list((tmp_path / "bins").iterdir())


def test_strange_label_is_refused(arrays, tmp_path):
    pairs, pre = random_volumes(5)
    pairs[0, 1, 0, 0, 0] = 255
    with pytest.raises(DataError, match="volume 0: found the label 255; expected 0 and 1"):
        run(arrays(pairs, pre), tmp_path)


def test_arrays_that_do_not_fit(arrays, tmp_path):
    pairs, pre = random_volumes(5)
    with pytest.raises(DataError, match=r"pre_images.npy holds 4 volumes, images_and_.* 5; expect"):
        run(arrays(pairs, pre[:4]), tmp_path)
    with pytest.raises(DataError, match=r"holds volumes of 6 x 5 x 3, .* of 6 x 5 x 4"):
        run(arrays(pairs, pre[..., :3]), tmp_path)
    with pytest.raises(DataError, match=r"found 4 axes \(5, 6, 5, 4\); expected 5"):
        run(arrays(pre, pre), tmp_path)
    with pytest.raises(DataError, match="found 3 entries on the second axis"):
        run(arrays(np.repeat(pairs[:, :1], 3, axis=1), pre), tmp_path)
    with pytest.raises(DataError, match=r"pre_images.npy does not exist"):
        run(arrays(pairs, folder="other"), tmp_path)
    with pytest.raises(DataError, match="real numbers"):
        run(arrays(pairs.astype(complex), pre), tmp_path)
    folder = arrays(pairs, pre)
    (folder / "pre_images.npy").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"no readable \.npy array"):
        run(tmp_path / "datasets", tmp_path)


def test_val_larger_than_the_set(arrays, tmp_path):
    with pytest.raises(OptionError, match="--val 9 leave -4 of 5 volumes to train with"):
        run(arrays(*random_volumes(5)), tmp_path, val=9)
    with pytest.raises(OptionError, match="--val -1"):
        run(tmp_path / "datasets", tmp_path, val=-1)
    assert not (tmp_path / "bins").exists()


def test_split_of_the_code():
    """61 volumes: the first held-out one is number 51, the README's example."""
    split = split_volumes(61, held_out=10)
    assert (len(split["training"]), split["test"][0]) == (51, 51)
    split = split_volumes(61, held_out=10, validation=3)
    assert (split["training"][-1], split["validation"], split["test"][0]) == (47, [48, 49, 50], 51)


def test_tag_without_binaries(tmp_path):
    message = "--tag no: found none of .*train_and_label_no_batch_1.bin ... .*batch_5.bin"
    with pytest.raises(DataError, match=message):
        find_binaries(tmp_path, "no", PORT)


@pytest.mark.parametrize("tag", ["", "a/b", ".x"])
def test_tag_that_is_no_word(arrays, tmp_path, tag):
    with pytest.raises(OptionError, match="--tag"):
        run(arrays(*random_volumes(5)), tmp_path, tag=tag)


def test_truncated_binary(arrays, tmp_path):
    bins = run(arrays(*random_volumes(12)), tmp_path)
    path = training_path(bins, "t", 3)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"batch_3.bin: record 2 is truncated: found 713 of 720"):
        find_binaries(bins, "t", CODE)
    path.write_bytes(path.read_bytes()[:720])
    with pytest.raises(DataError, match="found 9 training records of t; expected 10"):
        find_binaries(bins, "t", CODE)
    path.unlink()
    with pytest.raises(DataError, match=r"batch_3.bin is missing"):
        find_binaries(bins, "t", CODE)


def test_binaries_without_an_index_hold_volumes_of_the_original(arrays, tmp_path):
    """Files of the original: 512 x 512 x 20, so a smaller one is a truncated record."""
    bins = run(arrays(*random_volumes(7)), tmp_path)
    index_path(bins, "t").unlink()
    with pytest.raises(DataError, match=r"record 1 is truncated: found 720 of 31457280 bytes"):
        find_binaries(bins, "t", CODE)


def test_damaged_index(arrays, tmp_path):
    bins = run(arrays(*random_volumes(7)), tmp_path)
    index_path(bins, "t").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        find_binaries(bins, "t", CODE)


def test_other_task_is_refused(arrays, tmp_path):
    bins = run(arrays(*random_volumes(7)), tmp_path)
    with pytest.raises(DataError, match="was written for --task synovitis"):
        find_binaries(bins, "t", replace(CODE, task="bme"))


def test_bone_marrow_oedema(tmp_path):
    """One T2 channel, from an array of its own."""
    pairs, _ = random_volumes(7)
    np.save(tmp_path / "t2imgs_and_prereg_labels.npy", pairs)
    config = replace(CODE, task="bme")
    bins = run(tmp_path, tmp_path, config=config)
    found = find_binaries(bins, "t", config)
    assert found.layout.record_bytes == 2 * 2 * 120
    image, label = read_record(found.training[3], found.layout, signed=False)
    np.testing.assert_array_equal(image[..., 0], pairs[3, 0])
    np.testing.assert_array_equal(label, pairs[3, 1])
    assert open_volumes(tmp_path, config).pre is None


def test_draft_writes_patches(arrays, tmp_path):
    """Half of the patches have a foreground voxel in their middle."""
    config = replace(DRAFT, patch_shape=(4, 4, 2), patches_per_volume=200)
    bins = run(arrays(*random_volumes(4, (12, 10, 6))), tmp_path, config=config)
    found = find_binaries(bins, "t", config)
    assert len(found.training) == 400
    assert found.layout.shape == (4, 4, 2)
    middles = [read_record(record, found.layout, signed=False)[1][2, 2, 1]
               for record in found.training]  # fmt: skip
    assert 0.42 < np.mean(middles) < 0.58


def test_same_bytes_again(arrays, tmp_path):
    """Nothing but the arrays, the options and the seed decides the patches."""
    folder = arrays(*random_volumes(4, (12, 10, 6)))
    config = replace(DRAFT, patch_shape=(4, 4, 2), patches_per_volume=20)
    sums = []
    for tag in ("a", "b"):
        bins = run(folder, tmp_path, config=config, tag=tag)
        data = b"".join(training_path(bins, tag, n).read_bytes() for n in range(1, 6))
        sums.append(hashlib.sha256(data).hexdigest())
    assert sums[0] == sums[1]


def test_one_volume_is_in_memory_at_a_time(arrays, tmp_path):
    """Twice the volumes take no more memory; the original reads both arrays whole."""
    import tracemalloc

    def peak(count):
        folder = arrays(*random_volumes(count, (64, 64, 20)), folder=f"n{count}")
        tracemalloc.start()
        run(folder, tmp_path, tag=f"n{count}")
        _, largest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return largest

    small = peak(6)
    assert peak(24) < 1.3 * small


def test_index_says_where_the_volumes_are(arrays, tmp_path):
    bins = run(arrays(*random_volumes(7)), tmp_path)
    index = json.loads(index_path(bins, "t").read_text())
    assert index["data"] == str(tmp_path / "datasets")
    assert index["records"] == {"training": 5, "validation": 0, "bins": [1, 1, 1, 1, 1]}
    assert index["phantom"] is False
