"""What each quirk of the released sarcoma code does, measured on small phantoms."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import h5py
import keras
import numpy as np
import tensorflow as tf

from common.data.rng import rng_for
from common.study.effects import (
    EffectProbe,
    MeasuredEffect,
    TrainedBench,
    describe_labels,
    scratch_folder,
)
from sarcoma.config import PORT, POSITIVE_SLICES, Config
from sarcoma.data import (
    LoadedPatient,
    Patient,
    find_patients,
    prepare_patient,
    split_patients,
    standardise,
)
from sarcoma.inference import on_volumes, segment
from sarcoma.losses import dice_loss
from sarcoma.model import build_for_inference, build_model, shapes_alone
from sarcoma.patch_files import PATCH_BATCH, patch_dice
from sarcoma.phantom_body import make_patient
from sarcoma.sampling import PatchSampler, Stack, make_pool, split_pool, stack_examples
from sarcoma.validation import measure_patches

PLANE = 64
TRAINED, WATCHED, TESTED = "STS_002", "STS_031", "STS_003"
BASE = replace(PORT, filters=(8, 16, 32), learning_rate=1e-3, window_stride=28)
"""The port with a network that learns a phantom in seconds."""
STEPS = 700
PATCHES = 256


class EffectBench(TrainedBench):
    """Phantoms and a network on which the quirks are measured."""

    seed, small = 5, BASE
    network_fields = ("filters", "batch_normalisation", "label_geometry", "modalities")

    def fits(self, config: Config) -> bool:
        return config.architecture == "unet2d"  # which most switches are about

    @cached_property
    def patients(self) -> dict[str, LoadedPatient]:
        """Three phantoms: one to train on, one to watch, one to test on."""
        found = {}
        for number, name in enumerate((TRAINED, WATCHED, TESTED)):
            arrays = make_patient(name, PLANE, rng_for(self.seed, number))
            images = {"ct": arrays["ct_data"], "pet": arrays["pet_data"]}
            found[name] = LoadedPatient(images, arrays["label_data"] > 0)
        return found

    def _case(self, name: str, config: Config) -> SimpleNamespace:
        loaded = self.patients[name]
        arrays = {"image": prepare_patient(loaded, config), "label": loaded.label.astype(np.uint8),
                  "window": np.array(POSITIVE_SLICES[name])}  # fmt: skip
        return SimpleNamespace(id=name, arrays=arrays)

    @cached_property
    def cases(self) -> dict[str, SimpleNamespace]:
        """The prepared phantoms by name."""
        return {name: self._case(name, self.base) for name in self.patients}

    def _stack(self, config: Config) -> Stack:
        return Stack([self.cases[TRAINED], self.cases[WATCHED]], config,
                     slices=config.training_slices)  # fmt: skip

    @cached_property
    def model(self) -> keras.Model:
        """The given network, ready to be measured, or one trained on two phantoms."""
        model = super().model
        if self.given is not None:
            model.compile("adam", dice_loss, jit_compile=False)
        return model

    def train_model(self) -> keras.Model:
        model = build_for_inference(self.base)
        model.compile(keras.optimizers.Adam(self.base.learning_rate), dice_loss, jit_compile=False)
        stack, size = self._stack(self.base), self.base.batch_size
        sampler = PatchSampler(stack, make_pool(stack, self.base), self.base, seed=self.seed)
        for step in range(STEPS):
            examples = [sampler(step * size + place) for place in range(size)]
            model.train_on_batch(*stack_examples(examples))
        return model

    @cached_property
    def find(self) -> Callable[[np.ndarray], np.ndarray]:
        """The function that segments standardised slices with the network."""
        return on_volumes(segment, self.model, self.base)

    def probes(self) -> list[EffectProbe]:
        patients = ("training_patients", "validation_patients")
        flips = ("flip_labels", "augment_validation")
        return [
            *(EffectProbe((name,), "S2", "split", self.split) for name in patients),
            EffectProbe(patients, "S2", "split", self.split),
            EffectProbe(("modalities",), "S23", "preparation", self.contrast),
            EffectProbe(("standardise",), "S30", "preparation", self.uptake),
            EffectProbe(("pad_small_slices",), "S26", "reading", self.small_slices),
            EffectProbe(("training_slices",), "S24", "patches", self.pool),
            EffectProbe(("avid_share",), "S28", "patches", self.pool),
            EffectProbe(("centre_index",), "S3", "patches", self.classes),
            EffectProbe(("flip_labels",), "S1", "patches", self.flipped),
            EffectProbe(("label_geometry",), "S4", "network", self.geometry),
            EffectProbe(("two_path",), "S11", "network", self.paths),
            EffectProbe(("context_init",), "S14", "network", self.context),
            EffectProbe(("context_upsampling",), "S13", "network", self.enlargement),
            EffectProbe(("validation",), "S2", "validation", self.neighbours),
            EffectProbe(("augment_validation",), "S1", "validation", self.watched),
            EffectProbe(flips, "S1", "validation", self.watched),
            EffectProbe(("test_slices",), "S24", "inference", self.segment),
        ]

    def split(self, config: Config) -> MeasuredEffect:
        """Divide the seven patients."""
        known = {name: Patient(name, Path("phantom.h5"), (1, 1, 1)) for name in POSITIVE_SLICES}
        parts = split_patients(known, config)
        roles = [next((part for part, members in parts.items()
                       if any(member.id == name for member in members)), "unused")
                 for name in known]  # fmt: skip
        return MeasuredEffect(
            roles, ", ".join(f"{len(members)} {part}" for part, members in parts.items())
        )

    def contrast(self, config: Config) -> MeasuredEffect:
        """Say how far the lesion stands out of its slices in the network's channels."""
        loaded = self.patients[TESTED]
        window, words = slice(*POSITIVE_SLICES[TESTED]), []
        for name in config.modalities:
            image, label = loaded.images[name][window], loaded.label[window]
            body = loaded.images["ct"][window] > -300
            apart = image[label].mean() - image[body & ~label].mean()
            words.append(f"{name} {apart / image[body].std():.1f}")
        return MeasuredEffect(None, "lesion above other tissue, in deviations: " + ", ".join(words))

    def uptake(self, config: Config) -> MeasuredEffect:
        """Standardise one patient; how much slices spread shows what is kept of uptake's height."""
        image = self._case(TESTED, config).arrays["image"][..., -1]
        lesion = image[self.patients[TESTED].label].mean()
        spread = image.std(axis=(1, 2))
        words = f"slices spread by {spread.min():.2f} to {spread.max():.2f}"
        return MeasuredEffect(image, f"lesion {lesion:.1f} deviations above the mean; {words}")

    def small_slices(self, config: Config) -> MeasuredEffect:
        """Read a file whose slices are smaller than a patch."""
        with scratch_folder() as folder:
            path = folder / "small.h5"
            with h5py.File(path, "w") as file:
                for group in ("ct_data", "pet_data", "label_data"):
                    file[f"{group}/A"] = np.zeros((2, 40, 40), np.int16)
            find_patients(path, config)
        return MeasuredEffect(None, "read: zeros surround every slice")

    def pool(self, config: Config) -> MeasuredEffect:
        """Choose the patches to train on."""
        stack = self._stack(config)
        pool = make_pool(stack, config)
        classes, avid = stack.classes(), stack.avid()
        others = pool[~classes[pool]]
        words = (
            f"{len(pool)} of {len(stack)} patches; "
            f"{avid[others].mean():.1%} of those around background show high uptake"
        )
        return MeasuredEffect(None, words)

    def classes(self, config: Config) -> MeasuredEffect:
        """Classify every patch of the lesion's slices by its centre."""
        config = replace(config, training_slices="window")
        found = self._stack(config).classes()
        return MeasuredEffect(found, f"{int(found.sum())} patches around the lesion")

    def flipped(self, config: Config) -> MeasuredEffect:
        """Draw patches and score a perfect prediction, which follows every flip of the image."""
        labels = self._labels(config)
        perfect = self._labels(replace(config, flip_labels=True))
        score = patch_dice(labels, perfect, PATCH_BATCH)
        return MeasuredEffect(labels, f"a perfect prediction scores Dice {score:.2f}")

    def _labels(self, config: Config) -> np.ndarray:
        stack = self._stack(config)
        pool = make_pool(stack, replace(config, avid_share=0.0))
        positive = pool[stack.classes()[pool]]
        sampler = PatchSampler(stack, positive, config, seed=self.seed)
        return np.stack([sampler(number)[1] for number in range(PATCHES)])

    def geometry(self, config: Config) -> MeasuredEffect:
        """Ask which input row an output row is about, by the centre of its gradient."""
        model = build_model(replace(config, modalities=("ct",), filters=(2, 2, 2)))
        # Constant weights, through which a gradient spreads evenly.
        model.set_weights([np.full(w.shape, 0.05) for w in model.get_weights()])
        patch, rows = tf.Variable(np.ones((1, 56, 56, 1), np.float32)), []
        for row in (4, 14, 24):
            with tf.GradientTape() as tape:
                value = model(patch)[0, row, 14, 0]
            weight = np.abs(tape.gradient(value, patch).numpy()[0, ..., 0]).sum(1)
            rows.append(float((weight * np.arange(56)).sum() / weight.sum()))
        shown = ", ".join(f"{row:.0f}" for row in rows)
        words = f"outputs 4, 14, 24 are about input rows {shown}; their labels are rows 18, 28, 38"
        return MeasuredEffect(np.round(rows), words)

    def paths(self, config: Config) -> MeasuredEffect:
        """Build the cascade and look at what its wide kernel sees."""
        with shapes_alone():
            model = build_model(replace(config, architecture="cascade"))
            count = sum(int(np.prod(weight.shape)) for weight in model.weights)
            shape = model.get_layer("global").input.shape
        words = (
            f"{count / 1e6:.1f} million numbers; the wide kernel sees "
            f"{shape[1]} x {shape[2]} x {shape[3]}"
        )
        return MeasuredEffect(None, words)

    def _dilated(self, config: Config) -> keras.Model:
        keras.utils.set_random_seed(self.seed)
        narrow = replace(config, architecture="dilated", dilated_filters=(2, 2, 2, 2, 2, 4))
        return build_model(narrow, (None, None, 1))

    def context(self, config: Config) -> MeasuredEffect:
        """Send scores through the fresh context module."""
        model = self._dilated(config)
        context = keras.Model(model.get_layer("final").output, model.get_layer("ctx_final").output)
        scores = np.random.default_rng(0).uniform(0, 3, (1, 16, 16, 2)).astype(np.float32)
        found = np.asarray(context(scores))
        words = f"scores of 0 to 3 leave it as {found.min():.2f} to {found.max():.2f}"
        return MeasuredEffect(found, f"{words}, correlation {correlation(scores, found):.2f}")

    def enlargement(self, config: Config) -> MeasuredEffect:
        """Enlarge a blob of one class eightfold."""
        model = self._dilated(config)
        enlarge = keras.Model(
            model.get_layer("up_sampling2d_1").input, model.get_layer("ctx_upsample").output
        )
        scores = np.zeros((1, 8, 8, 2), np.float32)
        scores[0, 2:6, 2:6, 1] = 1.0
        found = np.asarray(enlarge(scores))[0]
        leak = np.abs(found[..., 0]).max() / max(np.abs(found[..., 1]).max(), 1e-9)
        words = (
            f"one class's scores reach {found[..., 1].max():.2f}; "
            f"{leak:.0%} of that appears in the other class"
        )
        return MeasuredEffect(found, words)

    def neighbours(self, config: Config) -> MeasuredEffect:
        """Ask how near the patches that validate are to those that train."""
        if config.validation == "patients":
            return MeasuredEffect(None, "another patient validates")
        stack = self._stack(config)
        training, held_back = split_pool(make_pool(stack, config), config)
        used = np.zeros(len(stack), bool)
        used[training] = True
        columns = stack.plane_shape[1]
        near = np.zeros(len(held_back), bool)
        for step in (1, columns, columns + 1, columns - 1):
            for side in (-step, step):
                near |= used[np.clip(held_back + side, 0, len(stack) - 1)]
        words = (
            f"{near.mean():.0%} of the patches that validate have a training patch one pixel away"
        )
        return MeasuredEffect(None, words)

    def watched(self, config: Config) -> MeasuredEffect:
        """Measure the network on patches that were held back."""
        stack = self._stack(config)
        held_back = make_pool(stack, config)[: 18 * 20]
        found = measure_patches(self.model, held_back, stack, config, seed=self.seed)
        return MeasuredEffect(
            [found["val_dice"]], f"phantom's Dice of the patches {found['val_dice']:.3f}"
        )

    def segment(self, config: Config) -> MeasuredEffect:
        """Segment a patient who was not trained on."""
        case, label = self.cases[TESTED].arrays, self.patients[TESTED].label
        chosen = slice(*case["window"]) if config.test_slices == "window" else slice(None)
        lesion = np.zeros(label.shape, bool)
        lesion[chosen] = self.find(case["image"][chosen]) > config.threshold
        return describe_labels(lesion, label)


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return the correlation of two arrays, 0 where one is constant."""
    if min(first.std(), second.std()) < 1e-12:
        return 0.0
    return float((standardise(first) * standardise(second)).mean())
