"""Everything around the loop of training: network, optimiser, what is looked at, what is kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import keras

from common.data.names import check_outputs
from common.network.trained import save_network
from common.runs.folder import Run
from common.training.loop import fit
from dhcp_fetal.config import Config
from dhcp_fetal.feeding import (
    CaseCache,
    SegmentSource,
    make_dataset,
    steps_per_epoch,
    training_way,
    validation_way,
)
from dhcp_fetal.inference import on_volumes
from dhcp_fetal.losses import EngineCost
from dhcp_fetal.model import build_model
from dhcp_fetal.networks import load_weights
from dhcp_fetal.optimisers import freeze_layers, make_optimiser
from dhcp_fetal.original_weights import assign_slots
from dhcp_fetal.outputs import paths_written
from dhcp_fetal.schedules import warn_of_rising_rate
from dhcp_fetal.session import CaseFiles, Session
from dhcp_fetal.validation import (
    FollowSchedule,
    KeepBest,
    ValidateSamples,
    make_pictures,
    make_volume_validation,
)

BEST = "best.keras"


@dataclass
class Training:
    """What `fit` needs, and what is done before and after it."""

    model: keras.Model
    source: SegmentSource
    config: Config
    evaluate: Callable[[], Mapping[str, float]] | None
    pictures: Callable[[], Mapping] | None
    callbacks: list[keras.callbacks.Callback] = field(default_factory=list)
    best: Path | None = None
    """[G30] Network of the best epoch, where that is kept."""

    def begin_with(self, source: Path | None, *, reset_optimiser: bool) -> None:
        """Take weights, and a checkpoint's optimiser state, from elsewhere; None: fresh ones."""
        if source is None:
            return
        tensors = load_weights(self.model, source)
        if tensors is not None and not reset_optimiser:
            assign_slots(self.model, tensors, compat=self.config.compat)

    def finish(self, path: Path) -> None:
        """Save the trained network: the last one, or [G30] that of the best epoch."""
        model = self.model
        if self.best is not None and self.best.is_file():
            model = keras.models.load_model(self.best, compile=False)
        save_network(model, path)


def build_training(
    record: Run,
    split: Mapping[str, tuple[CaseFiles, ...]],
    config: Config,
    session: Session | None,
    *,
    seed: int,
    xla: bool,
) -> Training:
    """Build and compile the network and all that accompanies its training.

    Args:
        record: the run.
        split: cases by subset.
        config: everything.
        session: of a training cfg, or None.
        seed: of sampling.
        xla: compile with it.
    """
    # [D16] Every step reads one state of the weights: two runs of one seed are equal to the bit.
    check = session is None or session.check_inputs
    model = build_model(config)
    freeze_layers(model, config)
    optimiser = make_optimiser(config)
    optimiser.build(model.trainable_variables)
    cost = EngineCost(model, config)
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    model.compile(optimizer=optimiser, loss=cost, metrics=[accuracy], jit_compile=xla)
    warning = warn_of_rising_rate(config)  # [G13]
    if warning:
        print(f"note: {warning}")
    subepochs = config.epochs * config.subepochs
    source = SegmentSource(
        CaseCache(split["training"], config, check_labels=check),
        training_way(config),
        seed=seed,
        batch_size=config.batch_size,
        subepochs=subepochs,
    )
    work = Training(model, source, config, None, None)
    watched = split["validation"]
    if config.validate_on_samples and watched:
        samples = SegmentSource(
            CaseCache(watched, config, check_labels=check),
            validation_way(config),
            seed=seed,
            batch_size=config.validation_batch_size,
            subepochs=subepochs,
        )
        work.callbacks.append(ValidateSamples(samples, config))
    if config.validate_on_volumes and watched:
        _watch_volumes(work, record, watched, session)
    # Last, since the schedule "auto" reads the accuracy on samples.
    work.callbacks.append(FollowSchedule(config, cost))
    return work


def _watch_volumes(work: Training, record: Run, watched, session: Session | None) -> None:
    config, segment = work.config, on_volumes(work.model, work.config)
    out = saved = None
    if session is not None and all(files.name for files in watched):
        out, saved = record.path / "predictions", session.saved
        check_outputs(
            [
                (files.name, paths_written(out, files.name, config, saved=saved))
                for files in watched
            ],
            option="namesForPredictionsPerCaseVal",
        )
    work.evaluate = make_volume_validation(
        work.model, segment, watched, config, out=out, saved=saved
    )
    if watched[0].labels is not None:
        work.pictures = make_pictures(segment, watched[0], config)
    if config.select_best_epoch:
        work.best = record.checkpoints / BEST
        work.callbacks.append(KeepBest(work.best))


def carry_out(record, split: dict, session, *, seed: int, start, reset_optimiser: bool) -> None:
    """Train within an open run and save the network.

    Args:
        record: the run; its configuration says everything.
        split: cases by subset.
        session: of a training cfg, or None.
        seed: of sampling.
        start: where first weights come from, or None.
        reset_optimiser: leave a checkpoint's optimiser state.
    """
    config = record.config
    xla = record.manifest["runtime"]["xla"]
    work = build_training(record, split, config, session, seed=seed, xla=xla)
    work.begin_with(start, reset_optimiser=reset_optimiser)
    steps = config.epochs * steps_per_epoch(config)
    fit(
        work.model,
        lambda first_step: make_dataset(work.source, config, first_step=first_step),
        run=record,
        max_steps=steps,
        steps_per_epoch=steps_per_epoch(config),
        evaluate=work.evaluate,
        pictures=work.pictures,
        callbacks=work.callbacks,
    )
    record.record(sampling={"waited_s": round(work.source.waited_s, 3)})
    # [D17] One network and one checkpoint to go on from are kept, not one per epoch.
    work.finish(record.path / "model.keras")
