"""The sides of the benchmark that run on PyTorch, whole volumes with MONAI's sliding window."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from common.cost.turns import Contender
from common.study.contenders import predict, share_weights, train_in_torch
from common.study.torch_twin import LAYOUTS_3D, channels_first, channels_last, make_twin
from fetal_brain.config import CODE, PORT, Config
from fetal_brain.model import build_model
from fetal_brain.study.bench import draw_batch, draw_volume

RULES: dict = {}
"""All layers are Keras' own."""
ANY_SIZE = (None, None, None, 1)
"""Of a known depth the pooling consists of operations [F30], otherwise it is one layer."""


def build(config: Config, sizes, folder: Path):
    """Return the twin with the first side's weights and the layout it is to compute in."""
    layout = LAYOUTS_3D[sizes["layout"]]
    model = build_model(config, ANY_SIZE)
    share_weights(model, folder)
    return make_twin(model).to(memory_format=layout), layout


def train(sizes, folder: Path) -> Contender:
    """Take the same training step: gradient descent with momentum on the cross-entropy."""
    twin, layout = build(CODE, sizes, folder)
    images, labels = draw_batch()
    labels = torch.from_numpy(labels).long()
    optimiser = torch.optim.SGD(
        twin.parameters(), CODE.learning_rate, momentum=CODE.momentum, foreach=True
    )

    def loss(logits):
        return functional.cross_entropy(logits, labels)

    return train_in_torch(twin, optimiser, loss, [channels_first(images, layout)])


def segment_volume(sizes, folder: Path) -> Contender:
    """Segment the volume in the same windows."""
    from monai.inferers import sliding_window_inference

    twin, layout = build(PORT, sizes, folder)
    image = draw_volume(sizes)
    window = (PORT.window[0], *map(min, image.shape[1:], PORT.window[1:]))
    # MONAI takes the share that overlaps, and rounds the step that is left down.
    overlap = [1 - (step + 0.5) / edge if step < edge else 0.0
               for step, edge in zip(PORT.window_stride, window, strict=True)]  # fmt: skip

    def apply(windows):
        return torch.softmax(twin(windows.contiguous(memory_format=layout)), 1)

    @torch.inference_mode()
    def run() -> np.ndarray:
        found = sliding_window_inference(
            torch.from_numpy(image[None, None]), window, PORT.windows_per_batch, apply, overlap
        )
        return channels_last(found)[0]

    return predict(run)
