"""What training reads: values, order, distortion, and the start at any step."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from raseg.binaries import find_binaries
from raseg.config import CODE, PORT
from raseg.data import normalise, prepare_volume
from raseg.prepare import prepare
from raseg.sampling import (
    choose_record,
    distort,
    draw_transform,
    make_dataset,
    normalise_in_graph,
    stateless_seed,
)


@pytest.fixture
def binaries(golden, tmp_path):
    """Return a function that writes the recorded arrays as binaries and finds them."""

    def make(case, config=CODE):
        recorded = golden("datasets_tiny")
        np.save(tmp_path / "images_and_labels.npy", recorded[f"{case}/images_and_labels"])
        np.save(tmp_path / "pre_images.npy", recorded[f"{case}/pre_images"])
        val = int(recorded[f"{case}/val"])
        prepare("t", val, config=config, data=tmp_path, data_dir=tmp_path / "bins")
        return find_binaries(tmp_path / "bins", "t", config)

    return make


def read_in_order(found, config):
    """Every record once, by its number: the dataset's order undone."""
    count = len(found.training)
    dataset = make_dataset(found, config, 1, first_step=0, last_step=count)
    files = sorted({record.path for record in found.training})
    file_of = tf.constant([files.index(record.path) for record in found.training], tf.int32)
    batches = {}
    for index, (image, label) in enumerate(dataset):
        number = int(choose_record(tf.constant(index, tf.int64), file_of, config, 1))
        batches[number] = (image[0].numpy(), label[0].numpy())
    assert sorted(batches) == list(range(count))
    return [batches[number] for number in range(count)]


@pytest.mark.parametrize("case", ["edge", "frac"])
def test_reader_equals_the_original(binaries, golden, case):
    """Signed words and the original's normalisation; TensorFlow 0.12.1 was run on the same."""
    recorded = golden("datasets_tiny")
    pairs = read_in_order(binaries(case), CODE)
    for number, (image, label) in enumerate(pairs):
        np.testing.assert_allclose(image, recorded[f"{case}/read_images"][number], atol=5e-6)
        np.testing.assert_array_equal(label, recorded[f"{case}/read_labels"][number])


@pytest.mark.parametrize(
    "case", ["plain", "wrapped_int16", "nearly_constant", "constant_channel", "large_offset"]
)
def test_normalisation(golden, case):
    """In float64, in numpy and in the graph alike; the original's own is NaN in the last two."""
    recorded = golden("tables")
    image, expected = recorded[f"norm/{case}/int16"], recorded[f"norm/{case}/predict_f64"]
    np.testing.assert_allclose(normalise(image), expected, atol=1e-6, rtol=1e-6)
    in_graph = normalise_in_graph(tf.constant(image.astype(np.float32))).numpy()
    np.testing.assert_allclose(in_graph, expected, atol=1e-6, rtol=1e-6)
    if case in ("constant_channel", "large_offset"):
        assert np.isnan(recorded[f"norm/{case}/train_tf012"]).any()
    else:
        np.testing.assert_allclose(in_graph, recorded[f"norm/{case}/train_tf012"], atol=2e-6)


def test_statistics_of_a_large_volume(recipe):
    """Float32 sums over a million voxels are off in the third digit; ours are not."""
    image = recipe.make_volume((256, 256, 20), 5)[0].astype(np.float32) + 2000
    found = normalise_in_graph(tf.constant(image)).numpy()
    assert np.abs(found.mean(axis=(0, 1, 2), dtype=np.float64)).max() < 1e-6
    assert np.abs(found.std(axis=(0, 1, 2), dtype=np.float64) - 1).max() < 1e-6
    np.testing.assert_allclose(found, normalise(image), atol=1e-6)


def test_prediction_reads_as_training_does():
    """The port truncates at prediction what its binaries truncate; the original does not."""
    image = np.random.default_rng(0).uniform(0, 900, (5, 4, 3, 2))
    stored = prepare_volume(image, PORT, name="x")
    np.testing.assert_array_equal(stored, normalise(np.trunc(image)))
    np.testing.assert_array_equal(prepare_volume(image, CODE, name="x"), normalise(image))


def test_large_intensities_survive_into_the_network():
    image = np.full((4, 4, 4, 2), 40_000.0)
    image[0] = 20_000
    assert prepare_volume(image, PORT, name="x")[0].max() < 0
    signed = replace(PORT, read_as_signed=True)
    assert prepare_volume(image, signed, name="x")[0].max() > 0


@pytest.mark.parametrize("shuffle", ["files", "records"])
def test_order(shuffle):
    """Every record once per pass, another order each pass; files as blocks in the original's."""
    file_of = tf.constant([0, 0, 0, 1, 1, 2, 2, 2, 2], tf.int32)
    config = replace(PORT, shuffle=shuffle)
    orders = [
        [int(choose_record(tf.constant(9 * epoch + k, tf.int64), file_of, config, 3))
         for k in range(9)]
        for epoch in range(4)
    ]  # fmt: skip
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    blocks = [[0, 1, 2], [3, 4], [5, 6, 7, 8]]
    for order in orders if shuffle == "files" else []:
        rest = order
        while rest:
            block = next(b for b in blocks if b[0] == rest[0])
            assert rest[: len(block)] == block
            rest = rest[len(block) :]


def test_begins_at_any_step(binaries):
    """Batches from step 3 on are those of a run from the start; augmentation included."""
    config = replace(PORT, batch_size=2, validation_volumes=0, wrap_intensities=True)
    found = binaries("frac", config)
    whole = list(make_dataset(found, config, 5, first_step=0, last_step=9))
    rest = list(make_dataset(found, config, 5, first_step=3, last_step=9))
    assert len(rest) == 6
    for (image, label), (other, mask) in zip(rest, whole[3:], strict=True):
        np.testing.assert_array_equal(image, other)
        np.testing.assert_array_equal(label, mask)


def test_distortion_moves_both_channels_and_the_label_alike():
    """A block of the label is where the block of either channel is, after any distortion."""
    image = np.zeros((64, 48, 3, 2), np.float32)
    image[20:40, 8:20] = 100
    label = (image[..., 0] > 0).astype(np.int32)
    moved_any = 0
    for number in range(8):
        key = stateless_seed(1, 1, number)
        moved, mask = distort(tf.constant(image), tf.constant(label), PORT, key)
        for channel in (0, 1):
            np.testing.assert_allclose(moved[..., channel], moved[..., 0])
        inside = moved.numpy()[..., 0] > 50
        assert set(np.unique(mask)) == {0, 1}
        assert (inside != mask.numpy()).mean() < 0.01
        assert abs(mask.numpy().sum() / label.sum() - 1) < 0.25
        moved_any += int((mask.numpy() != label).sum() > 50)
    assert moved_any >= 7


def test_distortion_of_nothing_is_nothing():
    config = replace(PORT, point_noise_px=0.0, rotation_degrees=0.0, mirror=False)
    image = np.random.default_rng(0).normal(size=(9, 7, 3, 2)).astype(np.float32)
    label = (image[..., 0] > 0).astype(np.int32)
    moved, mask = distort(tf.constant(image), tf.constant(label), config, stateless_seed(0, 1, 2))
    np.testing.assert_allclose(moved, image, atol=1e-5)
    np.testing.assert_array_equal(mask, label)


def test_mirror_and_rotation():
    """A pure mirror swaps columns; a rotation keeps the centre in place."""
    config = replace(PORT, point_noise_px=0.0, rotation_degrees=0.0)
    found = {tuple(np.round(draw_transform(10, 6, config, stateless_seed(0, 1, n)).numpy(), 4))
             for n in range(20)}  # fmt: skip
    assert found == {(1, 0, 0, 0, 1, 0, 0, 0), (-1, 0, 5, 0, 1, 0, 0, 0)}
    turned = replace(config, rotation_degrees=30.0, mirror=False)
    a0, a1, a2, b0, b1, b2, *_ = draw_transform(10, 6, turned, stateless_seed(0, 1, 3)).numpy()
    assert a0 * 2.5 + a1 * 4.5 + a2 == pytest.approx(2.5, abs=1e-4)
    assert b0 * 2.5 + b1 * 4.5 + b2 == pytest.approx(4.5, abs=1e-4)
    assert a0 * b1 - a1 * b0 == pytest.approx(1, abs=1e-5)


def test_code_never_distorts(binaries):
    """Two passes of the code see the same volumes; those of the port differ [R3]."""
    found = binaries("frac")
    count = len(found.training)

    def sums(config):
        dataset = make_dataset(found, config, 0, first_step=0, last_step=2 * count)
        totals = [float(tf.reduce_sum(tf.abs(image))) for image, _ in dataset]
        return sorted(totals[:count]), sorted(totals[count:])

    first, second = sums(CODE)
    assert first == second
    first, second = sums(replace(CODE, augment=True))
    assert first != second


def test_no_python_per_example(binaries):
    """The whole way from file to batch is graph: it can be serialised, which Python cannot."""
    dataset = make_dataset(binaries("frac"), PORT, 0, first_step=0, last_step=2)
    graph = dataset._as_serialized_graph().numpy()
    assert b"PyFunc" not in graph
    assert b"FixedLengthRecordDataset" in graph
