"""What each quirk of the released vertebra code does, measured on small phantoms."""

from dataclasses import replace
from functools import cached_property, partial
from types import SimpleNamespace

import keras
import numpy as np

from common.data.geometry import Volume
from common.data.rng import rng_for
from common.study.effects import EffectProbe, MeasuredEffect, TrainedBench
from vertebra.augmentation import blur, displacement_fields
from vertebra.calibration import calibrate_sites
from vertebra.config import PORT, QUICK, Config
from vertebra.inference import build_for_any_size, make_ask
from vertebra.instances import match_instances
from vertebra.learning import choose_begin, compile_model, fixed_share
from vertebra.model import build_model
from vertebra.phantom_spine import make_scan
from vertebra.preparation import (
    HOUNSFIELD_OFFSET,
    crop_z,
    make_isotropic,
    middle_slice,
    split_ids,
    to_raw_scale,
)
from vertebra.sampling import TrainingSampler, without_empty
from vertebra.study.oracle import Oracle, run_search
from vertebra.weighting import weight_map

SHAPE = (64, 48, 48)
SPACING_MM = 3.0
BASE = replace(QUICK, channels=12, learning_rate=2e-3, remove_incomplete=True)
"""The port with a network that learns something of a phantom in seconds."""
PORT_SCHEDULE = ("learning_rate", "learning_rate_steps", "max_steps", "fix_statistics_after",
                 "fix_statistics_over", "steps_per_evaluation", "eval_iters")  # fmt: skip
STEPS = 200
PATCHES = 40


def as_batch(patch):
    """Return a patch and its targets as a batch of one."""
    return keras.tree.map_structure(lambda array: array[None], patch)


class EffectBench(TrainedBench):
    """Phantoms and a network on which the quirks are measured."""

    seed, small, network_fields = 5, BASE, ("channels",)

    def fits(self, config: Config) -> bool:
        return config.patch_size == BASE.patch_size

    def adapt(self, config: Config | None) -> Config:
        # The schedule is the port's own: nothing is trained with it here.
        schedule = {name: getattr(PORT, name) for name in PORT_SCHEDULE}
        return replace(super().adapt(config), **schedule,
                       completeness_weight=PORT.completeness_weight,
                       elastic_alpha=PORT.elastic_alpha)  # fmt: skip

    @cached_property
    def scans(self) -> list[tuple[Volume, Volume]]:
        """Three phantoms with their labels: two to train on, one to measure on."""
        return [make_scan(SHAPE, (SPACING_MM,) * 3, rng_for(self.seed, n)) for n in range(3)]

    @cached_property
    def cases(self) -> list[SimpleNamespace]:
        """The phantoms as patches are cut from them."""
        return [
            SimpleNamespace(id=f"phantom{number}", arrays={
                "image": scan.array.astype(np.float32), "label": labels.array.astype(np.int32),
                "weight": weight_map(labels.array, self.base),
            })
            for number, (scan, labels) in enumerate(self.scans)
        ]  # fmt: skip

    def train_model(self) -> keras.Model:
        """Return a network after training on two phantoms, calibrated."""
        config = replace(self.base, learning_rate=BASE.learning_rate, learning_rate_steps=(),
                         completeness_weight=QUICK.completeness_weight)  # fmt: skip
        model = build_for_any_size(config)
        choose_begin(model, config)
        compile_model(model, config, xla=False)
        sampler = TrainingSampler(self.cases[:2], config, seed=self.seed, augment=False)
        for step in range(STEPS):
            model.train_on_batch(*as_batch(sampler(step)))
        calibrate_sites(model, (sampler(STEPS + number)[0] for number in range(24)))
        return model

    def probes(self) -> list[EffectProbe]:
        schedule = ("learning_rate_steps", "max_steps")
        return [
            EffectProbe(("split_by_id",), "V25", "split", self.split),
            EffectProbe(("image_interpolation",), "V24", "preparation", self.resample),
            EffectProbe(("outside",), "V24", "preparation", self.resample),
            EffectProbe(("intensity",), "V34", "preparation", self.scale),
            EffectProbe(("keep_geometry",), "V21", "preparation", self.place),
            EffectProbe(("window_limits",), "V7", "patches", self.windows),
            EffectProbe(("count_before_stretch",), "V8", "patches", self.completeness),
            EffectProbe(("elastic_alpha",), "V9", "patches", self.deformation),
            EffectProbe(("integer_blur",), "V27", "patches", self.blurred),
            EffectProbe(("memory_gain",), "V38", "fresh network", self.memory),
            EffectProbe(("sparse_begin",), "V38", "fresh network", self.beginning),
            EffectProbe(("completeness_weight",), "V35", "loss", self.share_of_loss),
            *(EffectProbe((name,), "V33", "schedule", self.schedule) for name in schedule),
            EffectProbe(schedule, "V33", "schedule", self.schedule),
            EffectProbe(("fix_statistics_after",), "V2", "schedule", self.fixing),
            EffectProbe(("steps_per_evaluation",), "V18", "validation", self.looks),
            EffectProbe(("eval_iters",), "V19", "validation", self.looks),
            EffectProbe(("validation_statistics",), "V1", "validation",
                        lambda config: self._answers(config.validation_statistics)),
            EffectProbe(("inference_statistics",), "V1 V2", "inference",
                        lambda config: self._answers(config.inference_statistics)),
            EffectProbe(("traversal",), "V10-V16", "search", self._search),
            EffectProbe(("remove_incomplete",), "V17", "search",
                        partial(self._search, halved=True)),
            EffectProbe(("largest_piece",), "V41", "search",
                        partial(self._search, islands=True)),
        ]  # fmt: skip

    def split(self, config: Config) -> MeasuredEffect:
        """Divide the ten cases 1 to 10."""
        parts = split_ids(range(1, 11), config)
        roles = [number in parts["train"] for number in range(1, 11)]
        return MeasuredEffect(roles, f"{len(parts['train'])} train, {len(parts['test'])} test")

    @cached_property
    def hounsfield(self) -> Volume:
        """A coarse scan in Hounsfield units, whose far faces lie beyond its last voxels."""
        scan, _ = make_scan((40, 30, 31), (4.0, 4.5, 4.5), rng_for(self.seed, 9))
        return Volume(scan.array - np.int16(HOUNSFIELD_OFFSET), scan.geometry)

    def resample(self, config: Config) -> MeasuredEffect:
        """Bring a scan to the isotropic grid."""
        array = make_isotropic(self.hounsfield, config).array
        last = array[:, :, -1].mean()
        rough = np.abs(np.diff(array[:, :-1, :-1].astype(float), axis=0)).mean()
        words = f"last plane {last:.0f} HU; neighbouring slices differ by {rough:.0f} HU"
        return MeasuredEffect(array, words)

    def scale(self, config: Config) -> MeasuredEffect:
        """Bring Hounsfield units to the scale that the network knows."""
        image, _ = to_raw_scale(self.hounsfield.array, config, name="phantom")
        return MeasuredEffect(image, f"values {image.min()} to {image.max()}")

    def place(self, config: Config) -> MeasuredEffect:
        """Cut the lower ten slices off a scan."""
        scan = self.scans[0][0]
        geometry = crop_z(scan, 10, 40, keep_geometry=config.keep_geometry).geometry
        origin = ", ".join(f"{value:.0f}" for value in geometry.origin_mm)
        words = f"origin {origin} mm, voxels of {geometry.spacing_mm[0]:.0f} mm"
        return MeasuredEffect(geometry.origin_mm, words)

    def windows(self, config: Config) -> MeasuredEffect:
        """Draw patches of a scan that is longer than it is wide."""
        patches = self._draw(config)
        empty = np.mean([not patch.target.any() for patch in patches])
        words = f"{empty:.0%} of the patches miss the vertebra to be found"
        return MeasuredEffect(np.stack([patch.image for patch in patches]), words)

    def completeness(self, config: Config) -> MeasuredEffect:
        """Draw changed patches and say which show a complete vertebra."""
        flags = [patch.complete for patch in self._draw(config, augment=True)]
        return MeasuredEffect(flags, f"{sum(flags)} of {len(flags)} called complete")

    def _draw(self, config: Config, *, augment: bool = False) -> list:
        sampler = TrainingSampler(
            self.cases[:1], without_empty(config), seed=self.seed, augment=augment
        )
        return [sampler.draw(index) for index in range(PATCHES)]

    def deformation(self, config: Config) -> MeasuredEffect:
        """Draw the displacements of a patch."""
        fields = displacement_fields(rng_for(self.seed), (64,) * 3, alpha=config.elastic_alpha,
                                     sigma=config.elastic_sigma)  # fmt: skip
        return MeasuredEffect(fields, f"voxels move by {fields.std():.2f} (deviation)")

    def blurred(self, config: Config) -> MeasuredEffect:
        """Blur a patch of whole numbers."""
        image = self.scans[0][0].array[:32, :32, :32]
        found = blur(image, config)
        words = f"mean changes by {found.mean(dtype=float) - image.mean():+.2f}"
        return MeasuredEffect(np.asarray(found, np.float32), words)

    def _fresh(self, config: Config) -> tuple[np.ndarray, np.ndarray]:
        """Masks of a fresh network for a patch with and without its memory."""
        keras.utils.set_random_seed(self.seed)
        model = build_model(replace(config, inference_statistics="batch"))
        choose_begin(model, config)
        patch = TrainingSampler(self.cases[:1], without_empty(config), seed=2, augment=False)(0)[0]
        return tuple(
            np.asarray(model(patch[None] * keep)["mask"])[0, ..., 0]
            for keep in (1.0, np.array([1.0, 0.0], np.float32))
        )

    def memory(self, config: Config) -> MeasuredEffect:
        """Ask a fresh network with and without what is remembered."""
        # The last block as it is drawn: as the identity it hides the rest.
        with_memory, without = self._fresh(replace(config, sparse_begin=False))
        moved = np.abs(with_memory - without).mean()
        return MeasuredEffect(with_memory, f"forgetting moves probabilities by {moved:.2g}")

    def beginning(self, config: Config) -> MeasuredEffect:
        """Ask a fresh network."""
        mask, _ = self._fresh(config)
        return MeasuredEffect(mask, f"{(mask > 0.5).mean():.1%} of a patch are foreground")

    def share_of_loss(self, config: Config) -> MeasuredEffect:
        """Add up the two parts of the loss over patches of the phantom."""
        model = self.model
        compile_model(model, replace(config, learning_rate_steps=()), xla=False)
        sampler = TrainingSampler(self.cases[2:], config, seed=self.seed, augment=False)
        rows = [model.test_on_batch(*as_batch(sampler(n)), return_dict=True) for n in range(8)]
        mask = np.mean([row["mask_loss"] for row in rows])
        other = config.completeness_weight * np.mean([row["completeness_loss"] for row in rows])
        words = f"the completeness is {other / (mask + other):.2%} of the loss"
        return MeasuredEffect([float(mask + other)], words)

    def schedule(self, config: Config) -> MeasuredEffect:
        """Follow the learning rate to the end of training."""

        def rate(step: int) -> float:
            drops = sum(step > limit for limit in config.learning_rate_steps)
            return config.learning_rate * 0.1**drops if step < config.max_steps else 0.0

        rates = [rate(step) for step in range(0, 25_000, 500)]
        words = f"{config.max_steps} steps, the last at a rate of {rate(config.max_steps - 1):.0e}"
        return MeasuredEffect(rates, words)

    def fixing(self, config: Config) -> MeasuredEffect:
        """Follow the share of the sites' statistics in training."""
        after, steps = config.fix_statistics_after, np.arange(0, config.max_steps, 100)
        shares = [0.0 if after is None else fixed_share(step, after, config.fix_statistics_over)
                  for step in steps]  # fmt: skip
        words = f"training ends with {shares[-1]:.0%} of the statistics fixed"
        return MeasuredEffect(shares, words)

    def looks(self, config: Config) -> MeasuredEffect:
        """Count the looks at test patches while training."""
        count = config.max_steps // config.steps_per_evaluation
        words = f"{count} looks at {config.eval_iters} patches each"
        return MeasuredEffect([count, config.eval_iters], words)

    def _answers(self, statistics: str) -> MeasuredEffect:
        """Dice of patches with one vertebra to be found, and voxels where all are remembered."""
        config = replace(self.base, inference_statistics=statistics)
        ask, masks, scores = make_ask(self.model, config), [], []
        for patch in self._draw(config)[:10]:
            mask = ask(patch.image, patch.memory.astype(np.float32))[0] > 0.5
            masks.append(mask)
            scores.append(2 * (mask & (patch.target > 0)).sum() / (mask.sum() + patch.target.sum()))
        # Patches in which every vertebra is remembered, so that there is nothing to find.
        empty = TrainingSampler(self.cases[:1], replace(config, empty_every=1), seed=self.seed,
                                augment=False)  # fmt: skip
        false = [int((ask(patch.image, patch.memory.astype(np.float32))[0] > 0.5).sum())
                 for patch in map(empty.draw, range(5))]  # fmt: skip
        words = f"phantom's Dice {np.mean(scores):.3f}; {np.mean(false):.0f} voxels where all is"
        return MeasuredEffect(np.stack(masks), f"{words} remembered")

    def _search(
        self, config: Config, *, halved: bool = False, islands: bool = False
    ) -> MeasuredEffect:
        """Search a phantom with a network that knows the truth.

        `halved`: the scan cuts the second vertebra in half; `islands`: one beside every answer.
        """
        whole = self.scans[2][1].array
        second = np.unique(whole[whole > 0])[1]
        labels = whole[middle_slice(whole, second) :] if halved else whole
        found, ended = run_search(labels, Oracle(whole, config, islands=islands), config)
        matching = match_instances(found.mask, labels)
        outcome = f"{matching.found} of {len(matching.references)} vertebrae, "
        outcome += f"{len(matching.predictions)} finds, {len(found.visits)} windows"
        return MeasuredEffect(found.mask > 0, f"{outcome}; {ended}")
