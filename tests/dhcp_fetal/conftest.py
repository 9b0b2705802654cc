"""What the original engine was recorded with: networks, weights and published files."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dhcp_fetal.config import PORT

CUBE = (3, 3, 3)


@pytest.fixture(scope="session")
def golden(golden_dir):
    """Recorded arrays by file name: `golden("tiling")["tiles0"]`."""

    def load(name):
        with np.load(golden_dir / "dhcp_fetal" / f"{name}.npz") as file:
            return {key: file[key] for key in file.files}

    return load


@pytest.fixture(scope="session")
def recipe():
    """The module `recipe.py` beside this file; tests are no package to import it from."""
    path = Path(__file__).with_name("recipe.py")
    spec = importlib.util.spec_from_file_location("dhcp_fetal_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session", autouse=True)
def full_precision():
    """On a GPU, TF32 convolutions round far outside the tolerances of a recorded comparison."""
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)


@pytest.fixture(scope="session")
def mini():
    """The network of the recorded training steps: receptive field 9, 2 channels, 3 classes."""
    return replace(
        PORT,
        classes=3,
        input_channels=2,
        filters=(4, 4, 5, 5),
        kernels=(CUBE,) * 4,
        padding=("valid",) * 4,
        residual_layers=(4,),
        context_filters=((4, 4, 5, 5),) * 2,
        context_kernels=(CUBE,) * 4,
        context_padding=("valid",) * 4,
        context_residual_layers=(4,),
        fc_filters=(6, 6),
        fc_dropout=(0.0, 0.0, 0.0),
        train_segment=(13, 13, 13),
        validation_segment=(9, 9, 9),
        inference_segment=(17, 17, 17),
        rolling_batches=4,
        batch_size=3,
        inference_batch_size=2,
    )


@pytest.fixture(scope="session")
def fetal_files(shared):
    """Folder of the published fetal configuration files and checkpoint indices."""
    return shared / "data" / "dhcp_fetal" / "fetal-segmentation-system"


@pytest.fixture(scope="session")
def example_files(shared):
    """Folder of the engine's example configuration files."""
    return shared / "data" / "deepmedic_examples" / "configFiles"
