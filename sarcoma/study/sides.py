"""The sides of the benchmark that run on TensorFlow; see `common.cost.turns`."""

from pathlib import Path

from common.cost.turns import Contender
from common.study.contenders import configure, predict, share_weights, train_in_keras
from sarcoma.batches import make_dataset
from sarcoma.config import CODE
from sarcoma.inference import on_volumes, segment
from sarcoma.learning import build_for_training
from sarcoma.model import build_for_inference
from sarcoma.sampling import PatchSampler, Stack, make_pool
from sarcoma.study.bench import STEPS, draw_patches, draw_volume, write_cases

ENOUGH_STEPS = 100_000


def train(sizes, folder: Path) -> Contender:
    """Train as `train` does, on patches cut out of prepared slices."""
    stack = Stack(write_cases(folder), CODE, slices="window")
    runtime = configure(sizes)
    sampler = PatchSampler(stack, make_pool(stack, CODE), CODE, seed=0)
    model = build_for_training(CODE, xla=runtime["xla"], original=None)
    share_weights(model, folder)
    batches = make_dataset(sampler, first_step=0, last_step=ENOUGH_STEPS)

    def prove():
        losses = fixed.prove()
        model.fit(batches, steps_per_epoch=2, verbose=0)  # compiles another function
        return losses

    fixed = train_in_keras(model, *draw_patches(CODE.batch_size))
    return Contender(prove, lambda: model.fit(batches, steps_per_epoch=STEPS, verbose=0), STEPS)


def segment_volume(sizes, folder: Path) -> Contender:
    """Segment a volume as `predict` does."""
    configure(sizes)
    model = build_for_inference(CODE)
    share_weights(model, folder)
    run, image = on_volumes(segment, model, CODE), draw_volume(sizes)
    return predict(lambda: run(image))
