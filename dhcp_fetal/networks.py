"""Where a network comes from: a run folder, or the original's cfg files and checkpoint."""

import sys
from pathlib import Path

import keras
import tensorflow as tf

from common.errors import OptionError, RunError
from common.network.trained import load_trained
from common.runs.folder import load_config
from dhcp_fetal.config import Config
from dhcp_fetal.model import build_model
from dhcp_fetal.original_weights import assign_original, read_original


def choose_device(name: str | None) -> None:
    """Do as the original's `-dev`: cpu, cuda, or cuda and a number; None: what there is."""
    if name is None:
        return
    gpus = tf.config.list_physical_devices("GPU")
    number = name.removeprefix("cuda")
    if name == "cpu":
        chosen = []
    elif name.startswith("cuda") and (number == "" or number.isdigit()):
        index = int(number or 0)
        if not gpus:
            print(f"note: -dev {name}: found no GPU, running on the CPU", file=sys.stderr)
        elif index >= len(gpus):
            raise OptionError(f"-dev {name}: found {len(gpus)} GPUs, expected that one of them")
        chosen = gpus[index : index + 1]
    else:
        raise OptionError(f"-dev: found {name!r}, expected cpu, cuda, cuda0, cuda1, ...")
    try:
        tf.config.set_visible_devices(chosen, "GPU")
    except RuntimeError:
        raise OptionError(f"-dev {name}: TensorFlow has started with other devices") from None


def load_run_network(run: Path) -> tuple[keras.Model, Config]:
    """Load the trained network of a run and its configuration; see `load_trained` for errors."""
    config = load_config(Path(run), Config)
    return load_trained(build_model(config), run), config


def load_weights(model: keras.Model, source: Path) -> dict | None:
    """Give a model the weights of a run folder or a checkpoint of the original.

    Returns the checkpoint's tensors, its optimiser's state among them; None for a run folder.
    """
    source = Path(source)
    if (source / "manifest.json").is_file():
        stored, _ = load_run_network(source)
        if [w.shape for w in stored.weights] != [w.shape for w in model.weights]:
            raise RunError(f"{source} holds another architecture than the configuration describes")
        model.set_weights(stored.get_weights())
        return None
    tensors = read_original(source)
    assign_original(model, tensors)
    return tensors
