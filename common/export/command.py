"""Save the trained network as a SavedModel for TensorFlow Serving."""

import importlib
import time
from pathlib import Path

from common.errors import OptionError
from common.export.passport import Provenance
from common.export.versions import version_folder
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

    Raises:
        OptionError: no run is named and the paper has no usual one; a format is unknown or its
            packages are missing; see also `version_folder`.
        RunError: see `load_run` and the paper's `load_run_network`.
        ExportError: see `export_model`.
    """
    from common.export import formats as others
    from common.export import write

    began = time.monotonic()
    run = run or importlib.import_module(f"{paper}.config").RUN
    if run is None:
        raise OptionError("--run is missing; expected the run folder of a trained network")
    others.check_formats(formats)
    folder = version_folder(to, name or paper, version)
    record = load_run(run)
    configure_runtime(seed=0)
    serving: write.ServingModule = importlib.import_module(f"{paper}.serving")
    network, config = serving.load_run_network(run)
    case = write.find_case(serving, record, network, config)
    parity = write.export_model(
        folder,
        network=network,
        endpoints=serving.make_endpoints(network, config),
        recordings=write.make_recordings(
            case,
            lambda part: serving.make_examples(network, config, part),
            least=serving.least_size(config, case),
        ),
        description=serving.passport_entry(config, case).on_grid(recorded_grid(record.path)),
        provenance=Provenance.of_run(record),
        tolerance=TOLERANCE,
        keras_file=record.path / "model.keras",
        formats=formats,
    )
    write.report_export(folder, parity, began=began)
