import math
import tracemalloc
from itertools import product

import numpy as np
import pytest

from common.inference.windows import stitch_volume, stitch_windows, window_corners, window_starts

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
    corners = list(window_corners(volume.shape[:-1], output_window, stride, fastest="first"))
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
    assert window_starts(size, window, stride) == expected


@pytest.mark.parametrize(("size", "window", "stride"), [(4, 5, 1), (4, 2, 0), (4, 0, 1)])
def test_starts_refuse(size, window, stride):
    with pytest.raises(ValueError, match=r"does not fit|at least 1"):
        window_starts(size, window, stride)


def test_corner_order_by_hand():
    last = window_corners((2, 3), (1, 2), (1, 1))
    first = window_corners((2, 3), (1, 2), (1, 1), fastest="first")
    assert last.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert first.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]


def test_corners_refuse_other_orders():
    with pytest.raises(ValueError, match="fastest"):
        window_corners((2, 3), (1, 2), (1, 1), fastest="x")


@pytest.mark.parametrize("number", range(9))
def test_places_equal_the_original(recorded, number):
    place = {
        key: recorded.get(f"place{number}_{key}")
        for key in ("img", "win", "stride", "n", "slices", "first20")
    }
    corners = window_corners(place["img"], place["win"], place["stride"], fastest="first")
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
    window = tuple(recorded[f"sw_{case}_win"])
    output_window = tuple(recorded.get(f"sw_{case}_op", window))
    half = tuple(max(1, edge // 2) for edge in window)
    default = half if output_window == window else output_window
    batches = []
    toy = make_toy(window, output_window)

    def apply(batch):
        batches.append(batch.shape)
        return toy(batch)

    stitched = stitch_volume(
        volume,
        apply,
        window=window,
        stride=tuple(recorded.get(f"sw_{case}_stride", default)),
        batch_size=int(recorded[f"sw_{case}_batch"]),
        output_window=output_window,
        count_last_window_twice=True,
    )
    assert stitched.dtype == np.float32
    np.testing.assert_allclose(stitched, expected, rtol=1e-7, atol=1e-6)
    # The original evaluates one window more, in batches of varying size.
    windows = recorded[f"sw_{case}_calls"].sum() - 1
    assert len(batches) == math.ceil(windows / recorded[f"sw_{case}_batch"])
    assert set(batches) == {(int(recorded[f"sw_{case}_batch"]), *window, 1)}


def test_without_the_doubled_window_the_original_is_missed(recorded):
    stitched = stitch_volume(
        recorded["sw_b4_vol"][0],
        make_toy((3, 8, 8), (3, 8, 8)),
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
    once = stitch_volume(volume, first_voxel, **options)
    twice = stitch_volume(volume, first_voxel, count_last_window_twice=True, **options)
    np.testing.assert_array_equal(once.ravel(), [0, 0.5, 1])
    np.testing.assert_array_equal(twice.ravel(), np.float32([0, 2 / 3, 1]))


def test_sums_are_float64():
    """The middle voxel has 2**24, 1 and -2**24; float32 loses the 1 in the first sum."""
    volume = np.array([2.0**24, 1.0, -(2.0**24), 0.0, 0.0]).reshape(5, 1, 1, 1)

    def first_voxel(batch):
        return np.broadcast_to(batch[:, :1], batch.shape)

    stitched = stitch_volume(volume, first_voxel, window=(3, 1, 1), stride=(1, 1, 1), batch_size=2)
    assert stitched[2].item() == np.float32(1 / 3)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
@pytest.mark.parametrize(("shape", "window", "stride"), SHAPES)
def test_identity_returns_the_input(shape, window, stride, batch_size):
    """Also proves that every voxel is covered: an uncovered one would be NaN."""
    volume = np.random.default_rng(5).integers(-1000, 1000, (*shape, 2)).astype(np.int16)
    stitched = stitch_volume(
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
    stitched = stitch_volume(
        volume, toy, batch_size=5, count_last_window_twice=repeat_last, **options
    )
    np.testing.assert_allclose(stitched, expected, rtol=1e-6, atol=1e-6)


def test_slabs_are_in_order_final_and_their_own():
    volume = np.random.default_rng(7).standard_normal((9, 6, 6, 1)).astype(np.float32)
    options = {"window": (4, 4, 4), "stride": (2, 2, 2), "batch_size": 3}
    slabs = list(stitch_windows(volume, lambda batch: batch, **options))
    assert [(first, len(slab)) for first, slab in slabs] == [(0, 2), (2, 2), (4, 1), (5, 4)]
    for first, slab in slabs:
        assert slab.dtype == np.float32
        np.testing.assert_array_equal(slab, volume[first : first + len(slab)])


def test_filling_of_the_last_batch_is_dropped():
    seen = []

    def apply(batch):
        seen.append(batch.copy())
        return batch

    volume = np.arange(5.0).reshape(5, 1, 1, 1)
    progress = []
    stitched = stitch_volume(
        volume,
        apply,
        window=(1, 1, 1),
        stride=(1, 1, 1),
        batch_size=3,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert [batch.ravel().tolist() for batch in seen] == [[0, 1, 2], [3, 4, 4]]
    np.testing.assert_array_equal(stitched, volume)
    assert progress == [(3, 5), (5, 5)]


class DeepVolume:
    """A volume that exists only where it is read: voxel value = slice number."""

    def __init__(self, depth, plane=(16, 16)):
        self.shape = (depth, *plane, 1)
        self.deepest_read = 0

    def __getitem__(self, box):
        z, y, x = (range(n)[part] for n, part in zip(self.shape[:-1], box, strict=True))
        self.deepest_read = max(self.deepest_read, z[-1])
        slices = np.arange(z.start, z.stop, dtype=np.float32)[:, None, None, None]
        return np.broadcast_to(slices, (len(z), len(y), len(x), 1))


def peak_bytes(volume, **options):
    tracemalloc.start()
    try:
        for first, slab in stitch_windows(
            volume, lambda batch: np.concatenate([batch, -batch], axis=-1), **options
        ):
            assert slab[0, 0, 0].tolist() == [first, -first]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_depth():
    options = {"window": (3, 8, 8), "stride": (1, 4, 4), "batch_size": 4}
    shallow = peak_bytes(DeepVolume(20), **options)
    deep = peak_bytes(DeepVolume(1500), **options)
    # The list of corners (24 bytes a window) is the one thing that grows.
    windows = 1500 * 9
    assert deep - shallow < 5 * 24 * windows
    assert deep < 1500 * 16 * 16 * 2 * 4


def test_memory_of_a_fetal_stack():
    """In-plane size of the published stacks; depth adds nothing, so 6 slices stand for 170."""
    volume = DeepVolume(6, plane=(336, 336))
    options = {"window": (3, 128, 128), "stride": (1, 64, 64), "batch_size": 4}
    assert peak_bytes(volume, **options) < 30e6


def test_reading_keeps_pace_with_the_slabs():
    volume = DeepVolume(100)
    for first, slab in stitch_windows(
        volume, lambda batch: batch, window=(3, 8, 8), stride=(1, 4, 4), batch_size=4
    ):
        assert volume.deepest_read <= first + len(slab) + 3


def test_memory_map(tmp_path):
    volume = np.random.default_rng(8).standard_normal((5, 9, 9, 1)).astype(np.float32)
    np.save(tmp_path / "volume.npy", volume)
    mapped = np.load(tmp_path / "volume.npy", mmap_mode="r")
    stitched = stitch_volume(
        mapped, lambda batch: batch, window=(3, 4, 4), stride=(1, 2, 2), batch_size=2
    )
    np.testing.assert_array_equal(stitched, volume)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": (3, 9, 8)}, "does not fit"),
        ({"window": (3, 8)}, "no channel axis"),
        ({"stride": (1, 9, 1)}, "leaves out voxels along axis 1"),
        ({"output_window": (3, 8, 5)}, "larger than the window"),
        ({"output_window": (2, 2, 2), "stride": (3, 1, 1)}, "leaves out voxels along axis 0"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_mistakes_are_refused_at_the_call(changes, message):
    options = {"window": (3, 4, 4), "stride": (1, 1, 1), "batch_size": 2} | changes
    shape = (8, 20, 20, 1) if "stride" in changes else (8, 8, 8, 1)
    with pytest.raises(ValueError, match=message):
        stitch_windows(np.zeros(shape), lambda batch: batch, **options)


def test_wrong_output_shape_is_refused():
    slabs = stitch_windows(
        np.zeros((4, 4, 4, 1)), lambda b: b[:, 1:], window=(2, 2, 2), stride=(1, 1, 1), batch_size=1
    )
    with pytest.raises(ValueError, match=r"returned shape \(1, 1, 2, 2, 1\)"):
        next(slabs)


def test_stride_may_leave_gaps_between_starts_but_not_between_windows():
    for stride in product((1, 2, 3), repeat=3):
        volume = np.ones((7, 8, 9, 1))
        stitched = stitch_volume(
            volume, lambda batch: batch, window=(3, 3, 3), stride=stride, batch_size=8
        )
        np.testing.assert_array_equal(stitched, volume)
