"""Time the port's way of inference against the original's, in the same run, and print ratios."""

import time
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np


def bench(
    slices: int = 12,
    plane: int = 336,
    *,
    deep_slices: int = 170,
    only: Literal["all", "export"] = "all",
) -> None:
    """Time the port's way of inference against the original's, and the exported model, in one run.

    Args:
        slices: slices of the timed volume; the original's README shows 120 and 170.
        plane: rows and columns; the original's README shows 336.
        deep_slices: slices of the volume whose peak memory is measured; 0 leaves that out.
        only: export: the exported model alone.
    """
    from common.runtime import configure_runtime
    from fetal_brain.config import PORT
    from fetal_brain.serving import bench_served

    configure_runtime(seed=0)
    if only == "all":
        bench_inference(slices, plane, deep_slices)
    bench_served(PORT, slices=slices, plane=plane)


def bench_inference(slices: int, plane: int, deep_slices: int) -> None:
    """Time the port's windows and the code's, and measure the memory of a deep volume."""
    import numpy as np

    from fetal_brain.config import CODE, PORT
    from fetal_brain.inference import build_for_any_plane, on_volumes, segment_labels

    rng = np.random.default_rng(0)
    if deep_slices:  # first, since the largest memory of a process never falls again
        measure_memory(rng.normal(size=(deep_slices, plane, plane)).astype(np.float32))
    image = rng.normal(size=(slices, plane, plane)).astype(np.float32)
    seconds = {}
    for name, config in (("code", CODE), ("port", PORT)):
        segment = on_volumes(segment_labels, build_for_any_plane(config), config)
        segment(image[: config.window[0]])  # compile first
        start = time.perf_counter()
        segment(image)
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {seconds[name]:.2f} s for {slices} x {plane} x {plane}")
    print(f"ratio code / port: {seconds['code'] / seconds['port']:.2f}")


def measure_memory(image: "np.ndarray") -> None:
    """Segment a deep volume the port's way and print time and peak memory.

    Args:
        image: (Z, Y, X) float32; it counts as memory before.
    """
    from common.cost.memory import GIB, peak_memory
    from fetal_brain.config import PORT
    from fetal_brain.inference import build_for_any_plane, on_volumes, segment_labels

    before = peak_memory()
    start = time.perf_counter()
    on_volumes(segment_labels, build_for_any_plane(PORT), PORT)(image)
    shape, peak = " x ".join(map(str, image.shape)), peak_memory()
    print(
        f"port: {time.perf_counter() - start:.0f} s for {shape}, peak {peak / GIB:.2f} GiB, "
        f"{(peak - before) / GIB:.2f} GiB above the interpreter with TensorFlow and the image"
    )
