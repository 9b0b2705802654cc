"""Segment whole scans with a trained network and write label maps in the scans' geometry."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fetal_brain.config import INFERENCE_FIELDS, PRESETS, Config, Preset

if TYPE_CHECKING:
    import numpy as np

    from common.volumes import Volume
    from fetal_brain.data import Case


def predict(
    run: Path = Path("/tmp/fetal_segmentation"),
    csv: Path | None = None,
    *,
    image: Path | None = None,
    mode: Literal["EVAL", "PREDICT"] = "EVAL",
    all_rows: bool = False,
    out: Path | None = None,
    probabilities: bool = False,
    preset: Preset | None = None,
) -> None:
    """Segment whole scans and write their label maps in the scans' own geometry.

    Without csv and image: the held-out cases of the run.

    Args:
        run: run folder with a trained network; the original's --model_path.
        csv: list to segment; its last held_out_cases rows, as the original's deploy does.
        image: a single scan to segment instead.
        mode: EVAL also prints the Dice of each case, PREDICT needs no labels.
        all_rows: segment every row of the list.
        out: folder of the label maps; default: predictions/ in the run folder.
        probabilities: write foreground probabilities beside the label maps.
        preset: whose way of inference to use; default: the run's own.
    """
    from common.runs import load_config, load_run
    from common.training import configure_runtime
    from fetal_brain.inference import load_network, make_apply

    record = load_run(run)
    config = load_config(run, Config)
    if preset is not None:
        config = with_inference_of(config, preset)
    cases = choose_cases(record, config, csv=csv, image=image, all_rows=all_rows, mode=mode)
    configure_runtime(seed=0)
    apply = make_apply(load_network(run, config), config)
    out = out or run / "predictions"
    out.mkdir(parents=True, exist_ok=True)
    for case in cases:
        print(segment_case(case, apply, config, out=out, with_probabilities=probabilities))


def with_inference_of(config: Config, preset: Preset) -> Config:
    """Return a configuration whose inference fields come from a preset."""
    return replace(config, **{name: getattr(PRESETS[preset], name) for name in INFERENCE_FIELDS})


def choose_cases(
    record, config: Config, *, csv: Path | None, image: Path | None, all_rows: bool, mode: str
) -> list["Case"]:
    """Return the cases that the options name.

    Raises:
        DataError: the list or the scan cannot be used.
        OptionError: both a list and a scan are given.
    """
    from common.errors import OptionError
    from fetal_brain.data import Case, case_of_image, find_cases

    if image is not None:
        if csv is not None:
            raise OptionError("--image and --csv were both given; expected one of them")
        return [case_of_image(image)]
    if csv is None:
        return [Case.from_dict(entry) for entry in record.read_split()["test"]]
    cases = find_cases(csv, labels_required=mode == "EVAL")
    return cases if all_rows else cases[max(len(cases) - config.held_out_cases, 0) :]  # [F12]


def segment_case(
    case: "Case", apply: Callable, config: Config, *, out: Path, with_probabilities: bool
) -> str:
    """Segment one scan, write its files, and return the line that the original prints.

    Raises:
        DataError: the scan cannot be read or segmented, or the folder not written.

    Source: deploy.py, predict.
    """
    import numpy as np

    from common.volumes import write_volume
    from fetal_brain.data import load_case, prepare_case, read_reference
    from fetal_brain.inference import segment

    volume, _ = loaded = load_case(replace(case, label_path=None), config)
    whitened, _ = prepare_case(loaded, config)
    reference = None if case.label_path is None else read_reference(case, config).array
    start = time.monotonic()
    labels = np.empty(volume.array.shape, np.uint8)
    foreground = np.empty(volume.array.shape, np.float32) if with_probabilities else None
    progress = show_windows(case.id)
    for first, slab in segment(apply, whitened[..., 0], config, progress=progress):
        labels[first : first + len(slab)] = slab.argmax(axis=-1)
        if foreground is not None:
            foreground[first : first + len(slab)] = 1.0 - slab[..., 0]
    path = out / f"{case.id}.nii.gz"
    write_volume(path, write_ids(labels, config), volume.geometry)
    if foreground is not None:
        write_volume(out / f"{case.id}_probability.nii.gz", foreground, volume.geometry)
    return describe(path, labels, reference, seconds=time.monotonic() - start)


def show_windows(case_id: str) -> Callable[[int, int], None] | None:
    """Return the function that shows windows done on a terminal; None where there is none."""
    if not sys.stderr.isatty():
        return None
    return lambda done, total: print(
        f"\r{case_id}: {done} of {total} windows", end="\n" if done == total else "",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def write_ids(labels: "np.ndarray", config: Config) -> "np.ndarray":
    """Turn class numbers into the ids that are written.

    Args:
        labels: (Z, Y, X) class numbers.
        config: uses `output_label_ids` [F8]; a class that joins several ids is written as the
            first of them.

    Returns:
        (Z, Y, X) int32, as the original's files.
    """
    import numpy as np

    if not config.output_label_ids:  # [F8]
        return labels.astype(np.int32)
    first_ids = [ids if isinstance(ids, int) else ids[0] for ids in config.label_ids]
    return np.asarray(first_ids, np.int32)[labels]


def read_ids(prediction: "Volume", config: Config) -> "Volume":
    """Turn a written label map back into class numbers, the reverse of `write_ids`."""
    import numpy as np

    classes = np.zeros(prediction.array.shape, np.uint8)
    written = write_ids(np.arange(len(config.label_ids)), config)
    for number, written_id in enumerate(written[1:], start=1):
        classes[prediction.array == written_id] = number
    return replace(prediction, array=classes)


def describe(path: Path, labels, reference, *, seconds: float) -> str:
    """Return the original's line for one case; Dice is that of the foreground, -1 if unknown."""
    from common.metrics import dice

    score = -1.0 if reference is None else float(dice(labels > 0, reference > 0))
    shape = (1, *labels.shape, 1)
    return f"Dice={score}; input_dim={shape}; time={seconds:.2f}; output_fn={path};"
