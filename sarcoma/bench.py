"""Time training against the original's own loop, in the same run, and print ratios."""

from pathlib import Path

from common.cost.stopwatch import clock, since, time_call

PATCHES = 1800
"""Of the made-up data; the original holds them all in memory, we cut them from slices."""


def bench(steps: int = 40, *, mixed_precision: bool = True, out: Path | None = None) -> None:
    """Time training against the original's own loop, in the same run.

    The original's loop is repeated on tf-keras: the same network, ImageDataGenerator with flips,
    batches of 18 patches in memory. Ours cuts every patch from its slice. Each runs in a process of
    its own with the runtime it has in real life.

    Args:
        steps: timed steps of each, after five that are not.
        mixed_precision: time ours with bfloat16 arithmetic as well. "free" is --deterministic
            false, which lets several operations run side by side.
        out: JSON file with the numbers.
    """
    from common.files import write_json

    measured = {way: run_apart(way, steps) for way in ("original", "port", "port free")}
    if mixed_precision:
        measured |= {way: run_apart(way, steps) for way in ("port bfloat16", "port free bfloat16")}
    baseline = measured["original"]
    for name, numbers in measured.items():
        waited = numbers.get("waited")
        share = "" if waited is None else f", {waited:.1%} of it spent waiting for patches"
        print(
            f"{name}: {numbers['patches_per_second']:.1f} patches/s, "
            f"{numbers['seconds_per_step']:.3f} s a step{share}; ratio to the original "
            f"{numbers['patches_per_second'] / baseline['patches_per_second']:.2f}, by processor "
            f"time {baseline['cpu_seconds_per_step'] / numbers['cpu_seconds_per_step']:.2f}"
        )
    if out is not None:
        write_json(out, measured)
    bench_export()


def bench_export() -> None:
    """Time the exported model beside Keras, in this process; see `common.export.bench`."""
    from common.runtime import configure_runtime
    from sarcoma.config import PORT
    from sarcoma.serving import bench_served

    configure_runtime(seed=0)
    bench_served(PORT)


def run_apart(way: str, steps: int) -> dict[str, float]:
    """Time one way of training in a new process and return what it measured."""
    import json
    import os
    import subprocess
    import sys

    from common.papers import ROOT

    words = [sys.executable, "-m", "sarcoma.bench", way, str(steps)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{way} could not be timed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def time_original(steps: int) -> dict[str, float]:
    """Train as train.py does, on tf-keras: patches in memory, flips of its generator."""

    import numpy as np
    import tf_keras

    from sarcoma.config import CODE

    rng = np.random.default_rng(0)
    x = rng.normal(size=(PATCHES, 56, 56, 1)).astype(np.float32)
    y = (rng.random((PATCHES, 28, 28, 1)) < 0.13).astype(np.float32)
    backend = tf_keras.backend

    def dice_loss(true, found):
        overlap = backend.sum(backend.flatten(true) * backend.flatten(found))
        return -(2 * overlap + 1) / (backend.sum(true) + backend.sum(found) + 1)

    model = build_in_tf_keras()
    model.compile(tf_keras.optimizers.Adam(CODE.learning_rate), dice_loss)
    generator = tf_keras.preprocessing.image.ImageDataGenerator(
        horizontal_flip=True, vertical_flip=True
    )
    batches = generator.flow(x, y, batch_size=CODE.batch_size)
    model.fit(batches, steps_per_epoch=5, verbose=0)
    seconds, cpu = time_call(lambda: model.fit(batches, steps_per_epoch=steps, verbose=0))
    return rates(seconds, cpu, steps, CODE.batch_size)


def build_in_tf_keras():
    """Build the released U-Net with the library whose loop is timed."""
    import tf_keras

    from sarcoma.config import CODE

    layers = tf_keras.layers

    def convolve(x, filters, times):
        for _ in range(times):
            x = layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        return x

    image = x = layers.Input((56, 56, 1))
    skips = []
    for filters in CODE.filters[:-1]:
        x = convolve(x, filters, 2)
        skips.append(x)
        x = layers.MaxPooling2D(2)(x)
    x = convolve(x, CODE.filters[-1], 4)
    for filters, skip in zip(CODE.filters[-2:0:-1], skips[:0:-1], strict=True):
        x = layers.Conv2DTranspose(filters, 2, strides=2, padding="same")(x)
        x = convolve(layers.Concatenate()([x, skip]), filters, 2)
    x = layers.Conv2D(CODE.filters[0], 1, activation="relu")(x)
    return tf_keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid")(x))


def time_port(steps: int, *, deterministic: bool, mixed_precision: bool) -> dict[str, float]:
    """Train the same network as `train` does: patches cut from prepared slices."""
    import tempfile

    from common.runtime import configure_runtime
    from sarcoma.batches import make_dataset
    from sarcoma.config import CODE
    from sarcoma.learning import compile_model
    from sarcoma.model import build_model
    from sarcoma.sampling import PatchSampler, Stack, make_pool

    with tempfile.TemporaryDirectory() as scratch:
        stack = Stack(make_cases(Path(scratch)), CODE, slices="window")
        facts = configure_runtime(
            seed=0, deterministic=deterministic, mixed_precision=mixed_precision
        )
        sampler = PatchSampler(stack, make_pool(stack, CODE), CODE, seed=0)
        model = build_model(CODE)
        compile_model(model, CODE, xla=facts["xla"])
        batches = iter(make_dataset(sampler, first_step=0, last_step=steps + 5))
        for _ in range(5):
            model.train_on_batch(*next(batches))
        waited, start = 0.0, clock()
        for _ in range(steps):
            asked = clock()
            batch = next(batches)
            waited += since(asked)[0]
            model.train_on_batch(*batch)
        seconds, cpu = since(start)
    return {**rates(seconds, cpu, steps, CODE.batch_size), "waited": waited / seconds}


def make_cases(folder: Path):
    """Write two prepared patients of the true size, made of noise with a bright square."""
    import numpy as np

    from common.data.prepared_store import write_prepared_case

    rng = np.random.default_rng(0)
    cases = []
    for name in ("A", "B"):
        image = rng.normal(size=(40, 100, 100, 1)).astype(np.float32)
        label = np.zeros(image.shape[:3], np.uint8)
        label[10:25, 40:52, 40:52] = 1
        arrays = {"image": image, "label": label, "window": np.array([10, 25])}
        cases.append(write_prepared_case(folder, name, arrays))
    return cases


def rates(seconds: float, cpu: float, steps: int, batch: int) -> dict[str, float]:
    """Return patches per second, and seconds per step by the clock and of all processors."""
    return {
        "patches_per_second": steps * batch / seconds,
        "seconds_per_step": seconds / steps,
        "cpu_seconds_per_step": cpu / steps,
    }


if __name__ == "__main__":
    import json
    import sys

    way, count = sys.argv[1], int(sys.argv[2])
    found = (
        time_original(count)
        if way == "original"
        else time_port(count, deterministic="free" not in way, mixed_precision="bfloat16" in way)
    )
    print(json.dumps(found))
