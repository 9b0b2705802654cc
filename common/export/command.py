"""Save the trained network as a SavedModel for TensorFlow Serving."""

import importlib
import time
from functools import partial
from pathlib import Path

from common.errors import OptionError
from common.export.passport import Provenance
from common.export.versions import version_folder
from common.inference.extras import NONE, Extras, axes_of, check_alike
from common.runs.folder import load_run
from common.runs.training_grid import recorded_grid
from common.runtime import configure_runtime

TOLERANCE = 1e-5
"""Largest accepted difference of a probability; 1e-6 is usual between two processes."""


def export(
    paper: str,
    run: Path | None = None,
    to: Path = Path("models"),
    *,
    name: str | None = None,
    version: int | None = None,
    formats: tuple[str, ...] = (),
    extras: Extras = NONE,
) -> None:
    """Save the trained network as a SavedModel for TensorFlow Serving.

    The signatures are listed in the paper's README. The model is reloaded in a process without
    Keras and compared, on a held-out case of the run, before it is put in place with its passport.

    Args:
        paper: package name.
        run: run folder with a trained network; default: where this paper's `train` puts it.
        to: folder of models; the model goes to <name>/<version> in it.
        name: of the model; default: the paper's.
        version: its number; default: the next one.
        formats: the network itself beside it for other runtimes: onnx, openvino, litert. Each is
            run there and compared with Keras; one that cannot be had is said, not an error.
        extras: what is done beyond the paper. The mean over flips and networks is computed by the
            exported graph; clean-up and entropy by `common.serving segment`, as the passport says.

    Raises:
        OptionError: no run is named and the paper has no usual one; a format is unknown, its
            packages are missing, or it cannot hold a mean; the paper has no such extra; see also
            `version_folder`.
        RunError: see `load_run` and the paper's `load_run_network`.
        ExportError: see `export_model`.
    """
    from common.export import averages, write
    from common.export.formats import check_formats

    began = time.monotonic()
    settings = importlib.import_module(f"{paper}.config")
    run = run or settings.RUN
    if run is None:
        raise OptionError("--run is missing; expected the run folder of a trained network")
    check_formats(formats)
    if formats and extras.averages:
        raise OptionError("--formats: the network alone goes into them; expected no --flips and "
                          "one --run beside it")  # fmt: skip
    folder = version_folder(to, name or paper, version)
    record = load_run(run)
    configure_runtime(seed=0)
    serving: write.ServingModule = importlib.import_module(f"{paper}.serving")
    axes = axes_of(extras, settings.AXES)
    records = [record, *(load_run(Path(each)) for each in extras.ensemble)]
    loaded = [serving.load_run_network(each.path) for each in records]
    network, config = loaded[0]
    others = [(each.path, own) for each, (_, own) in zip(records, loaded, strict=True)][1:]
    check_alike(config, others, settings.ALIKE)
    case = write.find_case(serving, record, network, config)
    if extras.averages:
        endpoints = averages.averaged_endpoints(serving, loaded, axes)
        make_examples = partial(averages.averaged_examples, serving, loaded, axes)
    else:
        endpoints = serving.make_endpoints(network, config)
        make_examples = partial(serving.make_examples, network, config)
    description = serving.passport_entry(config, case)
    if extras.entropy and "probabilities" not in description.outputs:
        raise OptionError("--entropy: this model gives no probabilities of a whole scan")
    parity = write.export_model(
        folder,
        members=[
            write.Member(own, each.path / "model.keras", Provenance.of_run(each))
            for each, (own, _) in zip(records, loaded, strict=True)
        ],
        endpoints=endpoints,
        recordings=write.make_recordings(
            case, make_examples, least=serving.least_size(config, case)
        ),
        description=description.on_grid(recorded_grid(record.path)),
        tolerance=TOLERANCE,
        formats=formats,
        extras=extras,
    )
    write.report_export(folder, parity, began=began)
