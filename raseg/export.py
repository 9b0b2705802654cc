"""Save the trained network as a SavedModel for TensorFlow Serving."""

from pathlib import Path

from raseg.config import Config

TOLERANCE = 1e-5
"""Largest accepted difference of a probability; 1e-6 is usual between two processes."""


def export(run: Path, to: Path = Path("models"), *, version: int | None = None) -> None:
    """Save the trained network as a SavedModel for TensorFlow Serving.

    Signatures: `serving_default` (a raw volume of any size -> labels), `probabilities` (the same ->
    probability of the foreground), `logits` (normalised volumes -> logits, the network alone).
    The model is reloaded in a process without Keras and compared before it is put in place.

    Args:
        run: run folder with a trained network.
        to: folder of models; the model goes to raseg/<version> in it.
        version: number of the version; default: the next one.
    """
    from common.export import export_saved_model, report_export, version_folder
    from common.runs import load_config, load_run
    from common.training import configure_runtime
    from raseg.inference import load_network
    from raseg.serving import make_endpoints, make_examples

    folder = version_folder(to, "raseg", version)
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
