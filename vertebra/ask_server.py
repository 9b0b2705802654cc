"""An exported network as the search sees it: the SavedModel here, or TensorFlow Serving."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from common.errors import DataError, RunError
from common.serving.opening import open_client
from vertebra.config import Config
from vertebra.inference import check_window

SIGNATURE = "serving_default"


@contextmanager
def open_served(model: Path, url: str | None) -> Iterator[tuple[Callable, Config]]:
    """Open an exported network: the SavedModel in this process, or on the server at `url`.

    Gives what `vertebra.inference.make_ask` returns, and the configuration of the exported run; its
    statistics are part of the graph. Raises `UserError` as `open_client` does, `RunError` for
    another paper's passport.
    """
    with open_client(model=model, url=url) as client:
        config = config_of(client.passport, model)

        def ask(image: np.ndarray, memory: np.ndarray) -> tuple[np.ndarray, float]:
            check_window(image.shape, config)
            window = {"image": image.astype(np.float32), "memory": memory.astype(np.float32)}
            found = client.predict(SIGNATURE, window, ["mask", "completeness"])
            if found["mask"].shape != image.shape:
                raise DataError(
                    f"{client.address}: found a mask of {found['mask'].shape} voxels; expected "
                    f"{image.shape}, the window's"
                )
            return found["mask"], float(found["completeness"][0])

        yield ask, config


def config_of(passport: dict, model: Path) -> Config:
    """Return the search's configuration in a passport; `RunError` where it holds none."""
    values = passport["whole_scan"].get("config")
    try:
        plain = {key: tuple(value) if isinstance(value, list) else value
                 for key, value in values.items()}  # fmt: skip
        return Config(**plain)
    except (AttributeError, TypeError):
        raise RunError(
            f"{model}: found no configuration of a search in its passport; expected an exported "
            "network of vertebra"
        ) from None
