"""What each quirk of the released fetal-brain code does, measured on small phantoms."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np

from common.data.rng import rng_for
from common.data.volumes import write_volume
from common.evaluation.overlap import dice
from common.network.losses import sparse_cross_entropy
from common.study.effects import (
    EffectProbe,
    MeasuredEffect,
    TrainedBench,
    describe_labels,
    scratch_folder,
)
from fetal_brain.config import PORT, Config
from fetal_brain.data import Case, LoadedCase, load_case, overlapping_ids, prepare_case, split_cases
from fetal_brain.inference import build_for_any_plane, on_volumes, segment_labels
from fetal_brain.labels import write_ids
from fetal_brain.model import build_model
from fetal_brain.phantom_stack import make_stack
from fetal_brain.sampling import TrainingSampler, count_classes, cut, draw_validation_batch
from fetal_brain.validation import measure_volumes

SHAPE = (8, 144, 144)
"""Of a phantom: the code's windows of 128 x 128 must slide over it."""
ROWS = 36
"""Of the authors' list."""
BASE = replace(
    PORT,
    filters=(8, 8, 16),
    kernels=(3, 3, 1),
    patch_shape=(3, 64, 64),
    offset_sigma=0.1,
    batch_size=4,
    learning_rate=0.05,
    steps_per_evaluation=30,
)
"""The port with a network that learns a phantom in seconds."""
NETWORK_FIELDS = ("filters", "kernels", "patch_shape", "batch_normalisation", "batch_size",
                  "offset_sigma")  # fmt: skip
"""What a network of a run was built and trained with."""
STEPS = 400
LOOKS = 5


class EffectBench(TrainedBench):
    """Phantoms and a network on which the quirks are measured."""

    seed, small, network_fields = 7, BASE, NETWORK_FIELDS

    def fits(self, config: Config) -> bool:
        """Return whether a network has two classes, slices on an axis and patches small enough."""
        edges = zip(config.patch_shape, (6, 136, 136), strict=True)
        patch_fits = all(edge <= size for edge, size in edges)
        return len(config.label_ids) == 2 and not config.slices_as_channels and patch_fits

    @cached_property
    def cases(self) -> list[SimpleNamespace]:
        """Prepared phantoms: three to train on, one to look at, one to measure on."""
        return [self._prepare(number) for number in range(5)]

    def _prepare(self, number: int) -> SimpleNamespace:
        stack, label = make_stack(SHAPE, rng_for(self.seed, number))
        image, classes = prepare_case(LoadedCase(stack, label.astype(np.int32)), self.base)
        arrays = {"image": image, "label": classes, "slice_counts": count_classes(classes, 2)}
        return SimpleNamespace(id=f"phantom{number}", arrays=arrays)

    def train_model(self) -> keras.Model:
        """Return a network after training on three phantoms."""
        model = build_for_any_plane(self.base)
        optimizer = keras.optimizers.SGD(self.base.learning_rate, momentum=self.base.momentum)
        model.compile(optimizer, sparse_cross_entropy, jit_compile=False)
        sampler = TrainingSampler(self.cases[:3], self.base, seed=self.seed)
        for step in range(STEPS):
            patches = [sampler(step * self.base.batch_size + i) for i in range(4)]
            model.train_on_batch(*(np.stack(arrays) for arrays in zip(*patches, strict=True)))
        return model

    def label(self, config: Config) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function that segments a whitened volume with the network."""
        return on_volumes(segment_labels, self.model, config)

    def probes(self) -> list[EffectProbe]:
        return [
            EffectProbe(("training_cases",), "F12", "split", self.split),
            EffectProbe(("validation_cases",), "F12", "split", self.split),
            EffectProbe(("allow_training_cases_in_test",), "F12", "split", self.split),
            EffectProbe(("training_cases", "validation_cases", "allow_training_cases_in_test"),
                        "F12", "split", self.split),
            EffectProbe(("shuffle_files",), "F14", "order", self.order),
            EffectProbe(("restart_order_every_evaluation",), "F14", "order", self.order),
            EffectProbe(("augment_per_example",), "F15", "patches", self.patches),
            EffectProbe(("pad_small_volumes",), "F10 F11", "reading", self.small_scan),
            EffectProbe(("dropout",), "F2", "training pass", self.training_pass),
            EffectProbe(("l2_weight",), "F1", "loss", self.penalty),
            EffectProbe(("validation",), "F20", "validation", self.watch),
            EffectProbe(("window", "window_stride"), "F29", "inference", self.segment),
            EffectProbe(("windows_per_batch",), "F29", "inference", self.segment),
            EffectProbe(("count_last_window_twice",), "F5", "inference", self.segment),
            EffectProbe(("output_label_ids",), "F8", "label file", self.written),
        ]  # fmt: skip

    def split(self, config: Config) -> MeasuredEffect:
        """Divide the authors' list of 36 rows."""
        cases = [Case(f"row{number}", Path("scan"), None) for number in range(ROWS)]
        parts = split_cases(cases, config)
        roles = [
            "+".join(name for name, members in parts.items() if case in members) for case in cases
        ]
        counts = ", ".join(f"{len(members)} {name}" for name, members in parts.items())
        return MeasuredEffect(
            roles, f"{counts}; {len(overlapping_ids(parts))} tested and trained on"
        )

    def order(self, config: Config) -> MeasuredEffect:
        """List the volumes that the first 600 patches are cut from."""
        sampler = TrainingSampler(self.cases[:3], replace(config, steps_per_evaluation=20),
                                  seed=self.seed)  # fmt: skip
        sources = [sampler.locate(place).case for place in range(600)]
        counts = np.bincount(sources, minlength=3)
        return MeasuredEffect(
            sources, "patches of the three volumes: " + " ".join(map(str, counts))
        )

    def patches(self, config: Config) -> MeasuredEffect:
        """Draw the patches of the first passes."""
        # A window of one keeps the patches of one pass together.
        config = replace(config, offset_sigma=PORT.offset_sigma, shuffle_window=1,
                         shuffle_files=False)  # fmt: skip
        sampler = TrainingSampler(self.cases[:3], config, seed=self.seed)
        images = np.stack([sampler(place)[0] for place in range(20)])
        spread = images.mean(axis=(1, 2, 3, 4)).std()
        return MeasuredEffect(images, f"means of the 20 patches of a pass spread by {spread:.2f}")

    def small_scan(self, config: Config) -> MeasuredEffect:
        """Read a stack of two slices."""
        stack, _ = make_stack((3, 80, 80), rng_for(self.seed, 99))
        with scratch_folder() as folder:
            path = folder / "small.nii.gz"
            write_volume(path, stack.array[:2], stack.geometry)
            volume = load_case(Case("small", path, None), config).image
        return MeasuredEffect(
            None, f"read: {volume.array.shape[0]} slices, padded where they are cut"
        )

    def training_pass(self, config: Config) -> MeasuredEffect:
        """Run one patch through the fresh network twice, as training does."""
        keras.utils.set_random_seed(self.seed)
        model = build_model(config)
        patch = cut(self.cases[0].arrays["image"], (2, 8, 8), config.patch_shape)[None]
        first, second = (np.asarray(model(patch, training=True)) for _ in range(2))
        words = f"two passes of one patch differ by up to {np.abs(first - second).max():.2g}"
        return MeasuredEffect(first, words)

    def penalty(self, config: Config) -> MeasuredEffect:
        """Sum what the kernels add to the loss of the trained network."""
        model = build_for_any_plane(replace(self.base, l2_weight=config.l2_weight))
        model.set_weights(self.model.get_weights())
        total = float(sum(model.losses))
        return MeasuredEffect([total], f"{total:.4f} is added to the loss")

    def watch(self, config: Config) -> MeasuredEffect:
        """Look at the network five times without training it."""
        watched = self.cases[3:4]
        if config.validation == "volumes":
            scores = [measure_volumes(self.label(config), watched, config)["val_dice"]] * LOOKS
        else:
            scores = []
            for look in range(LOOKS):
                images, labels = draw_validation_batch(watched, self.base, self.seed, look)
                found = self.model.predict_on_batch(images).argmax(-1)
                scores.append(float(dice(found == 1, labels == 1)))
        words = f"{LOOKS} looks at one network: {min(scores):.3f} to {max(scores):.3f}"
        return MeasuredEffect(scores, words)

    def segment(self, config: Config) -> MeasuredEffect:
        """Segment a phantom that was not trained on."""
        arrays = self.cases[4].arrays
        return describe_labels(self._labels(config), arrays["label"])

    def written(self, config: Config) -> MeasuredEffect:
        """Write the label map of that phantom."""
        ids = write_ids(self._labels(config), config)
        return MeasuredEffect(ids, "ids in the file: " + " ".join(map(str, np.unique(ids))))

    def _labels(self, config: Config) -> np.ndarray:
        return self.label(config)(self.cases[4].arrays["image"][..., 0])
