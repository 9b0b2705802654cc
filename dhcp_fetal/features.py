"""Feature maps of a scan, for looking into a network: the engine's saveIndividualFms.

A map is a convolution's output before a residual sum, its centre as large as the network's output;
those of low-resolution pathways are repeated. Arrays are (x, y, z, maps).
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from common.inference.compiled import on_arrays
from dhcp_fetal import geometry
from dhcp_fetal.config import Config
from dhcp_fetal.data import Case, prepare_case
from dhcp_fetal.inference import input_specs, predict_whole_tiles
from dhcp_fetal.outputs import write_result
from dhcp_fetal.session import Range
from dhcp_fetal.tiles import normalise_as_engine
from dhcp_fetal.tiles_in_graph import pad

Ranges = tuple[tuple[Range | None, ...], ...]


def choose_maps(config: Config, ranges: Ranges) -> list[tuple[str, int, int, Range]]:
    """Return layer name, pathway and layer number from 0, and range of every layer asked for."""
    contexts = [(f"context_{n}", ranges[1]) for n in range(1, len(config.context_factors) + 1)]
    pathways = [("normal", ranges[0]), *contexts, ("fc", ranges[2])]
    return [
        (f"{name}_{layer + 1}_conv", number, layer, chosen)
        for number, (name, layers) in enumerate(pathways)
        for layer, chosen in enumerate(layers)
        if chosen is not None
    ]


def write_features(
    model: keras.Model, case: Case, config: Config, ranges: Ranges, out: Path
) -> list[Path]:
    """Write <name>_pathway<p>_layer<l>_fm<k>.nii.gz for every map asked for; see `choose_maps`.

    Source: testing.py and featureMaps of DeepMedic; specification 7.4.
    """
    maps = choose_maps(config, ranges)
    if not maps:
        return []
    probe = keras.Model(model.inputs, [model.get_layer(name).output for name, *_ in maps])
    size = geometry.output_size(config, config.inference_segment)
    factors = ((1, 1, 1), *config.context_factors, (1, 1, 1))

    def apply(batch: list[tf.Tensor]) -> tf.Tensor:
        found = probe(batch if len(batch) > 1 else batch[0], training=False)
        return tf.concat([
            centre_part(tensor, size, factors[pathway])[..., first:last]
            for tensor, (_, pathway, _, (first, last)) in zip(found, maps, strict=True)
        ], axis=-1)  # fmt: skip

    names = [
        f"{case.name}_pathway{pathway}_layer{layer}_fm{number}.nii.gz"
        for name, pathway, layer, (first, last) in maps
        for number in range(first, min(last, model.get_layer(name).filters))
    ]

    def run(image: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
        padded = pad(image, config)
        found = predict_whole_tiles(apply, padded, image, wanted, config, channels=len(names))
        return tf.where(wanted[..., tf.newaxis], found, 0.0)

    image = normalise_as_engine(prepare_case(case, config), config, mask=case.mask)
    wanted = np.ones(image.shape[:3], bool) if case.mask is None else case.mask != 0
    image_spec, mask_spec = input_specs(config)
    wanted_spec = tf.TensorSpec(mask_spec.shape, tf.bool)
    volume = on_arrays(run, image_spec, wanted_spec)(image, wanted)
    out.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        write_result(out / name, volume[..., number], case.scan, config)
    return [out / name for name in names]


def centre_part(features: tf.Tensor, size: Sequence[int], factor: Sequence[int]) -> tf.Tensor:
    """Return the middle of a layer's output (batch, x, y, z, maps) at full resolution.

    `size` is that of the network's output, `factor` the repetitions of each voxel.
    """
    for axis, (length, times) in enumerate(zip(size, factor, strict=True), start=1):
        needed = -(-length // times)
        start = (tf.shape(features)[axis] - 1) // 2 - (needed - 1) // 2
        features = tf.gather(features, start + tf.range(length) // times, axis=axis)
    return features
