"""Find the vertebrae of scans one after the other and write their masks."""

import atexit
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from common.cohort.work import HERE, Item, Workers, segment_cases
from common.data.names import check_outputs
from common.data.volumes import stem_of
from common.errors import OptionError
from common.export.passport import read_passport
from common.files import sha256_of
from common.inference.extras import NONE, Extras, as_exported, averaged, axes_of
from common.runtime import configure_runtime
from vertebra.config import AXES, RUN, Preset
from vertebra.data import choose_scans, prediction_path

ANSWER = ("mask", "completeness")


def name_of(network: Path) -> str:
    """Return where a network lies, and of a weights file what is in it."""
    content = f" (sha256 {sha256_of(network)})" if network.is_file() else ""
    return f"{network.absolute()}{content}"


def predict(
    run: Path = RUN,
    test_dir: Path | None = None,
    output_dir: Path | None = None,
    *,
    weights: Path | None = None,
    model: Path | None = None,
    url: str | None = None,
    image: Path | None = None,
    preset: Preset | None = None,
    intensity: Literal["as_is", "detect", "hu", "unsigned"] | None = None,
    inference_statistics: Literal["batch", "moving", "per_site"] | None = None,
    traversal: Literal["code", "port"] | None = None,
    patch_size: int | None = None,
    step: int | None = None,
    sigma: int | None = None,
    min_vol: int | None = None,
    max_alter: int | None = None,
    max_vertebrae: int | None = None,
    remove_incomplete: bool | None = None,
    skip_air: bool | None = None,
    mixed_precision: bool = False,
    extras: Extras = NONE,
    on: Workers = HERE,
) -> None:
    """Find the vertebrae of scans one after the other and write their masks.

    Without test_dir and image: the test cases of the run. A mask is <scan>_pred.nrrd; beside it
    <scan>_pred.json tells each find and each window that was looked at.

    Args:
        run: run folder with a trained network.
        test_dir: folder of scans.
        output_dir: folder of the masks; default: predictions/ in the run folder.
        weights: .pth file of the original, or .keras file, to use instead of a run.
        model: exported network, models/<name>/<version>, to use instead of a run.
        url: server to ask for that model's answers, such as grpc://host:8500; default: none.
        image: a single scan.
        preset: whose way of inference to use; default: the run's own, for weights `code`.
        intensity: scale of the scans' values; see Config, as for all that follow.
        inference_statistics: what the network normalises with.
        traversal: the released search or the mended one.
        patch_size: the original's flag; sets the step to half of it, and nothing else [V30].
        step: between windows of the search.
        sigma: largest move of the centre that counts as arrived.
        min_vol: voxels that a find must exceed.
        max_alter: moves after which the search is forced to an end.
        max_vertebrae: the search ends after so many.
        remove_incomplete: leave out vertebrae that the network calls incomplete.
        skip_air: do not ask the network about windows of air.
        mixed_precision: bfloat16 arithmetic.
        extras: what is done beyond the paper, in each window; no map of probabilities is made, so
            that there is no entropy.
        on: who works on the scans.

    Raises:
        DataError: a scan cannot be used, or the released search broke down on one; the others are
            finished first.
    """
    given = {
        "intensity": intensity,
        "inference_statistics": inference_statistics, "traversal": traversal, "step": step,
        "sigma": sigma, "min_vol": min_vol, "max_alter": max_alter, "skip_air": skip_air,
        "max_vertebrae": max_vertebrae, "remove_incomplete": remove_incomplete,
    }  # fmt: skip
    chosen = {name: value for name, value in given.items() if value is not None}
    if patch_size is not None:
        chosen.setdefault("step", patch_size // 2)  # [V30]
    refuse_two_networks(weights, model, url)
    if model is not None:
        extras = as_exported(extras, read_passport(model))
    if extras.entropy:
        raise OptionError("--entropy: the search keeps labels, no probabilities; expected none")
    if extras.ensemble and (weights or model):
        raise OptionError("--ensemble: expected runs alone, not --weights or --model")
    scans = choose_scans(run, weights or model, test_dir=test_dir, image=image)
    out = output_dir or (Path("pred") if weights or model else run / "predictions")
    targets = [prediction_path(out, stem_of(path)) for path in scans]
    outputs = [(str(path), [target]) for path, target in zip(scans, targets, strict=True)]
    check_outputs(outputs, scans, option=f"--output_dir {out}")
    items = [Item(path.name, path, (target,)) for path, target in zip(scans, targets, strict=True)]
    begin = partial(
        load_searcher, run, weights, model, url,
        preset=preset, chosen=chosen, mixed_precision=mixed_precision, out=out, extras=extras,
    )  # fmt: skip
    decides = [weights or (model / "passport.json" if model else run / "model.keras")]
    decides += [Path(each) / "model.keras" for each in extras.ensemble]
    segment_cases(items, begin, what="scan", on=on, out=out, decides=decides)
    extras.record(out)


def refuse_two_networks(weights: Path | None, model: Path | None, url: str | None) -> None:
    """Raise `OptionError` if two networks are named, or a server without its model's folder."""
    if weights is not None and model is not None:
        raise OptionError("--weights and --model were both given; expected one of them")
    if url is not None and model is None:
        raise OptionError("--url needs --model; expected the exported version that is served there")


def load_searcher(
    run: Path, weights: Path | None, model: Path | None, url: str | None, *,
    preset: Preset | None, chosen: dict, mixed_precision: bool, out: Path, extras: Extras,
) -> Callable[[Path], str]:  # fmt: skip
    """Open the network that the options name and return what searches a scan."""
    from vertebra import networks, segmentation

    configure_runtime(seed=0, mixed_precision=mixed_precision)
    opened = ExitStack()
    atexit.register(opened.close)  # a connection to a server
    ask, config = opened.enter_context(
        networks.choose_ask(run, weights, model, url, preset=preset, chosen=chosen)
    )
    networks.refuse_without_effect(chosen, config)
    others = [Path(each) for each in extras.ensemble]
    asks = [ask, *(networks.ask_of_run(each, config) for each in others)]
    network = ", ".join(map(name_of, [weights or model or run, *others]))
    return partial(
        segmentation.segment_scan, ask=averaged_ask(asks, extras), config=config, out=out,
        network=network, extras=extras,
    )  # fmt: skip


def averaged_ask(asks: Sequence[Callable], extras: Extras) -> Callable:
    """Return the only function of a window, or one that gives the mean of all answers."""
    if not extras.averages:
        return asks[0]

    def answers_of(ask: Callable) -> Callable:
        return lambda image, memory: dict(zip(ANSWER, ask(image, memory), strict=True))

    mean = averaged([*map(answers_of, asks)], axes_of(extras, AXES))

    def ask(image: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, float]:
        found = mean(image, memory)
        mask, completeness = (found[name] for name in ANSWER)
        return mask, float(completeness)

    return ask
