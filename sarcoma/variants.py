"""The full-resolution U-Net of the original's branch `refactoring`, which no script there trains.

The notebook's U-Net of that branch needs no room of its own: it is `build_model` with
`label_geometry="pooled"` and `batch_normalisation=True`.
"""

import keras
from keras import layers

from sarcoma.model import Keras2Names, convolve


def build_full_unet2d(filters, input_shape, *, classes=2) -> keras.Model:
    """Build `Unet2d`: two convolutions per level, probabilities (b, rows, columns, 1 or classes).

    The branch's default filters are (64, 128, 256, 512, 1024). Two classes give one sigmoid
    channel, more give a softmax. Source: models/OOP_models.py at 71128be, `Unet2d`.
    """
    make = Keras2Names()
    image = x = keras.Input(input_shape, name="image")
    skips = []
    for channels in filters[:-1]:
        x = convolve(make, x, channels)
        skips.append(x)
        x = make(layers.MaxPooling2D, 2)(x)
    x = convolve(make, x, filters[-1])
    for channels, skip in zip(filters[-2::-1], skips[::-1], strict=True):
        x = make(layers.Conv2DTranspose, channels, 2, strides=2, padding="same")(x)
        x = convolve(make, make(layers.Concatenate)([x, skip]), channels)
    outputs, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    x = make(layers.Conv2D, outputs, 1, activation=activation, dtype="float32")(x)
    return keras.Model(image, x, name="full_unet2d")
