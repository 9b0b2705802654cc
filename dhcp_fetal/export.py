"""Save a trained network as a SavedModel for TensorFlow Serving."""

from pathlib import Path

TOLERANCE = 1e-5
"""Largest accepted difference of a probability; 3e-7 is usual between two processes."""


def export(
    run: Path,
    to: Path = Path("models"),
    *,
    name: str = "dhcp_fetal",
    version: int | None = None,
) -> None:
    """Save a trained network as a SavedModel for TensorFlow Serving.

    Signatures: `serving_default` (a whole scan of any size -> labels), `probabilities` (the same ->
    probabilities), `volume` (the same -> both), `masked` (both within a region of interest),
    `segments` (the network's own inputs: segment and contexts -> probabilities). Whole scans are
    tiled as the run's configuration says.
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
    from common.runs.folder import load_run
    from common.runtime import configure_runtime
    from dhcp_fetal import serving
    from dhcp_fetal.networks import load_run_network

    began = time.monotonic()
    folder = version_folder(to, name, version)
    record = load_run(run)
    configure_runtime(seed=0)
    network, config = load_run_network(run)
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
            least=config.inference_segment,
        ),
        description=serving.describe(config, case),
        provenance=Provenance.of_run(record),
        tolerance=TOLERANCE,
        keras_file=record.path / "model.keras",
    )
    report_export(folder, parity, began=began)
