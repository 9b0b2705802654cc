"""The network that answers: of a run, of the original's file, or exported, here or on a server."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from common.errors import OptionError
from common.inference.command import with_inference_of
from common.inference.extras import check_alike
from common.runs.folder import load_config
from vertebra.ask_server import open_served
from vertebra.config import ALIKE, INFERENCE_FIELDS, PRESETS, Config, Preset
from vertebra.inference import load_network, load_original, make_ask


@contextmanager
def choose_ask(
    run: Path,
    weights: Path | None,
    model: Path | None,
    url: str | None,
    *,
    preset: Preset | None,
    chosen: dict,
) -> Iterator[tuple[Callable, Config]]:
    """Open the network that the options name, and the configuration of its inference.

    Raises `UserError` where it cannot be opened, or an exported graph has other statistics.
    """
    if model is None:
        network, config = choose_network(run, weights, preset, chosen)
        yield make_ask(network, config), config
        return
    with open_served(model, url) as (ask, exported):
        config = exported
        if preset is not None:
            config = with_inference_of(exported, PRESETS[preset], INFERENCE_FIELDS)
            chosen = {"inference_statistics": exported.inference_statistics, **chosen}
        config = replace(config, **chosen)
        if config.inference_statistics != exported.inference_statistics:
            raise OptionError(
                f"--inference_statistics {config.inference_statistics}: the exported graph has "
                f"{exported.inference_statistics}; expected these, or another export"
            )
        yield ask, config


def refuse_without_effect(chosen: dict, config: Config) -> None:
    """Raise `OptionError` for an option that the chosen search, the released one, lacks."""
    unknown = [
        name for name in ("max_vertebrae", "remove_incomplete", "skip_air") if chosen.get(name)
    ]
    if config.traversal == "code" and unknown:
        raise OptionError(
            f"--{unknown[0]}: found it with the released search (--traversal code), which has no "
            "such thing; expected --traversal port beside it"
        )


def ask_of_run(run: Path, config: Config) -> Callable:
    """Return a further run of an ensemble as the search asks it, with another one's way."""
    own = load_config(run, Config)
    check_alike(config, [(run, own)], ALIKE)
    own = replace(own, inference_statistics=config.inference_statistics)
    return make_ask(load_network(run, own), own)


def choose_network(run: Path, weights: Path | None, preset: Preset | None, chosen: dict):
    """Load the network that the options name, and the configuration of its inference."""
    if weights is not None:
        return load_original(weights, replace(PRESETS[preset or "code"], **chosen))
    config = load_config(run, Config)
    if preset is not None:
        config = with_inference_of(config, PRESETS[preset], INFERENCE_FIELDS)
    config = replace(config, **chosen)
    return load_network(run, config), config
