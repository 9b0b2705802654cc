"""Time inference, training and sampling against their naive forms, in the same run."""

from pathlib import Path

from common.cost.memory import GIB, peak_memory
from common.cost.stopwatch import clock, since


def bench(
    *,
    shape: tuple[int, int, int] = (240, 240, 155),
    batches: int = 3,
    steps: int = 20,
    bfloat16: bool = True,
) -> None:
    """Time inference and training against their naive forms, and print ratios.

    Inference: the fetal network on a volume of which a fifth is brain, files read and written,
    against the same network on every tile that the engine predicts. Training: segments per second
    with sampling, against the engine's expressions and its order of work; the share of time that
    the optimiser waits for segments.

    Args:
        shape: voxels (x, y, z) of the timed volume.
        batches: batches of five tiles that the naive form is timed on.
        steps: training steps that are timed.
        bfloat16: also time inference in bfloat16.
    """
    import tempfile

    from common.runtime import configure_runtime
    from dhcp_fetal.config import PORT
    from dhcp_fetal.serving import bench_served

    configure_runtime(seed=0)
    with tempfile.TemporaryDirectory() as scratch:
        bench_inference(Path(scratch), shape, batches, bfloat16=bfloat16)
        bench_training(Path(scratch), steps)
    bench_served(PORT)


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

    from dhcp_fetal.config import CODE
    from dhcp_fetal.model import build_model

    files = write_volume(folder, shape)
    model = build_model(CODE)
    networks, times, found = {"port": model}, {}, {}
    if bfloat16:
        keras.config.set_dtype_policy("mixed_bfloat16")
        networks["port, bfloat16"] = build_model(CODE)
        networks["port, bfloat16"].set_weights(model.get_weights())
        keras.config.set_dtype_policy("float32")
    for name, network in networks.items():
        times[name], found[name] = time_port(network, files, folder / name)
        print(f"{name}: {times[name][0]:.1f} s wall, {times[name][1]:.1f} CPU s, files included; "
              f"peak memory of this process {peak_memory() / GIB:.2f} GiB")  # fmt: skip
    (wall, cpu), tiles, apart = time_naive(model, files, batches, found["port"])
    print(f"naive: {wall:.1f} s wall, {cpu:.1f} CPU s for {tiles} tiles (forward alone, from "
          f"{5 * batches} of them); peak memory {peak_memory() / GIB:.2f} GiB; probabilities up to "
          f"{apart:.1e} from the port's")  # fmt: skip
    for name, (own_wall, own_cpu) in times.items():
        print(f"ratio naive / {name}: {wall / own_wall:.2f} wall, {cpu / own_cpu:.2f} CPU")
    if bfloat16:
        difference = np.abs(found["port"] - found["port, bfloat16"])
        changed = (found["port"].argmax(-1) != found["port, bfloat16"].argmax(-1)).mean()
        print(f"bfloat16 against float32: probabilities up to {difference.max():.1e} "
              f"(mean {difference.mean():.1e}) apart, {changed:.2%} of labels")  # fmt: skip


def time_port(model, files, out: Path):
    """Segment the volume as `predict` does; return (wall, CPU) seconds and the probabilities.

    A small volume goes first, for what TensorFlow does once.
    """
    import numpy as np

    from dhcp_fetal.config import CODE
    from dhcp_fetal.data import load_case, prepare_case
    from dhcp_fetal.inference import PieceNetwork, segment_volume
    from dhcp_fetal.outputs import write_results

    network = PieceNetwork(model, CODE)
    segment_volume(network, np.zeros((48, 48, 48, 1), np.float32), CODE)
    out.mkdir()
    start = clock()
    case = load_case(files, CODE)
    found = segment_volume(network, prepare_case(case, CODE), CODE, mask=case.mask)
    write_results(out, case.name, found, case.scan, CODE, saved=None)
    return since(start), found.probabilities


def time_naive(model, files, batches: int, probabilities):
    """Run the plain compiled network on some of the engine's tiles, five at a time.

    Returns:
        (wall, CPU) seconds for all tiles of the volume, their number, and the largest difference
        between the timed tiles and the port's result where the mask is 1.
    """
    import numpy as np

    from dhcp_fetal import geometry
    from dhcp_fetal.config import CODE
    from dhcp_fetal.data import load_case, prepare_case
    from dhcp_fetal.piece_network import make_apply
    from dhcp_fetal.pieces import plan_pieces
    from dhcp_fetal.tiles import cut_segment, pad_case, predicted_shift, tile_corners

    case, segment = load_case(files, CODE), CODE.inference_segment
    padded = pad_case(prepare_case(case, CODE), CODE, segment=segment, mask=case.mask)
    predicted = geometry.output_size(CODE, segment)
    corners = tile_corners(padded.image.shape[:3], segment, predicted, mask=padded.mask)
    middle = len(corners) // 2
    chosen = corners[middle : middle + 5 * batches]
    tiles = [cut_segment(padded, corner, segment, CODE, sampled=False) for corner in chosen]
    parts = [np.stack(part) for part in zip(*tiles, strict=True)]
    apply, outputs = make_apply(model), []
    apply([part[:5] for part in parts])  # compiled first
    start = clock()
    for first in range(0, len(chosen), 5):
        outputs.extend(apply([part[first : first + 5] for part in parts]))
    wall, cpu = (seconds / len(chosen) * len(corners) for seconds in since(start))
    pieces = plan_pieces(padded, CODE, limit=case.image.shape[:3])
    seen = {piece.corner: piece.seen for piece in pieces}
    apart, shift = 0.0, predicted_shift(padded, CODE, segment)
    for corner, output in zip(chosen, outputs, strict=True):
        box = seen.get(tuple(int(c) for c in corner), ((0, 0),) * 3)
        part = tuple(slice(*span) for span in box)
        place = tuple(slice(a + c + s, b + c + s)
                      for (a, b), c, s in zip(box, corner, shift, strict=True))  # fmt: skip
        difference = np.abs(output[part] - probabilities[place])[case.mask[place] > 0]
        apart = max(apart, float(difference.max(initial=0.0)))
    return (wall, cpu), len(corners), apart


def bench_training(folder: Path, steps: int) -> None:
    """Print segments per second with sampling, the naive form's, and the share of waiting."""
    from dataclasses import replace

    from dhcp_fetal.bench_engine import in_the_engines_expressions
    from dhcp_fetal.config import CODE
    from dhcp_fetal.feeding import CaseCache, SegmentSource, training_way
    from dhcp_fetal.model import build_model

    files = write_volume(folder, (90, 90, 90))
    # A case is turned and scaled once for the 500 segments that are drawn of it, as in the engine.
    config = replace(
        CODE, epochs=1, subepochs=2, segments_per_subepoch=1000, affine_probability=1.0
    )
    source = SegmentSource(
        CaseCache([files] * 2, config), training_way(config), seed=0,
        batch_size=config.batch_size, subepochs=2,
    )  # fmt: skip
    start = clock()
    drawn = source.draw(1)
    sampling = since(start)
    print(f"sampling {config.segments_per_subepoch} segments of 2 cases, affine included: "
          f"{sampling[0]:.2f} s wall, {sampling[1]:.2f} CPU s")  # fmt: skip
    engine = time_steps(in_the_engines_expressions(build_model(config)), config, drawn, steps)
    naive = [step / config.batch_size + draw / config.segments_per_subepoch
             for step, draw in zip(engine, sampling, strict=True)]  # fmt: skip
    (wall, cpu), waited = time_training(config, source, steps)
    print(f"training, naive: {1 / naive[0]:.1f} segments/s wall, {1 / naive[1]:.1f} per CPU s "
          "(the engine's expressions, sampling before each subepoch)")  # fmt: skip
    print(f"training, port: {1 / wall:.1f} segments/s wall, {1 / cpu:.1f} per CPU s; ratio "
          f"{naive[0] / wall:.2f} wall, {naive[1] / cpu:.2f} CPU; waiting for segments "
          f"{waited:.1%} of the time")  # fmt: skip
    print(f"peak memory of this process: {peak_memory() / GIB:.2f} GiB")


def time_steps(model, config, drawn, steps: int) -> tuple[float, float]:
    """Return (wall, CPU) seconds of one training step on segments drawn before."""
    compile_model(model, config)
    inputs, labels = drawn
    size = config.batch_size
    batches = [
        ([part[first : first + size] for part in inputs], labels[first : first + size])
        for first in range(0, (steps + 3) * size, size)
    ]
    for batch in batches[:3]:
        model.train_on_batch(*batch)
    start = clock()
    for batch in batches[3:]:
        model.train_on_batch(*batch)
    wall, cpu = since(start)
    return wall / steps, cpu / steps


def time_training(config, source, steps: int) -> tuple[tuple[float, float], float]:
    """Train as `train` does; return (wall, CPU) seconds per segment and the share of waiting.

    The clock runs from the middle of the first subepoch, while the second is sampled, to `steps`
    steps into the second.
    """
    import keras

    from dhcp_fetal.feeding import make_dataset
    from dhcp_fetal.model import build_model

    model = build_model(config)
    compile_model(model, config)
    first = config.segments_per_subepoch // config.batch_size // 2
    last = config.segments_per_subepoch // config.batch_size + steps

    class Stopwatch(keras.callbacks.Callback):
        begin = end = waited = None

        def on_train_batch_end(self, batch, logs=None):
            if batch == first - 1:
                self.begin, self.waited = clock(), source.waited_s
            if batch == last - 1:
                self.end, self.waited = since(self.begin), source.waited_s - self.waited
                self.model.stop_training = True

    watch = Stopwatch()
    data = make_dataset(source, config).take(last)
    model.fit(data, shuffle=False, verbose=0, callbacks=[watch])
    count = (last - first) * config.batch_size
    return tuple(seconds / count for seconds in watch.end), watch.waited / watch.end[0]


def compile_model(model, config) -> None:
    """Give a network the engine's cost and optimiser, as `train` does."""
    from dhcp_fetal.losses import EngineCost
    from dhcp_fetal.optimisers import make_optimiser

    optimiser = make_optimiser(config)
    optimiser.build(model.trainable_variables)
    model.compile(optimizer=optimiser, loss=EngineCost(model, config), jit_compile=False)
