"""Save the trained network as a SavedModel for TensorFlow Serving."""

from pathlib import Path

from fetal_brain.config import Config

TOLERANCE = 1e-5
"""Largest accepted difference of a probability; 1e-6 is usual between two processes."""


def export(
    run: Path = Path("/tmp/fetal_segmentation"),
    to: Path = Path("models"),
    *,
    name: str = "fetal_brain",
    version: int | None = None,
) -> None:
    """Save the trained network as a SavedModel for TensorFlow Serving.

    Signatures: `serving_default` (a whole raw scan of any size -> labels), `probabilities` (the
    same -> class probabilities), `volume` (the same -> both), `patches` (the original's: whitened
    patches -> logits, y_prob and y_).
    The model is reloaded in a process without Keras and compared, on a held-out scan of the run,
    before it is put in place with its passport.

    Args:
        run: run folder with a trained network.
        to: folder of models; the model goes to <name>/<version> in it.
        name: of the model.
        version: its number; default: the next one.
    """
    import time

    from common.export.passport import Provenance
    from common.export.write import (
        export_model,
        find_case,
        make_recordings,
        report_export,
        version_folder,
    )
    from common.runs.folder import load_config, load_run
    from common.runtime import configure_runtime
    from fetal_brain import serving
    from fetal_brain.inference import load_network

    began = time.monotonic()
    folder = version_folder(to, name, version)
    record = load_run(run)
    config = load_config(run, Config)
    configure_runtime(seed=0)
    # [F22] Only a finished run has a network; the original exported after an error as well.
    network = load_network(run, config)
    case = find_case(
        lambda: serving.load_test_case(record, config), lambda: serving.make_up_case(config)
    )
    parity = export_model(
        folder,
        network=network,
        endpoints=serving.make_endpoints(network, config),
        recordings=make_recordings(
            case,
            lambda part: serving.make_examples(network, config, part),
            least=serving.least_size(config),
        ),
        description=serving.describe(config, case),
        provenance=Provenance.of_run(record),
        tolerance=TOLERANCE,
        keras_file=record.path / "model.keras",
    )
    report_export(folder, parity, began=began)
