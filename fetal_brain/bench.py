"""Time the port's way of inference against the original's, in the same run, and print ratios."""

import time


def bench(slices: int = 12, plane: int = 336, *, deep_slices: int = 170) -> None:
    """Time the port's way of inference against the original's, in the same run.

    Args:
        slices: slices of the timed volume; the original's README shows 120 and 170.
        plane: rows and columns; the original's README shows 336.
        deep_slices: slices of the volume whose peak memory is measured; 0 leaves that out.
    """
    import resource

    import numpy as np

    from common.training import configure_runtime
    from fetal_brain.config import CODE, PORT
    from fetal_brain.inference import build_for_any_plane, make_apply, plan_windows, segment_labels

    configure_runtime(seed=0)
    image = np.random.default_rng(0).normal(size=(slices, plane, plane)).astype(np.float32)
    seconds = {}
    for name, config in (("code", CODE), ("port", PORT)):
        apply = make_apply(build_for_any_plane(config), config)
        window = plan_windows(image.shape, config).window
        apply(np.zeros((config.windows_per_batch, *window, 1), np.float32))  # compile first
        start = time.perf_counter()
        segment_labels(apply, image, config)
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {seconds[name]:.2f} s for {slices} x {plane} x {plane}, window {window}")
    print(f"ratio code / port: {seconds['code'] / seconds['port']:.2f}")
    if deep_slices:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        deep = np.random.default_rng(0).normal(size=(deep_slices, plane, plane))
        start = time.perf_counter()
        segment_labels(apply, deep.astype(np.float32), PORT)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"port: {time.perf_counter() - start:.0f} s for {deep_slices} x {plane} x {plane}, "
            f"peak {peak / 2**20:.2f} GiB in all, {(peak - before) / 2**20:.2f} GiB more than above"
        )
