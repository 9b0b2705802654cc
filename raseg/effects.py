"""What each quirk of the released synovitis code does, measured on small phantoms."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from common.data.rng import rng_for
from common.study.effects import EffectProbe, MeasuredEffect, TrainedBench, describe_labels
from raseg.binaries import find_binaries
from raseg.binary_writer import write_binaries
from raseg.config import PORT, Config, count_steps, steps_per_epoch
from raseg.data import Volumes, prepare_volume, split_volumes
from raseg.inference import on_volumes, segment
from raseg.masks import to_mask
from raseg.model import DiceLoss, build_for_any_size, build_model, make_schedule
from raseg.phantom_wrist import make_wrist
from raseg.sampling import make_dataset

SHAPE = (48, 48, 12)
VOLUMES, HELD_OUT = 61, 10
"""Of the paper's data set."""
EXAMPLES = 51
"""Training volumes of the paper."""
BASE = replace(PORT, filters=(8, 12, 16), top_kernels=(3, 3), learning_rate=5e-3,
               rematerialise=False)  # fmt: skip
"""The port with a network that learns a phantom in seconds."""
STEPS = 120


class EffectBench(TrainedBench):
    """Phantoms and a network on which the quirks are measured."""

    seed, small = 3, BASE
    network_fields = ("task", "filters", "top_kernels", "batch_statistics")

    def fits(self, config: Config) -> bool:
        return config.patch_shape is None  # the phantoms are smaller than the draft's patches

    def adapt(self, config: Config | None) -> Config:
        small = super().adapt(config)
        return small if config is None else replace(
            small, learning_rate=PORT.learning_rate, rematerialise=PORT.rematerialise
        )  # fmt: skip

    @cached_property
    def volumes(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Seven phantoms: image (rows, columns, slices, channels) and label."""
        made = [make_wrist(SHAPE, rng_for(self.seed, n), self.base.task) for n in range(7)]
        return [(np.stack(images, axis=-1), label) for images, label in made]

    @cached_property
    def model(self) -> keras.Model:
        """The given network without a ReLU on its logits, or one trained on six phantoms."""
        if self.given is None:
            return super().model
        model = build_for_any_size(self.base)
        model.set_weights(self.given[0].get_weights())
        return model

    def train_model(self) -> keras.Model:
        model = build_for_any_size(self.base)
        model.compile(
            keras.optimizers.Adam(self.base.learning_rate), DiceLoss(self.base), jit_compile=False
        )
        prepared = [
            (prepare_volume(image, self.base, name="phantom"), label)
            for image, label in self.volumes[:6]
        ]
        for step in range(STEPS):
            image, label = prepared[step % len(prepared)]
            model.train_on_batch(image[None], label[None])
        return model

    @cached_property
    def logits(self) -> Callable[[np.ndarray], np.ndarray]:
        """The pass from a normalised volume to logits."""
        return on_volumes(segment, self.model, self.base)

    def probes(self) -> list[EffectProbe]:
        schedule = ("examples_per_epoch", "drops", "epochs", "max_steps")
        return [
            EffectProbe(("validation_volumes",), "R12", "split", self.split),
            EffectProbe(("wrap_intensities",), "R4", "binaries", self.bright),
            EffectProbe(("read_as_signed",), "R4", "preparation", self.stored),
            EffectProbe(("predict_from_stored",), "R6", "prediction", self.fractions),
            EffectProbe(("augment",), "R3", "examples", self.examples),
            EffectProbe(("shuffle",), "R17", "order", self.order),
            EffectProbe(("relu_logits",), "R2", "prediction", self.segment),
            EffectProbe(("relu_logits",), "R2", "fresh network", self.begin),
            *(EffectProbe((name,), "R20", "schedule", self.schedule) for name in schedule),
            EffectProbe(schedule, "R20", "schedule", self.schedule),
        ]

    def split(self, config: Config) -> MeasuredEffect:
        """Divide the paper's 61 volumes."""
        parts = split_volumes(VOLUMES, held_out=HELD_OUT, validation=config.validation_volumes)
        roles = [name for name, numbers in parts.items() for _ in numbers]
        return MeasuredEffect(roles, ", ".join(f"{len(n)} {name}" for name, n in parts.items()))

    def bright(self, config: Config) -> MeasuredEffect:
        """Store a volume whose brightest voxels 16 bits cannot hold."""
        image = self.volumes[6][0].astype(np.int64)
        stored = prepare_volume(
            image * 70_000 // image.max(), replace(config, predict_from_stored=True), name="volume"
        )
        return MeasuredEffect(stored, "stored; what is above 65535 became dark")

    def stored(self, config: Config) -> MeasuredEffect:
        """Prepare a volume whose intensities reach 50 000."""
        image = self.volumes[6][0].astype(np.int64)
        scaled = image * 50_000 // image.max()
        found = prepare_volume(scaled, config, name="volume")
        return describe_labels(to_mask(self.logits(found)), self.volumes[6][1])

    def fractions(self, config: Config) -> MeasuredEffect:
        """Predict a volume of fractional intensities of a few units."""
        image = self.volumes[6][0] / 40.0
        found = prepare_volume(image, config, name="volume")
        return describe_labels(to_mask(self.logits(found)), self.volumes[6][1])

    def segment(self, config: Config) -> MeasuredEffect:
        """Predict a volume that was not trained on."""
        image, label = self.volumes[6]
        logits = self.logits(prepare_volume(image, self.base, name="volume"))
        if config.relu_logits:
            logits = np.maximum(logits, 0)
        return describe_labels(to_mask(logits), label)

    def begin(self, config: Config) -> MeasuredEffect:
        """Look at the logits of fresh networks: what is clipped to zero twice has no gradient."""
        image = prepare_volume(self.volumes[6][0], self.base, name="volume")[None]
        dead = []
        for seed in range(4):
            keras.utils.set_random_seed(seed)
            model = build_model(replace(self.base, relu_logits=config.relu_logits), image.shape[1:])
            logits = np.asarray(model(image))
            dead.append(float((logits == 0).all(axis=-1).mean()))
        words = ", ".join(f"{share:.0%}" for share in dead)
        return MeasuredEffect(None, f"voxels without gradient in four fresh networks: {words}")

    def examples(self, config: Config) -> MeasuredEffect:
        """Read every training example once."""
        images = [images for images, _ in self._read(config, last_step=6)]
        words = (
            "distorted anew in each pass" if config.augment else "the same volumes in every pass"
        )
        return MeasuredEffect(np.concatenate(images), words)

    def order(self, config: Config) -> MeasuredEffect:
        """Note the order of the examples in the first two passes."""
        config = replace(config, augment=False)
        known = [float(prepare_volume(image, self.base, name="volume")[..., 0].std(axis=2).mean())
                 for image, _ in self.volumes[:6]]  # fmt: skip
        seen = [float(np.asarray(images)[0, ..., 0].std(axis=2).mean())
                for images, _ in self._read(config, last_step=12)]  # fmt: skip
        order = [int(np.argmin(np.abs(np.array(known) - value))) for value in seen]
        return MeasuredEffect(order, "volumes " + " ".join(map(str, order)))

    def _read(self, config: Config, *, last_step: int) -> list:
        """Write six phantoms as binaries and read the first batches of a run."""
        images, labels = map(np.stack, zip(*self.volumes[:6], strict=True))
        pairs = np.stack([images[..., 0], labels.astype(images.dtype)], axis=1)
        pre = images[..., 1] if images.shape[-1] == 2 else None
        volumes = Volumes(Path("phantoms"), pairs, pre, None)
        split = split_volumes(len(volumes), held_out=0)
        with tempfile.TemporaryDirectory() as folder:
            write_binaries(volumes, split, Path(folder), tag="effects", config=config, seed=0)
            binaries = find_binaries(Path(folder), "effects", config)
            dataset = make_dataset(binaries, config, self.seed, first_step=0, last_step=last_step)
            return [tuple(np.asarray(part) for part in batch) for batch in dataset]

    def schedule(self, config: Config) -> MeasuredEffect:
        """Follow the learning rate of a run on the paper's 51 volumes, pass by pass."""
        steps = count_steps(config, EXAMPLES)
        rate = make_schedule(replace(config, learning_rate=PORT.learning_rate), EXAMPLES)
        passes = np.arange(0, 1020, steps_per_epoch(config, EXAMPLES))
        rates = [float(rate(int(step))) for step in passes]
        last = float(rate(steps - 1))
        words = f"{steps} steps; rate {rates[-1]:.1e} in the 20th pass, {last:.1e} at the end"
        return MeasuredEffect(rates, words)
