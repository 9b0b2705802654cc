"""Time network, deformation and search against the original's way, in one run, and print ratios."""

from pathlib import Path

from common.cost.memory import GIB, peak_memory
from common.cost.stopwatch import clock, fastest, matmul_rate, since
from vertebra.config import Config


def bench(
    channels: int = 64,
    *,
    weights: Path | None = None,
    patch_size: int = 128,
    repeats: int = 2,
    volume: tuple[int, int, int] = (400, 256, 256),
    volume_seconds: bool = True,
) -> None:
    """Time network, deformation and search against the original's way, in one run.

    Args:
        channels: of the network.
        weights: .pth file of the original, whose channels count then; default: fresh weights.
        patch_size: edge of the patch.
        repeats: timed passes of each network; the fastest counts.
        volume: slices, rows, columns of the searched phantom.
        volume_seconds: also time the search of the volume, with a perfect network.
    """
    from common.runtime import configure_runtime
    from vertebra.serving import bench_served

    configure_runtime(seed=0)
    config, values = network_weights(channels, patch_size, weights)
    seconds = bench_network(config, values, repeats=repeats)
    bench_moments()
    bench_elastic()
    if volume_seconds:
        bench_search(volume, seconds)
    bench_served(config)


def bench_network(config: Config, values: list, *, repeats: int) -> float:
    """Time one pass over a patch; return the wall seconds of the port's default."""
    import numpy as np

    from vertebra.bench_torch import time_original

    patch = phantom_patch(config.patch_size)
    work, rate = 2 * multiply_adds(config), matmul_rate()
    print(f"float32 matmul: {rate / 1e9:.0f} GFLOP/s; one pass: {work / 1e12:.3g} TFLOP")
    masks, seconds = {}, {}
    for precision in ("float32", "mixed_bfloat16"):
        for statistics in ("per_site", "batch"):
            model = build_with(config, values, statistics=statistics, precision=precision)
            name = f"{precision}, {statistics} statistics"
            wall, cpu, masks[precision, statistics] = time_pass(model, patch, repeats=repeats)
            seconds[name] = wall
            print(
                f"port, {name}: {wall:.2f} s, {cpu:.2f} CPU s, {work / wall / 1e9:.0f} GFLOP/s, "
                f"{100 * work / wall / rate:.0f} % of the float32 matmul rate"
            )
    exact, rounded = masks["float32", "batch"], masks["mixed_bfloat16", "batch"]
    error = np.abs(rounded - exact)
    flipped = np.count_nonzero((rounded > 0.5) != (exact > 0.5))
    print(
        f"bfloat16 against float32: probabilities differ by {error.mean():.1e} on average,"
        f" {error.max():.2g} at most; {flipped} of {error.size} voxels change sides"
        f" ({np.count_nonzero(exact > 0.5)} are foreground)"
    )
    print(f"peak memory of this process: {peak_memory() / GIB:.1f} GiB")
    theirs = time_original(config, patch, repeats=repeats)
    for layout, their_seconds in theirs.items():
        print(f"the original's layout in PyTorch, {layout}: {their_seconds:.2f} s")
        for name, wall in seconds.items():
            print(f"  ratio to the port, {name}: {their_seconds / wall:.2f}")
    if not theirs:
        print("PyTorch is not installed: no pass of the original's was timed")
    return seconds["float32, per_site statistics"]


def bench_moments() -> None:
    """Show how exact the variance over a patch is, in TensorFlow's way and in the port's [V39]."""
    import numpy as np
    import tensorflow as tf

    from vertebra.layers import exact_moments

    x = tf.random.normal((1, 128, 128, 128, 4)) + 3
    exact = np.asarray(x, np.float64).var((0, 1, 2, 3))
    ways = {"exact_moments": exact_moments(x), "tf.nn.moments": tf.nn.moments(x, (0, 1, 2, 3))}
    for name, (_, variance) in ways.items():
        worst = np.abs(np.asarray(variance) / exact - 1).max()
        print(f"variance over 128^3 voxels by {name}: off by {worst:.1e} of its value")


def network_weights(channels: int, patch_size: int, weights: Path | None) -> tuple[Config, list]:
    """Return the configuration and the values of a network's variables."""
    from dataclasses import replace

    from vertebra.config import CODE
    from vertebra.inference import load_original
    from vertebra.model import build_model

    config = replace(CODE, channels=channels, patch_size=patch_size)
    if weights is None:
        model = build_model(config)
    else:
        model, config = load_original(weights, config)
    return config, model.get_weights()


def build_with(config: Config, values: list, *, statistics: str, precision: str):
    """Build a network of a given precision and give it weights; sites are calibrated if asked."""
    from dataclasses import replace

    import keras

    from vertebra.model import build_model

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        model = build_model(replace(config, inference_statistics=statistics))
    finally:
        keras.config.set_dtype_policy(before)
    model.set_weights(values)
    return model


def phantom_patch(edge: int):
    """Return a patch (1, z, y, x, 2) out of a phantom, the upper half of it remembered."""
    import numpy as np

    from common.data.rng import rng_for
    from vertebra.phantom_spine import make_scan

    image, labels = make_scan((edge,) * 3, (1.0, 1.0, 1.0), rng_for(0, 0))
    middle = np.median(np.unique(labels.array))
    return np.stack([image.array, labels.array > middle], -1)[None].astype(np.float32)


def time_pass(model, patch, *, repeats: int) -> tuple:
    """Return wall and CPU seconds of the fastest pass, and its mask."""
    import tensorflow as tf

    run = tf.function(lambda x: model(x, training=False)["mask"])
    patch = tf.constant(patch)
    mask = run(patch).numpy()  # compiles
    return (*fastest(lambda: run(patch).numpy(), repeats), mask)


def multiply_adds(config: Config) -> int:
    """Return the multiply-adds of the convolutions of one pass over a patch."""
    edge, c, total = config.patch_size, config.channels, 0
    block = {"initial": 2 * c + c * c, "rest": 2 * c * c, "up": 3 * c * c, "final": c + 1}
    for level in range(edge.bit_length() - 1):
        voxels = (edge >> level) ** 3
        total += voxels * block["rest"]
        total += voxels * block["up"] if level < 3 else 0
        total += voxels * (block["initial"] + block["final"]) if level == 0 else 0
    return 27 * total


def bench_elastic(edge: int = 128) -> None:
    """Time the deformation of four arrays, the original's way and the port's; CPU seconds."""
    import numpy as np

    from vertebra.augmentation import deform, displacement_fields
    from vertebra.original_sampler import deform_originally

    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 4000, (edge,) * 3).astype(np.int16) for _ in range(3)]
    arrays.append(rng.random((edge,) * 3, dtype=np.float32))
    seconds = {}
    for name, work in (
        ("original", lambda: deform_originally(arrays, random=np.random.RandomState(0), alpha=20)),
        ("port", lambda: deform(arrays, displacement_fields(rng, (edge,) * 3, alpha=300, sigma=5))),
    ):
        work()
        start = clock()
        for _ in range(2):
            work()
        seconds[name] = since(start)[1] / 2
    print(
        f"elastic deformation of four {edge}^3 arrays: original {seconds['original']:.2f} CPU s, "
        f"port {seconds['port']:.2f} CPU s, ratio {seconds['original'] / seconds['port']:.1f}"
    )


def bench_search(shape: tuple[int, int, int], seconds_per_window: float) -> None:
    """Count the windows that a search looks at, with and without the windows of air."""
    from dataclasses import replace

    import numpy as np

    from common.data.rng import rng_for
    from vertebra.config import PORT
    from vertebra.phantom_spine import make_scan
    from vertebra.traverse import advance, begin, cut_padded

    image, labels = make_scan(shape, (1.0, 1.0, 1.0), rng_for(0, 0))
    half = PORT.patch_size // 2
    for skip in (False, True):
        config = replace(PORT, skip_air=skip)
        search = begin(image.array, config)
        start, asked = clock(), [0]

        def ask(_, memory, search=search, asked=asked):
            asked[0] += 1
            window = cut_padded(labels.array, search.centre, half)
            return next_vertebra(window, memory, PORT.min_vol), 1.0

        for _ in advance(search, ask):
            pass
        spent, _ = since(start)
        name = "x".join(map(str, shape))
        print(
            f"search of {name}{' without air' if skip else ''}: {asked[0]} windows through the"
            f" network of {len(search.visits)}, {np.unique(search.mask).size - 1} of"
            f" {np.unique(labels.array).size - 1} vertebrae; {spent:.1f} s beside the network,"
            f" {asked[0] * seconds_per_window:.0f} s in it"
        )


def next_vertebra(labels, memory, least: int):
    """Return the highest vertebra that has more than `least` voxels not yet remembered."""
    import numpy as np

    counts = np.bincount(labels[memory == 0].astype(int), minlength=1)
    for label in np.flatnonzero(counts)[::-1]:
        if label and counts[label] > least:
            return (labels == label).astype(np.float32)
    return np.zeros(labels.shape, np.float32)
