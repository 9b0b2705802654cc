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

    Signatures: `serving_default` (a whole scan of any size -> labels and probabilities, in the
    engine's tiles), `masked` (the same within a region of interest), `segments` (the network's own
    inputs: segment and contexts -> probabilities).
    The model is reloaded in a process without Keras and compared before it is put in place.

    Args:
        run: run folder with a trained network.
        to: folder of models; the model goes to <name>/<version> in it.
        name: of the model.
        version: its number; default: the next one.
    """
    from common.export import export_saved_model, report_export, version_folder
    from common.training import configure_runtime
    from dhcp_fetal.networks import load_run_network
    from dhcp_fetal.serving import make_endpoints, make_examples

    folder = version_folder(to, name, version)
    configure_runtime(seed=0)
    network, config = load_run_network(run)
    differences = export_saved_model(
        folder,
        model=network,
        endpoints=make_endpoints(network, config),
        examples=make_examples(network, config),
        tolerance=TOLERANCE,
        beside={"model.keras": run / "model.keras"},
    )
    report_export(folder, differences)
