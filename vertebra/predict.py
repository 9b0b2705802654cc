"""Find the vertebrae of scans one after the other and write their masks."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vertebra.config import INFERENCE_FIELDS, PRESETS, RUN, Config, Preset

if TYPE_CHECKING:
    import numpy as np

    from common.data.geometry import Volume
    from vertebra.traverse import Traversal

MOST_VISITS = 2000
"""Windows after which the released search, which may be endless, is given up."""


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
) -> None:
    """Find the vertebrae of scans one after the other and write their masks.

    Without test_dir and image: the test cases of the run. A mask is <scan>_pred.nrrd; beside it
    <scan>_pred.json tells each find and each window that was looked at.

    Args:
        run: run folder with a trained network.
        test_dir: folder of scans.
        output_dir: folder of the masks; default: predictions/ in the run folder.
        weights: .pth file of the original to use instead of a run.
        model: exported network, models/<name>/<version>, to use instead of a run.
        url: server to ask for that model's answers, such as grpc://host:8500; default: none.
        image: a single scan.
        preset: whose way of inference to use; default: the run's own, for weights `code`.
        inference_statistics: see Config, as for all that follow.
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

    Raises:
        DataError: a scan cannot be used, or the released search broke down on one; the others are
            finished first.
    """
    from common.runtime import configure_runtime

    chosen = {name: value for name, value in locals().items()
              if name in INFERENCE_FIELDS and value is not None}  # fmt: skip
    if patch_size is not None:
        chosen.setdefault("step", patch_size // 2)  # [V30]
    configure_runtime(seed=0, mixed_precision=mixed_precision)
    refuse_two_networks(weights, model, url)
    with choose_ask(run, weights, model, url, preset=preset, chosen=chosen) as (ask, config):
        scans = choose_scans(run, weights or model, test_dir=test_dir, image=image)
        out = output_dir or (Path("pred") if weights or model else run / "predictions")
        refuse_to_replace_inputs(scans, out)
        out.mkdir(parents=True, exist_ok=True)
        segment_all(scans, ask, config, out=out)


def refuse_two_networks(weights: Path | None, model: Path | None, url: str | None) -> None:
    """Raise `OptionError` if two networks are named, or a server without its model's folder."""
    from common.errors import OptionError

    if weights is not None and model is not None:
        raise OptionError("--weights and --model were both given; expected one of them")
    if url is not None and model is None:
        raise OptionError("--url needs --model; expected the exported version that is served there")


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

    Raises:
        OptionError: other statistics are asked for than an exported graph has.
        UserError: see `choose_network` and `vertebra.served.open_served`.
    """
    from common.errors import OptionError

    if model is None:
        from vertebra.inference import make_ask

        network, config = choose_network(run, weights, preset, chosen)
        yield make_ask(network, config), config
        return
    from vertebra.served import open_served

    with open_served(model, url) as (ask, exported):
        config = exported if preset is None else with_inference_of(exported, preset)
        if preset is not None:
            chosen = {"inference_statistics": exported.inference_statistics, **chosen}
        config = replace(config, **chosen)
        if config.inference_statistics != exported.inference_statistics:
            raise OptionError(
                f"--inference_statistics {config.inference_statistics}: the exported graph has "
                f"{exported.inference_statistics}; expected these, or another export"
            )
        yield ask, config


def segment_all(scans: list[Path], ask: Callable, config: Config, *, out: Path) -> None:
    """Search scan after scan; where the released search breaks down the others are finished.

    Raises:
        DataError: a scan cannot be used, or no mask was written for one.
    """
    from common.cost.first_step import after_first
    from common.errors import DataError

    broken = []
    for path in after_first(scans, "scan"):
        try:
            print(segment_scan(path, ask, config, out=out))
        except DataError as problem:
            if len(scans) == 1 or "search" not in str(problem):
                raise
            broken.append(path.name)
            print(f"{problem}", file=sys.stderr)
    if broken:
        raise DataError(f"no mask was written for {', '.join(broken)}")


def choose_network(run: Path, weights: Path | None, preset: Preset | None, chosen: dict):
    """Load the network that the options name, and the configuration of its inference."""
    from common.runs.folder import load_config
    from vertebra.inference import load_network, load_original

    if weights is not None:
        return load_original(weights, replace(PRESETS[preset or "code"], **chosen))
    config = load_config(run, Config)
    if preset is not None:
        config = with_inference_of(config, preset)
    config = replace(config, **chosen)
    return load_network(run, config), config


def with_inference_of(config: Config, preset: Preset) -> Config:
    """Return a configuration whose inference fields come from a preset."""
    return replace(config, **{name: getattr(PRESETS[preset], name) for name in INFERENCE_FIELDS})


def choose_scans(
    run: Path, elsewhere: Path | None, *, test_dir: Path | None, image: Path | None
) -> list[Path]:
    """Return the scans that the options name; files with `_label` in their name are none.

    Raises:
        DataError: the folder holds no scans.
        OptionError: two sources are given, or none where there is no run.
    """
    from common.errors import DataError, OptionError
    from common.runs.folder import load_run
    from vertebra.data import LABEL_MARK, find_volumes

    if image is not None and test_dir is not None:
        raise OptionError("--image and --test_dir were both given; expected one of them")
    if image is not None:
        return [image]
    if test_dir is not None:
        scans = [path for name, path in find_volumes(test_dir).items()
                 if not name.endswith(LABEL_MARK)]  # fmt: skip
        if not scans:
            raise DataError(f"{test_dir}: no scans; expected case1.mhd, ...")
        return scans
    if elsewhere is not None:
        raise OptionError(
            "--weights and --model need --test_dir or --image; expected scans to segment"
        )
    scans = [Path(entry["image_path"]) for entry in load_run(run).read_split()["test"]]
    if not scans:
        raise OptionError(f"{run} has no test cases; expected --test_dir or --image")
    return scans


def refuse_to_replace_inputs(scans: list[Path], out: Path) -> None:
    """Raise `OptionError` if a mask would take the place of a scan or of another mask."""
    from common.data.names import check_outputs
    from common.data.volumes import stem_of
    from vertebra.evaluate import prediction_path

    outputs = [(str(path), [prediction_path(out, stem_of(path))]) for path in scans]
    check_outputs(outputs, scans, option=f"--output_dir {out}")


def segment_scan(path: Path, ask: Callable, config: Config, *, out: Path) -> str:
    """Search one scan, write mask and findings, and return a line about it.

    Raises:
        DataError: the scan cannot be used, or the released search broke down.
    """
    from common.data.geometry import Volume
    from common.data.volumes import stem_of, write_volume
    from common.files import write_json
    from vertebra.data import load_scan
    from vertebra.evaluate import prediction_path
    from vertebra.preparation import back_to_source

    source = load_scan(path)
    start = time.monotonic()
    working, notes = to_working_grid(source, config)
    if notes:
        print(f"{path.name}: {'; '.join(notes)}")
    search = run_search(path, working.array, ask, config)
    mask = Volume(search.mask, working.geometry)
    if config.keep_geometry and working is not source:
        mask = back_to_source(mask, (source.array.shape, source.geometry))
    target = prediction_path(out, stem_of(path))
    write_volume(target, compact(mask.array, config), mask.geometry, compress=True)
    write_json(target.with_suffix(".json"), describe(search, working, path))
    return (
        f"{path.name}: {count_labels(search)} vertebrae, {len(search.visits)} windows,"
        f" {time.monotonic() - start:.1f} s, ended: {search.ended}; {target}"
    )


def to_working_grid(source: "Volume", config: Config) -> tuple["Volume", list[str]]:
    """Bring a scan to the scale, orientation and voxels that the network knows [V34] [V37].

    Returns:
        The scan, and what was done, in words. The released way takes the voxels as they are and
        drops the geometry [V21].
    """
    from common.data.geometry import Geometry, Volume
    from vertebra.preparation import make_isotropic, to_raw_scale, upright

    if not config.keep_geometry:
        return Volume(source.array, Geometry((1.0, 1.0, 1.0))), []
    array, note = to_raw_scale(source.array, config)
    notes = [note] if note else []
    volume = source if array is source.array else Volume(array, source.geometry)
    turned = upright(volume)
    if turned is not volume:
        notes.append("turned upright and back")
    spacing = turned.geometry.spacing_mm
    if max(abs(s - config.spacing_mm) for s in spacing) > 1e-3:
        shown = " x ".join(f"{s:.3g}" for s in spacing)
        notes.append(f"voxels of {shown} mm were resampled to {config.spacing_mm:g} mm and back")
        turned = make_isotropic(turned, config)
    return turned, notes


def run_search(path: Path, image: "np.ndarray", ask: Callable, config: Config) -> "Traversal":
    """Search a scan to the end, with a line of progress on a terminal.

    Raises:
        DataError: the released search broke down or was given up.
    """
    from common.errors import DataError
    from vertebra.traverse import advance, begin

    search = begin(image, config)
    most = MOST_VISITS if config.traversal == "code" else None
    try:
        for state in advance(search, ask, max_visits=most):
            show(path, state)
    except (DataError, IndexError, ValueError, OverflowError) as failure:
        if config.traversal != "code":
            raise
        raise DataError(
            f"{path}: the released search broke down after {len(search.visits)} windows at"
            f" (z, y, x) {search.centre}: {failure}"
        ) from failure
    if "would not end" in search.ended:
        raise DataError(f"{path}: the released search was {search.ended}")
    return search


def show(path: Path, search: "Traversal") -> None:
    """Show the last step on a terminal; nothing where there is none."""
    if sys.stderr.isatty() and search.visits:
        visit = search.visits[-1]
        print(
            f"\r{path.name}: window {len(search.visits)} at {visit.centre}: {visit.decision},"
            f" {len(search.vertebrae)} found ",
            end="",
            file=sys.stderr,
            flush=True,
        )


def compact(mask: "np.ndarray", config: Config) -> "np.ndarray":
    """Return the mask in the type that is written: the scan's own in the released way [V16]."""
    import numpy as np

    return mask if config.traversal == "code" else mask.astype(np.uint8)


def count_labels(search: "Traversal") -> int:
    """Return how many finds are in the mask."""
    return len({vertebra.label for vertebra in search.vertebrae if vertebra.label})


def describe(search: "Traversal", working: "Volume", path: Path) -> dict:
    """Return the findings of a search for the JSON file beside the mask."""
    import numpy as np

    direction = np.reshape(working.geometry.direction, (3, 3)) * working.geometry.spacing_mm
    return {
        "scan": path.name,
        "ended": search.ended,
        "vertebrae": [
            {
                **vars(vertebra),
                "centre_mm": (working.geometry.origin_mm + direction @ vertebra.centre[::-1]),
            }
            for vertebra in search.vertebrae
        ],
        "visits": [visit._asdict() for visit in search.visits],
    }
