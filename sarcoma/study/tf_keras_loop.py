"""The original's loop on tf-keras: patches in memory, ImageDataGenerator, `fit`.

Source: train.py and models/model.py of jchen42703/segmenting-sts.
"""

from pathlib import Path

import numpy as np
import tf_keras
from tf_keras import backend, layers

from common.cost.turns import Contender
from common.study.contenders import predict, share_weights, train_in_keras
from sarcoma.config import CODE, PATCH
from sarcoma.study.bench import PATCHES, STEPS, average_windows, draw_patches, draw_volume


def train(sizes, folder: Path) -> Contender:
    """Train as train.py does."""
    model = build()
    share_weights(model, folder)
    model.compile(tf_keras.optimizers.Adam(CODE.learning_rate), dice_loss)
    generator = tf_keras.preprocessing.image.ImageDataGenerator(
        horizontal_flip=True, vertical_flip=True
    )
    batches = generator.flow(*draw_patches(PATCHES), batch_size=CODE.batch_size)
    fixed = train_in_keras(model, *draw_patches(CODE.batch_size))

    def prove() -> list[np.ndarray]:
        found = fixed.prove()
        model.fit(batches, steps_per_epoch=2, verbose=0)  # compiles another function
        return found

    return Contender(prove, lambda: model.fit(batches, steps_per_epoch=STEPS, verbose=0), STEPS)


def segment_volume(sizes, folder: Path) -> Contender:
    """Segment a volume in our windows, which the original does not go beyond patches for."""
    model = build()
    share_weights(model, folder)
    image = draw_volume(sizes)

    return predict(lambda: average_windows(model.predict_on_batch, image))


def dice_loss(true, found):
    """Return minus the overlap of the whole batch."""
    overlap = backend.sum(backend.flatten(true) * backend.flatten(found))
    return -(2 * overlap + 1) / (backend.sum(true) + backend.sum(found) + 1)


def build() -> tf_keras.Model:
    """Build the released U-Net."""

    def convolve(x, filters, times):
        for _ in range(times):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        return x

    image = x = layers.Input((PATCH, PATCH, 1))
    skips = []
    for filters in CODE.filters[:-1]:
        x = convolve(x, filters, 2)
        skips.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = convolve(x, CODE.filters[-1], 4)
    for filters, skip in zip(CODE.filters[-2:0:-1], skips[:0:-1], strict=True):
        x = layers.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = convolve(layers.Concatenate()([x, skip]), filters, 2)
    x = layers.Conv2D(CODE.filters[0], 1, activation="relu")(x)
    return tf_keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))
