"""Time and memory of prediction and of a training step, beside the original's way of computing."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from common.cost.stopwatch import matmul_rate, time_call

MULTIPLY_ADDS_FULL = 3367e9
"""Of one forward pass over 512 x 512 x 20 voxels, two channels, the original's widths."""


def bench(
    shape: tuple[int, int, int] = (256, 256, 20),
    *,
    part: Literal["all", "original", "port", "step", "export"] = "all",
) -> None:
    """Time the port's prediction and training step against the original's way, and print ratios.

    Each part runs in a process of its own, so that its peak memory is its own.

    Args:
        shape: rows, columns, slices; 512,512,20 is the original's, and takes minutes.
        part: original: the pass that keeps whole layers, as the original's graph; port: the
            streamed pass; step: one training step with rematerialisation, and matrix products;
            export: the exported model beside the port's pass.
    """
    if part != "all":
        return run_part(shape, part)
    import subprocess
    import sys

    for name in ("original", "port", "step", "export"):
        words = [sys.executable, "-m", "raseg", "bench", "--part", name]
        done = subprocess.run(
            [*words, "--shape", str(list(shape))], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr.strip()[-500:]}")
        print(done.stdout.strip())
        if name == "original":
            original = parse_seconds(done.stdout)
        if name == "port":
            ratios = [a / b for a, b in zip(original, parse_seconds(done.stdout), strict=True)]
            print(f"ratio original / port: {ratios[0]:.2f} in wall time, {ratios[1]:.2f} in CPU "
                  f"time, {ratios[2]:.2f} in memory beyond the start")  # fmt: skip
    return None


def run_part(shape: tuple[int, int, int], part: str) -> None:
    """Run and print one part in this process."""
    import numpy as np

    from common.runtime import configure_runtime
    from raseg.config import CODE, PORT
    from raseg.inference import build_for_any_size, on_volumes, segment
    from raseg.serving import bench_served

    configure_runtime(seed=0)
    voxels = shape[0] * shape[1] * shape[2]
    work = 2 * MULTIPLY_ADDS_FULL * voxels / (512 * 512 * 20)
    image = np.random.default_rng(0).normal(size=(*shape, 2)).astype(np.float32)
    if part == "step":
        return time_step(image, work)
    if part == "export":
        return bench_served(PORT, shape)
    network = build_for_any_size(CODE)
    streamed_voxels = None if part == "original" else 0
    whole = on_volumes(segment, network, CODE, streamed_voxels=streamed_voxels)
    whole(image[:32, :32])  # compile
    wall, cpu, peak = measure(lambda: whole(image))
    print(f"{part}: prediction of {shape}: {wall:.2f} s, {cpu:.2f} CPU s, {peak:.2f} GiB beyond "
          f"the start, {work / wall / 1e9:.0f} GFLOP/s")  # fmt: skip
    if part == "port":
        print(f"pictures: {time_pictures(image[..., 0]):.2f} s for {2 * shape[2]}")
    return None


def time_step(image, work: float) -> None:
    """Time one training step, the second, and matrix products on the same machine."""
    import numpy as np

    from common.cost.operations import TRAINING_PASSES
    from raseg.config import CODE
    from raseg.learning import build_for_training

    config = replace(CODE, rematerialise=True)
    _, model, averages = build_for_training(config, 51, xla=False)
    averages.set_model(model)
    label = np.random.default_rng(1).integers(0, 2, image.shape[:3]).astype(np.int32)

    def step():
        averages.on_train_batch_begin(0)
        model.train_on_batch(image[None], label[None])

    wall, cpu, peak = measure(step)
    print(f"first training step, with compilation: {wall:.2f} s, peak {peak:.2f} GiB beyond start")
    wall, cpu, _ = measure(step)
    # What rematerialising repeats is not counted, since it is no progress.
    rate, best = TRAINING_PASSES * work / wall / 1e9, matmul_rate() / 1e9
    print(f"training step: {wall:.2f} s, {cpu:.2f} CPU s, {rate:.0f} GFLOP/s, "
          f"{rate / best:.0%} of the {best:.0f} GFLOP/s of matrix products")  # fmt: skip


def time_pictures(scan) -> float:
    """Return the seconds of writing two pictures per slice."""
    import tempfile

    from raseg.pictures import write_slices

    masks = {"true": scan > 1, "pred": scan > 2}
    with tempfile.TemporaryDirectory() as folder:
        drawn = partial(write_slices, Path(folder), scan, masks, prefix="img0", tag="bench")
        return time_call(drawn)[0]


def measure(run: Callable[[], object]) -> tuple[float, float, float]:
    """Return wall seconds, CPU seconds, and the GiB by which the process grew meanwhile."""
    import threading

    import psutil

    process, sizes, done = psutil.Process(), [0], threading.Event()
    start = process.memory_info().rss

    def watch():
        while not done.wait(0.02):
            sizes.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    wall, cpu = time_call(run)
    done.set()
    watcher.join()
    return wall, cpu, max(max(sizes) - start, 0) / 2**30


def parse_seconds(text: str) -> list[float]:
    """Return wall seconds, CPU seconds and GiB from the line a prediction prints."""
    import re

    pattern = r"([\d.]+) s, ([\d.]+) CPU s, ([\d.]+) GiB"
    return [float(value) for value in re.search(pattern, text).groups()]
