"""What each quirk of the released fetal system and its engine does, measured on small phantoms."""

import tempfile
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import keras
import nibabel
import numpy as np

from common.data.rng import rng_for
from common.data.volumes import read_geometry, read_volume
from common.study.effects import EffectProbe, MeasuredEffect, TrainedBench, describe_labels
from dhcp_fetal import geometry
from dhcp_fetal.config import QUICK, Config
from dhcp_fetal.data import normalise
from dhcp_fetal.inference import on_volumes
from dhcp_fetal.model import build_model
from dhcp_fetal.normalised_files import normalise_file
from dhcp_fetal.outputs import write_result
from dhcp_fetal.phantom_head import Head, make_head
from dhcp_fetal.schedules import momentum_at
from dhcp_fetal.tiles import box, cut_segment, pad_case

SHAPE, SPACING_MM = (44, 52, 44), 2.5
BASE = replace(
    QUICK,
    filters=(8, 8, 8, 8),
    context_filters=((6, 6, 6, 6),),
    fc_filters=(16,),
    fc_dropout=(0.0, 0.0),
    schedule="exponential",
    epochs=35,
)
"""The port with a network that learns a phantom in seconds, and the schedule that has the quirk."""
NETWORK_FIELDS = (
    "compat", "classes", "filters", "kernels", "padding", "residual_layers", "context_factors",
    "context_filters", "context_kernels", "context_padding", "context_residual_layers",
    "fc_filters", "fc_kernels", "fc_padding", "fc_residual_layers", "fc_dropout", "activation",
    "rolling_batches", "train_segment", "validation_segment", "inference_segment",
)  # fmt: skip
"""What a network of a run is rebuilt from; `compat` stays the port's only where it trained so."""
STEPS = 150
BATCH = 8


class EffectBench(TrainedBench):
    """Phantoms and a network on which the quirks are measured."""

    seed, small, network_fields = 6, BASE, NETWORK_FIELDS

    def fits(self, config: Config) -> bool:
        return config.input_channels == 1

    @cached_property
    def heads(self) -> list[Head]:
        """Two phantoms to train on, one to measure on."""
        return [make_head(rng_for(self.seed, number), age_weeks=26 + 3 * number, shape=SHAPE,
                          spacing_mm=SPACING_MM) for number in range(3)]  # fmt: skip

    def _image(self, head: Head, config: Config) -> np.ndarray:
        return normalise(head.image[..., None], config.normalisation, head.brain)

    def train_model(self) -> keras.Model:
        """Return a network after training to find the cortex of two phantoms."""
        model = build_model(self.base)
        model.compile(keras.optimizers.Adam(4e-3), "sparse_categorical_crossentropy",
                      jit_compile=False)  # fmt: skip
        pools = [self._samples(head, rng_for(self.seed, 7, n)) for n, head in
                 enumerate(self.heads[:2])]  # fmt: skip
        for step in range(STEPS):
            inputs, labels = pools[step % 2]
            chosen = rng_for(self.seed, 8, step).integers(len(labels), size=BATCH)
            model.train_on_batch([part[chosen] for part in inputs], labels[chosen])
        return model

    def _samples(self, head: Head, rng: np.random.Generator, count: int = 120):
        """Cut segments around voxels of the brain, with the labels of what is predicted of them."""
        segment = self.base.train_segment
        case = pad_case(self._image(head, self.base), self.base, segment=segment, mask=head.brain)
        size, low = geometry.output_size(self.base, segment), [pad[0] for pad in case.pads]
        inputs, labels = [], []
        centres = np.argwhere(head.brain)
        for centre in centres[rng.integers(len(centres), size=count)]:
            start = np.clip(centre - np.array(size) // 2, 0, np.array(SHAPE) - size)
            margin = (np.array(segment) - size) // 2
            inputs.append(cut_segment(case, start + low - margin, segment, self.base, sampled=True))
            labels.append(head.cortex[box(start, size)])
        return [np.stack(parts) for parts in zip(*inputs, strict=True)], np.stack(labels)

    def probes(self) -> list[EffectProbe]:
        """Return a probe for every switch of the preset `code`."""
        return [
            EffectProbe(("normalisation",), "G25", "preparation", self.preparation),
            EffectProbe(("normalise_to_float",), "G25", "preparation", self.stored),
            EffectProbe(("compat",), "D4", "inference", self.variance),
            EffectProbe(("compat",), "D5 G27", "training segments", self.contexts),
            EffectProbe(("momentum_overshoots",), "G12", "schedule", self.momentum),
            EffectProbe(("tiling",), "G5", "inference", self.segment),
            EffectProbe(("multiply_by_mask",), "G8", "inference", self.masked),
            EffectProbe(("model_name",), "D13", "files", self.names),
            EffectProbe(("copy_header",), "G24", "files", self.header),
        ]

    def preparation(self, config: Config) -> MeasuredEffect:
        """Normalise a scan whose surroundings are part of it."""
        head = self.heads[2]
        image = self._image(head, config)[..., 0]
        inside = image[head.brain > 0]
        words = f"the brain has mean {inside.mean():.2f}, deviation {inside.std():.2f}"
        return MeasuredEffect(image, words)

    def stored(self, config: Config) -> MeasuredEffect:
        """Normalise a file of whole numbers from 0 to 255."""
        image = self.heads[2].image
        whole = np.clip(255 * image / image.max(), 0, 255).astype(np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "in.nii.gz", Path(folder) / "out.nii.gz"
            nibabel.save(nibabel.Nifti1Image(whole, np.eye(4)), source)
            normalise_file(source, target, config)
            found = read_volume(target).array.T
            stored = nibabel.load(target).get_data_dtype()
        error = np.abs(found - (whole - whole.mean()) / whole.std()).max()
        words = f"stored as {stored}, off by up to {error:.1e}"
        return MeasuredEffect(np.asarray(found, np.float32), words)

    def variance(self, config: Config) -> MeasuredEffect:
        """Run a tile through a network of this version with the same weights."""
        model = build_model(config)
        model.set_weights(self.model.get_weights())
        inputs, _ = self._samples(self.heads[2], rng_for(3), count=4)
        found = model.predict_on_batch(inputs)[..., 1]
        moved = np.abs(found - self.model.predict_on_batch(inputs)[..., 1]).max()
        return MeasuredEffect(found > 0.5, f"probabilities move by up to {moved:.1e}")

    def contexts(self, config: Config) -> MeasuredEffect:
        """Cut a training segment's context at the far end of the scan."""
        image = self._image(self.heads[2], self.base)
        case = pad_case(image, config, segment=config.train_segment)
        corner = [size // 3 for size in SHAPE]
        context = cut_segment(case, corner, config.train_segment, config, sampled=True)[1]
        blank = float((context == case.border).all(axis=-1).mean())
        return MeasuredEffect(context, f"{blank:.0%} of the context are blank")

    def momentum(self, config: Config) -> MeasuredEffect:
        """Follow the momentum through training."""
        values = [momentum_at(config, epoch) for epoch in range(config.epochs)]
        return MeasuredEffect(values, f"begins at {values[0]:.2f} and ends at {values[-1]:.2f}")

    def segment(self, config: Config) -> MeasuredEffect:
        """Segment a phantom, and again with other tiles, on which the outcome should not depend."""
        head = self.heads[2]
        image = self._image(head, self.base)
        found = on_volumes(self.model, config)(image, head.brain).labels
        smaller = replace(config, inference_segment=tuple(n - 6 for n in config.inference_segment))
        again = on_volumes(self.model, smaller)(image, head.brain).labels
        outcome = describe_labels(found, head.cortex)
        moved = int((found != again).sum())
        return MeasuredEffect(found, f"{outcome.words}; {moved} change with other tiles")

    def masked(self, config: Config) -> MeasuredEffect:
        """Segment within a region whose file holds twos."""
        head = self.heads[2]
        image, mask = self._image(head, self.base), 2 * head.brain.astype(np.int16)
        found = on_volumes(self.model, config)(image, mask)
        labels, most = found.labels, found.probabilities.max()
        words = f"labels up to {labels.max()}, probabilities up to {most:.2f}"
        return MeasuredEffect(labels, words)

    def names(self, config: Config) -> MeasuredEffect:
        """Name a checkpoint."""
        return MeasuredEffect([config.model_name], f"checkpoints are called {config.model_name}...")

    def header(self, config: Config) -> MeasuredEffect:
        """Write a result in a scan's geometry."""
        scan = nibabel.Nifti1Image(self.heads[2].image, np.diag([-2.5, 2.5, 2.5, 1]))
        scan.header.set_xyzt_units("mm")
        scan.set_qform(scan.affine, code=1)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.nii.gz"
            nibabel.save(scan, path)
            write_result(path, self.heads[2].cortex, read_geometry(path)[1], config)
            header = nibabel.load(path).header
        units = str(header.get_xyzt_units()[0])
        qform, sform = int(header["qform_code"]), int(header["sform_code"])
        words = f"units {units}, qform code {qform}, sform code {sform}"
        return MeasuredEffect([units, qform, sform], words)
