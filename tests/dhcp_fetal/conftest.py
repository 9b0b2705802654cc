"""What the original engine was recorded with: networks, weights and published files."""

from dataclasses import replace

import pytest

from dhcp_fetal.config import PORT

CUBE = (3, 3, 3)


@pytest.fixture(scope="session")
def golden(golden):
    """Recorded arrays by file name: `golden("tiling")["tiles0"]`."""
    return golden("dhcp_fetal")


@pytest.fixture(scope="session")
def recipe(recipe):
    """The module `recipes/dhcp_fetal.py`."""
    return recipe("dhcp_fetal")


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
