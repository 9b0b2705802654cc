"""The sides of the benchmark that run on TensorFlow; see `common.cost.turns`."""

from pathlib import Path

import nibabel
import numpy as np

from common.cost.turns import Contender
from common.study.contenders import configure, predict, share_weights, train_in_keras
from dhcp_fetal.batches import CaseCache, SegmentSource, training_way
from dhcp_fetal.config import CODE
from dhcp_fetal.inference import on_volumes
from dhcp_fetal.model import build_model
from dhcp_fetal.session import CaseFiles
from dhcp_fetal.study.bench import SAMPLED, STEPS, TRAINED, draw_batch, draw_volume
from dhcp_fetal.workload import compile_network


def train(sizes, folder: Path) -> Contender:
    """Take the training step of `train`."""
    runtime = configure(sizes)
    model = compile_network(build_model(TRAINED), TRAINED, xla=runtime["xla"])
    share_weights(model, folder)
    return train_in_keras(model, *draw_batch(), steps=STEPS)


def segment(sizes, folder: Path) -> Contender:
    """Segment a volume as `predict` does: of every tile the box that is seen."""
    configure(sizes)
    model = build_model(CODE)
    share_weights(model, folder)
    run, (image, mask) = on_volumes(model, CODE), draw_volume(sizes)
    return predict(lambda: run(image, mask).probabilities)


def sample(sizes, folder: Path) -> Contender:
    """Draw the segments of a subepoch as `train` does in a thread of its own."""
    files = write_case(folder)
    source = SegmentSource(
        CaseCache([files] * 2, SAMPLED), training_way(SAMPLED), seed=0,
        batch_size=SAMPLED.batch_size,
    )  # fmt: skip
    return predict(lambda: source.draw(0)[1])


def write_case(folder: Path) -> CaseFiles:
    """Write a volume of noise with an ellipsoid as mask and a smaller one as label."""
    image, mask = draw_volume({"shape": (90, 90, 90)})
    arrays = {"image": image[..., 0], "mask": mask, "labels": mask * (image[..., 0] > 0)}
    paths = {name: folder / f"{name}.nii.gz" for name in arrays}
    for name, array in arrays.items():
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), paths[name])
    return CaseFiles((paths["image"],), labels=paths["labels"], mask=paths["mask"])
