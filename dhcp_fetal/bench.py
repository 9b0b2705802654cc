"""Time inference, training and sampling against their naive forms, in the same run."""

import time
from pathlib import Path


def bench(
    *,
    shape: tuple[int, int, int] = (100, 100, 90),
    batches: int = 2,
    steps: int = 4,
    bfloat16: bool = True,
) -> None:
    """Time inference, training and sampling against their naive forms, and print ratios.

    Inference: the fetal network on a volume whose brain is a third of it, files read and written,
    against the same network called eagerly on every tile that the engine would predict. Training:
    segments per second with sampling, beside the share of time the optimiser waits for segments.

    Args:
        shape: voxels (x, y, z) of the timed volume.
        batches: batches of five tiles that the naive form is timed on.
        steps: training steps that are timed.
        bfloat16: also time inference in bfloat16.
    """
    import tempfile

    from common.training import configure_runtime

    configure_runtime(seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        bench_inference(Path(scratch), shape, batches, bfloat16=bfloat16)
        bench_training(Path(scratch), steps)


def clock() -> tuple[float, float]:
    """Return wall and CPU seconds."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Return wall and CPU seconds that have passed."""
    return time.perf_counter() - start[0], time.process_time() - start[1]


def write_volume(folder: Path, shape: tuple[int, int, int]):
    """Write a noisy volume with labels and an ellipsoid as region of interest; return its files."""
    import nibabel
    import numpy as np

    from dhcp_fetal.session import CaseFiles

    rng = np.random.default_rng(0)
    centred = [np.linspace(-1, 1, n) ** 2 for n in shape]
    distance = np.sqrt(np.add.outer(np.add.outer(*centred[:2]), centred[2]))
    arrays = {
        "scan": rng.normal(size=shape).astype(np.float32) + (distance < 0.6),
        "mask": (distance < 0.85).astype(np.uint8),
        "labels": (distance < 0.6).astype(np.uint8),
    }
    paths = {name: folder / f"{name}.nii.gz" for name in arrays}
    for name, array in arrays.items():
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), paths[name])
    return CaseFiles((paths["scan"],), labels=paths["labels"], mask=paths["mask"], name="bench")


def bench_inference(folder: Path, shape, batches: int, *, bfloat16: bool) -> None:
    """Print time and peak memory of a whole volume, and the naive form's, tile by tile."""
    import keras
    import numpy as np

    from dhcp_fetal import geometry
    from dhcp_fetal.chain import Stage, segment_case
    from dhcp_fetal.config import CODE
    from dhcp_fetal.data import load_case
    from dhcp_fetal.inference import make_apply
    from dhcp_fetal.model import build_model
    from dhcp_fetal.tiles import cut_segment, pad_case, tile_corners

    files = write_volume(folder, shape)
    case = load_case(files, CODE)
    segment = CODE.inference_segment
    padded = pad_case(case.image, CODE, segment=segment, mask=case.mask)
    stride = geometry.output_size(CODE, segment)
    corners = tile_corners(padded.image.shape[:3], segment, stride, mask=padded.mask)
    model = build_model(CODE)
    chosen = corners[: 5 * batches]
    tiles = [cut_segment(padded, corner, segment, CODE, sampled=False) for corner in chosen]
    parts = [np.stack(part) for part in zip(*tiles, strict=True)]
    networks, times, found = {"port": model}, {}, {}
    if bfloat16:
        keras.config.set_dtype_policy("mixed_bfloat16")
        networks["port, bfloat16"] = build_model(CODE)
        networks["port, bfloat16"].set_weights(model.get_weights())
        keras.config.set_dtype_policy("float32")
    for name, network in networks.items():
        apply = make_apply(network)
        apply([part[:5] for part in parts])  # compile first
        kept = []

        def remember(batch, apply=apply, kept=kept):
            kept.append(apply(batch))
            return kept[-1]

        start = clock()
        segment_case(files, [Stage("labels", remember, CODE)], folder / "out", saved=None)
        times[name] = since(start)
        found[name] = np.concatenate(kept)
        print(f"{name}: {times[name][0]:.1f} s wall, {times[name][1]:.1f} CPU s, files included; "
              f"peak memory of this process {peak_gib():.2f} GiB")  # fmt: skip
    model([part[:5] for part in parts], training=False)
    start = clock()
    for first in range(0, len(chosen), 5):
        np.asarray(model([part[first : first + 5] for part in parts], training=False))
    wall, cpu = (seconds / len(chosen) * len(corners) for seconds in since(start))
    print(f"naive: {wall:.1f} s wall, {cpu:.1f} CPU s for {len(corners)} tiles (forward alone, "
          f"from {len(chosen)} of them); peak memory {peak_gib():.2f} GiB")  # fmt: skip
    for name, (own_wall, own_cpu) in times.items():
        print(f"ratio naive / {name}: {wall / own_wall:.2f} wall, {cpu / own_cpu:.2f} CPU")
    if bfloat16:
        difference = np.abs(found["port"] - found["port, bfloat16"])
        changed = (found["port"].argmax(-1) != found["port, bfloat16"].argmax(-1)).mean()
        print(f"bfloat16 against float32: probabilities up to {difference.max():.1e} "
              f"(mean {difference.mean():.1e}) apart, {changed:.2%} of labels")  # fmt: skip


def bench_training(folder: Path, steps: int) -> None:
    """Print segments per second with sampling, the naive form's, and the share of waiting."""
    from dataclasses import replace

    import keras

    from dhcp_fetal.config import CODE
    from dhcp_fetal.feeding import CaseCache, SegmentSource, make_dataset, training_way
    from dhcp_fetal.losses import EngineCost
    from dhcp_fetal.model import build_model
    from dhcp_fetal.optimisers import make_optimiser

    files = write_volume(folder, (90, 90, 90))
    per_subepoch = steps * CODE.batch_size
    config = replace(
        CODE, epochs=1, subepochs=3, segments_per_subepoch=per_subepoch, affine_probability=0.7
    )
    model = build_model(config)
    optimiser = make_optimiser(config)
    optimiser.build(model.trainable_variables)
    model.compile(optimizer=optimiser, loss=EngineCost(model, config), jit_compile=False)
    source = SegmentSource(
        CaseCache([files] * 2, config), training_way(config), seed=0,
        batch_size=config.batch_size, subepochs=3,
    )  # fmt: skip
    start = clock()
    source.draw(0)
    wall, cpu = since(start)
    print(f"sampling {per_subepoch} segments of 2 cases: {wall:.2f} s wall, {cpu:.2f} CPU s")
    # Naive: every subepoch is sampled, then trained on.
    inputs, labels = source.draw(1)
    size = config.batch_size
    model.train_on_batch([part[:size] for part in inputs], labels[:size])
    start = clock()
    inputs, labels = source.draw(2)
    for first in range(0, per_subepoch, size):
        model.train_on_batch(
            [p[first : first + size] for p in inputs], labels[first : first + size]
        )
    naive_wall, naive_cpu = since(start)

    class Stopwatch(keras.callbacks.Callback):
        begin = end = None

        def on_train_batch_end(self, batch, logs=None):
            if batch == steps - 1:
                self.begin = clock()
            if batch == 3 * steps - 1:
                self.end = since(self.begin)

    watch = Stopwatch()
    model.fit(make_dataset(source, config), shuffle=False, verbose=0, callbacks=[watch])
    own_wall, own_cpu = watch.end
    count = 2 * per_subepoch
    print(f"training, naive: {per_subepoch / naive_wall:.1f} segments/s wall, "
          f"{per_subepoch / naive_cpu:.1f} per CPU s")  # fmt: skip
    print(f"training, port: {count / own_wall:.1f} segments/s wall, {count / own_cpu:.1f} per CPU "
          f"s; ratio {count / own_wall / (per_subepoch / naive_wall):.2f}; waiting for segments "
          f"{source.waited_s / own_wall:.1%} of the time")  # fmt: skip
    print(f"peak memory of this process: {peak_gib():.2f} GiB")


def peak_gib() -> float:
    """Return the largest memory this process has held."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
