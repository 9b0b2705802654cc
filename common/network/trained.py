"""The trained network of a run folder, held to the configuration beside it."""

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import RunError

if TYPE_CHECKING:
    import keras


def load_trained(network: "keras.Model", run: Path) -> "keras.Model":
    """Give a freshly built network the weights of a run.

    Layers of the paper's own must have been imported, so that Keras knows them.

    Args:
        network: what the run's configuration describes.
        run: run folder with `model.keras`.

    Returns:
        `network`, with the weights of the file.

    Raises:
        RunError: there is no trained network, it cannot be read, or it is another architecture.
    """
    import keras

    path = Path(run) / "model.keras"
    if not path.is_file():
        raise RunError(f"{path} is missing; expected the network of a finished training run")
    try:
        stored = keras.models.load_model(path, compile=False)
    except (ValueError, OSError, KeyError, TypeError) as problem:
        first_line = str(problem).strip().partition("\n")[0]
        raise RunError(f"{path} cannot be read as a Keras model: {first_line[:200]}") from None
    if [w.shape for w in stored.weights] != [w.shape for w in network.weights]:
        raise RunError(
            f"{path} is another architecture ({stored.count_params()} parameters) than "
            f"{Path(run) / 'config.yaml'} describes ({network.count_params()} parameters)"
        )
    network.set_weights(stored.get_weights())
    return network
