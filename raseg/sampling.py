"""From binaries to batches, all of it TensorFlow graph: no Python is called per example.

Axis order (row, column, slice, channel). Example k of a run belongs to pass k // records; its place
in the order and its distortion depend on (seed, k) alone, so that a run may begin at any step.
"""

import tensorflow as tf

from common.data.batches import number_examples
from raseg.binaries import Binaries, Layout
from raseg.config import Config

ORDER, DISTORTION = range(2)
"""Keys of the random streams, so that no two decisions share their draws."""
ARM_PX = 25.0
"""Distance of the points that define the affine map (raseg_input.py, `distort_image`)."""


def make_dataset(
    binaries: Binaries, config: Config, seed: int, *, first_step: int, last_step: int
) -> tf.data.Dataset:
    """Read, decode, distort, normalise and batch records.

    Args:
        binaries: of `find_binaries`; the training records are read.
        config: uses batch_size, shuffle, read_as_signed and the augmentation.
        seed: of order and distortions.
        first_step: step of the first batch, from 0.
        last_step: step after the last batch.
    Returns:
        Dataset of images (batch, rows, columns, slices, channels) float32 and labels (batch, rows,
        columns, slices) int32.
    Raises:
        OSError: a binary is gone since `find_binaries` found it.
    Source: raseg_input.py:184-234.
    """
    layout, size, records = binaries.layout, binaries.layout.record_bytes, binaries.training
    paths = tf.constant([str(record.path) for record in records])
    offsets = tf.constant([record.number * size for record in records], tf.int64)
    after = tf.constant(
        [record.path.stat().st_size - (record.number + 1) * size for record in records], tf.int64
    )
    files = sorted({record.path for record in records})
    file_of = tf.constant([files.index(record.path) for record in records], tf.int32)

    def read(index):
        chosen = choose_record(index, file_of, config, seed)
        record = tf.data.FixedLengthRecordDataset(
            paths[chosen], size, header_bytes=offsets[chosen], footer_bytes=after[chosen]
        )
        return record.map(lambda words: (index, words))

    def make_example(index, words):
        image, label = decode(words, layout, signed=config.read_as_signed)
        if config.augment:  # [R3]
            image, label = distort(image, label, config, stateless_seed(seed, DISTORTION, index))
        return normalise_in_graph(image), label

    options = tf.data.Options()
    options.deterministic = True
    options.threading.private_threadpool_size = 2
    options.autotune.enabled = False
    numbers, batch = number_examples(config.batch_size, first_step, last_step)
    dataset = numbers.flat_map(read)
    dataset = dataset.map(make_example, num_parallel_calls=2, deterministic=True)
    dataset = dataset.batch(batch, drop_remainder=True).prefetch(1)
    return dataset.with_options(options)


def choose_record(index, file_of, config: Config, seed: int):
    """Return the number of the record that is example `index` of a run [R17]."""
    count = file_of.shape[0]
    epoch, position = index // count, index % count
    key = stateless_seed(seed, ORDER, epoch)
    if config.shuffle == "records":
        order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=key)
    else:  # files in random order, their records as they lie
        files = tf.range(tf.reduce_max(file_of) + 1)
        rank = tf.random.experimental.stateless_shuffle(files, seed=key)
        order = tf.argsort(tf.gather(rank, file_of), stable=True)
    return order[position]


def stateless_seed(seed: int, stream: int, number):
    """Return the seed of one decision: two 32-bit words from the run's seed, stream and number."""
    key = tf.stack([tf.constant(seed, tf.int64), tf.cast(number, tf.int64)])
    return tf.random.experimental.stateless_fold_in(key, stream)


def decode(words, layout: Layout, *, signed: bool):
    """Turn a record's bytes into image and label as `read_record`. Source: raseg_input.py:52-61."""
    numbers = tf.io.decode_raw(words, tf.int16 if signed else tf.uint16, little_endian=True)
    label = tf.reshape(numbers[: layout.label_words], layout.shape)
    image = tf.reshape(numbers[layout.label_words :], (*layout.shape, layout.channels))
    return tf.cast(image, tf.float32), tf.cast(label, tf.int32)


def normalise_in_graph(image):
    """Do as `raseg.data.normalise`, statistics in float64 [R5]. Source: raseg_input.py:184-234."""
    values = tf.cast(image, tf.float64)
    values -= tf.reduce_mean(values, axis=(0, 1, 2))
    deviation = tf.sqrt(tf.reduce_mean(tf.square(values), axis=(0, 1, 2)))
    voxels = tf.cast(tf.reduce_prod(tf.shape(image)[:3]), tf.float64)
    return tf.cast(values / tf.maximum(deviation, tf.math.rsqrt(voxels)), tf.float32)


def distort(image, label, config: Config, key):
    """Rotate, stretch and mirror a volume in plane, all slices and both channels alike.

    The image (rows, columns, slices, channels) float32 is resampled linearly, zero outside, the
    label (rows, columns, slices) int32 by nearest voxel. The key is of `stateless_seed`.

    Source: raseg_input.py, `distort_image`, which never runs [R3], moves channel 0 alone and cuts
        labels below 1 off [R23].
    """
    rows, columns, slices, channels = image.shape
    transform = draw_transform(rows, columns, config, key)
    # [R23] Both channels and every slice move alike; the label keeps its values.
    layers = tf.reshape(image, (rows, columns, slices * channels))
    moved = warp(layers, transform, "BILINEAR")
    mask = warp(tf.cast(label, tf.float32), transform, "NEAREST")
    return tf.reshape(moved, image.shape), tf.cast(mask, tf.int32)


def draw_transform(rows: int, columns: int, config: Config, key):
    """Return eight numbers that send a result's pixel (x, y) to the source's."""
    noise = tf.random.stateless_normal((3, 2), key) * config.point_noise_px
    other = tf.random.experimental.stateless_fold_in(key, 7)
    turn, side = tf.unstack(tf.random.stateless_uniform((2,), other))
    angle = (2 * turn - 1) * (config.rotation_degrees * 3.14159265 / 180)
    flip = tf.where(side < 0.5, -1.0, 1.0) if config.mirror else 1.0
    # Columns of the map are where its two arms of 25 pixels end, relative to the centre.
    along_x = tf.constant([1.0, 0.0]) + (noise[1] - noise[0]) / ARM_PX
    along_y = tf.constant([0.0, 1.0]) + (noise[2] - noise[0]) / ARM_PX
    cosine, sine = tf.cos(angle), tf.sin(angle)
    first = (cosine * along_x + sine * along_y) * flip
    second = -sine * along_x + cosine * along_y
    centre = tf.constant([(columns - 1) / 2, (rows - 1) / 2], tf.float32)
    shift = centre + noise[0] - first * centre[0] - second * centre[1]
    return tf.stack([first[0], second[0], shift[0], first[1], second[1], shift[1], 0.0, 0.0])


def warp(layers, transform, interpolation: str):
    """Resample (rows, columns, layers) float32 at the places a transform names, zero outside."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=layers[None],
        transforms=transform[None],
        output_shape=layers.shape[:2],
        fill_value=0.0,
        interpolation=interpolation,
        fill_mode="CONSTANT",
    )[0]
