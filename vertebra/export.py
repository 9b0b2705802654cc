"""Save the trained network as a SavedModel for TensorFlow Serving."""

from pathlib import Path

from vertebra.config import Config

TOLERANCE = 1e-5
"""Largest accepted difference of a probability; 1e-6 is usual between two processes."""


def export(
    run: Path = Path("weights"),
    to: Path = Path("models"),
    *,
    version: int | None = None,
) -> None:
    """Save the trained network as a SavedModel for TensorFlow Serving.

    Signature `serving_default`: image (Z, Y, X) float32 on the raw scale and memory (Z, Y, X), one
    window of any legal size -> mask, probabilities of the next vertebra, and completeness; with
    the statistics that the run infers with. The search itself stays with the client.
    The model is reloaded in a process without Keras and compared before it is put in place.

    Args:
        run: run folder with a trained network.
        to: folder of models; the model goes to vertebra/<version> in it.
        version: number of the version; default: the next one.
    """
    from common.export import export_saved_model, report_export, version_folder
    from common.runs import load_config, load_run
    from common.training import configure_runtime
    from vertebra.inference import load_network
    from vertebra.serving import make_endpoints, make_examples

    folder = version_folder(to, "vertebra", version)
    record = load_run(run)
    config = load_config(run, Config)
    configure_runtime(seed=0)
    network = load_network(run, config)
    differences = export_saved_model(
        folder,
        model=network,
        endpoints=make_endpoints(network, config),
        examples=make_examples(network, config),
        tolerance=TOLERANCE,
        beside={"model.keras": record.path / "model.keras"},
    )
    report_export(folder, differences)
