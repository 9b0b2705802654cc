"""Everything around the loop of training: network, optimiser, what is looked at, what is kept."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras

from common.data.names import check_outputs
from common.errors import OptionError
from common.network.trained import save_network
from common.runs.folder import Run
from common.runs.training_grid import record_grid
from common.training.loop import fit
from dhcp_fetal.batches import (
    CaseCache,
    SegmentSource,
    Way,
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
from dhcp_fetal.outputs import result_paths
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


def carry_out(
    record: Run, split: Mapping[str, Sequence[CaseFiles]], session: Session | None, *, seed: int,
    start: Path | None, reset_optimiser: bool,
) -> None:  # fmt: skip
    """Train within an open run, as its configuration says, and save the network.

    First weights come from `start`, a checkpoint's optimiser state too unless it is left.
    """
    config, watched = record.config, split["validation"]
    if config.schedule == "auto" and not (config.validate_on_samples and watched):
        raise OptionError(
            "--schedule auto follows the accuracy on validation samples; expected validation cases "
            "and --validate_on_samples, or another schedule"
        )
    scans = [next(filter(None, files.channels), None) for files in split["training"]]
    record_grid(record, filter(None, scans))
    model = build_model(config)
    freeze_layers(model, config)
    optimiser, cost = make_optimiser(config), EngineCost(model, config)
    optimiser.build(model.trainable_variables)
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    xla = record.manifest["runtime"]["xla"]
    # [D16] Every step reads one state of the weights: two runs of one seed are equal to the bit.
    model.compile(optimizer=optimiser, loss=cost, metrics=[accuracy], jit_compile=xla)
    if warning := warn_of_rising_rate(config):  # [G13]
        print(f"note: {warning}")
    check = session is None or session.check_inputs

    def draw(cases, way: Way, batch_size: int) -> SegmentSource:
        return SegmentSource(
            CaseCache(cases, config, check_labels=check), way, seed=seed, batch_size=batch_size,
            subepochs=config.epochs * config.subepochs,
        )  # fmt: skip

    source = draw(split["training"], training_way(config), config.batch_size)
    best, callbacks, volumes = None, [], {}
    if config.validate_on_samples and watched:
        samples = draw(watched, validation_way(config), config.validation_batch_size)
        callbacks.append(ValidateSamples(samples, config))
    if config.validate_on_volumes and watched:
        volumes = watch_volumes(model, record, watched, session)
        if config.select_best_epoch:
            best = record.checkpoints / BEST
            callbacks.append(KeepBest(best))
    # Last, since the schedule "auto" reads the accuracy on samples.
    callbacks.append(FollowSchedule(config, cost))
    tensors = None if start is None else load_weights(model, start)
    if tensors is not None and not reset_optimiser:
        assign_slots(model, tensors, compat=config.compat)
    fit(
        model,
        lambda first_step: make_dataset(source, config, first_step=first_step),
        run=record,
        max_steps=config.epochs * steps_per_epoch(config),
        steps_per_epoch=steps_per_epoch(config),
        callbacks=callbacks,
        **volumes,
    )
    record.record(sampling={"waited_s": round(source.waited_s, 3)})
    # [D17] One network and one checkpoint to go on from are kept, not one per epoch.
    if best is not None and best.is_file():
        model = keras.models.load_model(best, compile=False)
    save_network(model, record.path / "model.keras")


def watch_volumes(
    model: keras.Model, record: Run, watched: Sequence[CaseFiles], session: Session | None
) -> dict[str, Callable]:
    """Return what `fit` measures and draws of whole volumes, by the names of its arguments."""
    config, segment, out, saved = record.config, on_volumes(model, record.config), None, None
    if session is not None and all(files.name for files in watched):
        out, saved = record.path / "predictions", session.saved
        written = [(f.name, result_paths(out, f.name, config, saved=saved)) for f in watched]
        check_outputs(written, option="namesForPredictionsPerCaseVal")
    measure = make_volume_validation(model, segment, watched, config, out=out, saved=saved)
    if watched[0].labels is None:
        return {"evaluate": measure}
    return {"evaluate": measure, "pictures": make_pictures(segment, watched[0], config)}
