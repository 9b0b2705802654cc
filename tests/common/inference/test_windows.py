"""Windows and their stitching: by hand, against DLTK's recorded outputs, against whole sums."""

import math

import numpy as np
import pytest
import tensorflow as tf

from common.inference.loops import join_tiles
from common.inference.windows import stitch_windows, window_corners, window_starts

SHAPES = [
    # shape, window, stride
    ((6, 20, 22), (3, 8, 8), (1, 4, 4)),
    ((3, 8, 8), (3, 8, 8), (1, 4, 4)),
    ((7, 9, 10), (3, 4, 5), (2, 3, 4)),
    ((7, 9, 10), (3, 4, 5), (3, 4, 5)),
    ((1, 12, 12), (1, 8, 8), (1, 4, 4)),
    ((11, 5, 5), (10, 5, 2), (7, 1, 1)),
]


@pytest.fixture(scope="module")
def recorded(golden_dir):
    with np.load(golden_dir / "fetal_brain" / "sliding_window.npz") as file:
        return dict(file)


def stitch(volume, apply, *, channels=None, **options):
    """Return what a graph makes of a volume whose sizes it learns when it runs.

    Args:
        volume: (Z, Y, X, channels), any real dtype.
        apply: windows -> outputs, arrays.
        channels: of an output; None: those of the volume.
        options: of `stitch_windows`.
    """

    def in_numpy(windows):
        return tf.numpy_function(lambda x: np.asarray(apply(x), np.float32), [windows], tf.float32)

    @tf.function(
        input_signature=[tf.TensorSpec((None, None, None, volume.shape[-1]))], autograph=False
    )
    def run(volume):
        return stitch_windows(
            volume, in_numpy, channels=channels or volume.shape[-1], **options
        )  # fmt: skip

    return run(tf.constant(volume, tf.float32)).numpy()


def corners_of(shape, window, stride):
    """Return the corners of all windows, (n, 3), the last axis fastest."""
    return window_corners(tf.constant(shape), window, stride).numpy()


def first_axis_fastest(corners):
    """Return the same corners in DLTK's order."""
    return corners[np.lexsort(corners.T)]


def make_toy(window, output_window):
    """Output that depends on the window's content and on the place within it."""
    z, y, x = np.indices(window)
    ramp = ((1 + z + 10 * y + 100 * x) / 100).astype(np.float32)[..., None]
    crop = tuple(
        slice((a - b) // 2, (a - b) // 2 + b) for a, b in zip(window, output_window, strict=True)
    )

    def toy(batch):
        centred = batch - batch.mean(axis=(1, 2, 3, 4), keepdims=True)
        output = np.concatenate([centred, batch * ramp], axis=-1)
        return output[(slice(None), *crop)]

    return toy


def stitch_naively(volume, apply, *, window, stride, output_window=None, repeat_last=False):
    """The original's way: the whole volume padded, all sums held, the first axis fastest."""
    output_window = tuple(output_window or window)
    margin = np.subtract(window, output_window)
    padded = np.pad(volume, [*((d // 2, d - d // 2) for d in margin), (0, 0)])
    corners = list(first_axis_fastest(corners_of(volume.shape[:-1], output_window, stride)))
    total = count = 0.0
    for corner in corners + corners[-1:] * repeat_last:
        read = tuple(slice(a, a + n) for a, n in zip(corner, window, strict=True))
        written = tuple(slice(a, a + n) for a, n in zip(corner, output_window, strict=True))
        output = apply(padded[read][None])[0]
        placed = np.zeros((*volume.shape[:-1], output.shape[-1]))
        placed[written] = output
        covered = np.zeros((*volume.shape[:-1], 1))
        covered[written] = 1
        total, count = total + placed, count + covered
    return total / count


@pytest.mark.parametrize(
    ("size", "window", "stride", "expected"),
    [
        (336, 128, 64, (0, 64, 128, 192, 208)),
        (136, 128, 64, (0, 8)),
        (128, 128, 64, (0,)),
        (256, 128, 64, (0, 64, 128)),
        (5, 3, 1, (0, 1, 2)),
        (7, 3, 5, (0, 4)),
        (1, 1, 9, (0,)),
    ],
)
def test_starts(size, window, stride, expected):
    assert tuple(window_starts(size, window, stride).numpy()) == expected


def test_corner_order_by_hand():
    found = corners_of((2, 1, 3), (1, 1, 2), (1, 1, 1))
    assert found.tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]
    assert first_axis_fastest(found).tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1]]


@pytest.mark.parametrize("number", range(9))
def test_places_equal_the_original(recorded, number):
    place = {
        key: recorded.get(f"place{number}_{key}")
        for key in ("img", "win", "stride", "n", "slices", "first20")
    }
    corners = first_axis_fastest(corners_of(place["img"], place["win"], place["stride"]))
    assert len(corners) == place["n"]
    slices = np.stack([corners, corners + place["win"]], axis=-1)
    if place["slices"] is not None:
        np.testing.assert_array_equal(slices, place["slices"])
        return
    np.testing.assert_array_equal(slices[:20], place["first20"])
    for axis, name in enumerate("zyx"):
        expected = recorded[f"place{number}_axis_starts_{name}"]
        np.testing.assert_array_equal(np.unique(corners[:, axis]), expected)


@pytest.mark.parametrize(
    "case",
    ["b1", "b4", "b32", "b1_one", "b32_one", "stride", "flat", "valid", "valid_b1"],
)
def test_stitching_equals_the_original(recorded, case):
    """Float32 output of a float64 mean: one rounding, 6e-8 relative. The original's float32 mean
    of a window differs from numpy's by as much. Measured: 9.6e-7 absolute, values up to 22."""
    volume, expected = recorded[f"sw_{case}_vol"][0], recorded[f"sw_{case}_out"][0]
    window = tuple(map(int, recorded[f"sw_{case}_win"]))
    output_window = tuple(map(int, recorded.get(f"sw_{case}_op", window)))
    half = tuple(max(1, edge // 2) for edge in window)
    default = half if output_window == window else output_window
    batches = []
    toy = make_toy(window, output_window)

    def apply(batch):
        batches.append(batch.shape)
        return toy(batch)

    batch_size = int(recorded[f"sw_{case}_batch"])
    stitched = stitch(
        volume,
        apply,
        window=window,
        stride=tuple(map(int, recorded.get(f"sw_{case}_stride", default))),
        batch_size=batch_size,
        channels=2,
        output_window=output_window,
        count_last_window_twice=True,
    )
    assert stitched.dtype == np.float32
    np.testing.assert_allclose(stitched, expected, rtol=1e-7, atol=1e-6)
    # As many windows as the original evaluates, in other batches.
    windows = recorded[f"sw_{case}_calls"].sum()
    assert sum(batch[0] for batch in batches) == windows
    assert len(batches) == math.ceil(windows / batch_size)
    assert {batch[1:] for batch in batches} == {(*window, 1)}


def test_without_the_doubled_window_the_original_is_missed(recorded):
    stitched = stitch(
        recorded["sw_b4_vol"][0],
        make_toy((3, 8, 8), (3, 8, 8)),
        channels=2,
        window=(3, 8, 8),
        stride=(1, 4, 4),
        batch_size=4,
    )
    difference = np.abs(stitched - recorded["sw_b4_out"][0]).max(axis=-1)
    assert difference.max() > 0.1
    assert difference[:3].max() < 1e-6
    assert difference[:, :12].max() < 1e-6
    assert difference[:, :, :14].max() < 1e-6


def test_last_window_by_hand():
    """Two windows of constant 0 and 1 overlap in one voxel: mean 1/2, doubled (0 + 1 + 1) / 3."""
    volume = np.arange(3.0).reshape(1, 1, 3, 1)

    def first_voxel(batch):
        return np.broadcast_to(batch[:, :1, :1, :1], batch.shape)

    options = {"window": (1, 1, 2), "stride": (1, 1, 1), "batch_size": 1}
    once = stitch(volume, first_voxel, **options)
    twice = stitch(volume, first_voxel, count_last_window_twice=True, **options)
    np.testing.assert_array_equal(once.ravel(), [0, 0.5, 1])
    np.testing.assert_array_equal(twice.ravel(), np.float32([0, 2 / 3, 1]))


def test_sums_are_float64():
    """The middle voxel has 2**24, 1 and -2**24; float32 loses the 1 in the first sum."""
    volume = np.array([2.0**24, 1.0, -(2.0**24), 0.0, 0.0]).reshape(5, 1, 1, 1)

    def first_voxel(batch):
        return np.broadcast_to(batch[:, :1], batch.shape)

    stitched = stitch(volume, first_voxel, window=(3, 1, 1), stride=(1, 1, 1), batch_size=2)
    assert stitched[2].item() == np.float32(1 / 3)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
@pytest.mark.parametrize(("shape", "window", "stride"), SHAPES)
def test_identity_returns_the_input(shape, window, stride, batch_size):
    """Also proves that every voxel is covered: an uncovered one would be NaN."""
    volume = np.random.default_rng(5).integers(-1000, 1000, (*shape, 2)).astype(np.int16)
    stitched = stitch(
        volume, lambda batch: batch, window=window, stride=stride, batch_size=batch_size
    )
    np.testing.assert_array_equal(stitched, volume)


@pytest.mark.parametrize("repeat_last", [False, True])
@pytest.mark.parametrize("output_window", [None, (1, 2, 2)])
@pytest.mark.parametrize(("shape", "window", "stride"), SHAPES)
def test_equals_whole_volume_sums(shape, window, stride, output_window, repeat_last):
    volume = np.random.default_rng(6).standard_normal((*shape, 1)).astype(np.float32)
    options = {"window": window, "output_window": output_window, "stride": stride}
    if output_window:
        options["stride"] = (1, 2, 1)
    toy = make_toy(window, output_window or window)
    expected = stitch_naively(volume, toy, repeat_last=repeat_last, **options)
    stitched = stitch(
        volume, toy, channels=2, batch_size=5, count_last_window_twice=repeat_last, **options
    )
    np.testing.assert_allclose(stitched, expected, rtol=1e-6, atol=1e-6)


def test_what_is_kept_is_final_and_in_order():
    """Slices are finished as windows leave them behind; of one slice `keep` tells what it keeps."""
    volume = np.random.default_rng(7).standard_normal((9, 6, 6, 1)).astype(np.float32)
    seen = []

    def keep(means):
        tf.numpy_function(lambda part: seen.append(len(part)), [means], [])
        return tf.cast(means[:, :, 1:, 0] > 0, tf.uint8)

    found = stitch(volume, lambda batch: batch, window=(4, 4, 4), stride=(2, 2, 2), batch_size=4,
                   keep=keep)  # fmt: skip
    np.testing.assert_array_equal(found, (volume[:, :, 1:, 0] > 0).astype(np.uint8), strict=True)
    assert seen == [1, 2, 2, 1, 4]


def test_the_last_batch_is_smaller():
    seen, progress = [], []

    def apply(batch):
        seen.append(batch.ravel().tolist())
        return batch

    volume = np.arange(5.0).reshape(5, 1, 1, 1)
    stitched = stitch(
        volume,
        apply,
        window=(1, 1, 1),
        stride=(1, 1, 1),
        batch_size=3,
        progress=lambda done, total: progress.append((int(done), int(total))),
    )
    assert seen == [[0, 1, 2], [3, 4]]
    np.testing.assert_array_equal(stitched, volume)
    assert progress == [(3, 5), (5, 5)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": (3, 9, 8)}, "does not fit"),
        ({"stride": (1, 9, 1)}, "leaves out voxels"),
        ({"output_window": (2, 2, 2), "stride": (3, 1, 1)}, "leaves out voxels"),
    ],
)
def test_windows_that_do_not_cover_the_volume_are_refused(changes, message):
    options = {"window": (3, 4, 4), "stride": (1, 1, 1), "batch_size": 2} | changes
    shape = (8, 20, 20, 1) if "stride" in changes else (8, 8, 8, 1)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        stitch(np.zeros(shape), lambda batch: batch, **options)


def test_wrong_output_shape_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError):
        stitch(np.zeros((4, 4, 4, 1)), lambda b: b[:, 1:], window=(2, 2, 2), stride=(1, 1, 1),
               batch_size=1)  # fmt: skip


@pytest.mark.slow
def test_stride_may_leave_gaps_between_starts_but_not_between_windows():
    for stride in ((1, 1, 1), (2, 2, 2), (3, 3, 3), (1, 2, 3), (2, 3, 1), (3, 1, 2)):
        volume = np.ones((7, 8, 9, 1))
        stitched = stitch(
            volume, lambda batch: batch, window=(3, 3, 3), stride=stride, batch_size=8
        )
        np.testing.assert_array_equal(stitched, volume)


def test_tiles_of_unequal_size_are_joined_in_place():
    whole = np.random.default_rng(0).normal(size=(5, 4, 6, 2)).astype(np.float32)
    edges = [[0, 2, 5], [0, 4], [0, 1, 3, 6]]
    asked = []

    def compute(*numbers):
        tf.py_function(lambda *n: asked.append(tuple(int(i) for i in n)), numbers, [])
        low = [tf.gather(edge, n) for edge, n in zip(edges, numbers, strict=True)]
        high = [tf.gather(edge, n + 1) for edge, n in zip(edges, numbers, strict=True)]
        return tf.slice(whole, [*low, 0], [*(h - n for h, n in zip(high, low, strict=True)), 2])

    sizes = [tf.constant(np.diff(edge), tf.int32) for edge in edges]
    found = tf.function(lambda: join_tiles(compute, sizes, channels=2))()
    np.testing.assert_array_equal(found, whole)
    assert sorted(asked) == [(i, 0, k) for i in range(2) for k in range(3)]
