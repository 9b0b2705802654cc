"""Loops of a graph that run one step after the other."""

from collections.abc import Callable, Sequence

import tensorflow as tf


def one_by_one(count: tf.Tensor, step: Callable, *arrays: tf.TensorArray) -> tuple:
    """Return some arrays after `count` steps, each of which takes its number and the arrays.

    The steps run one after the other, so that only the tensors of one of them are in memory.
    """
    _, *arrays = tf.while_loop(
        lambda number, *_: number < count,
        lambda number, *arrays: (number + 1, *step(number, *arrays)),
        (0, *arrays),
        parallel_iterations=1,
    )
    return tuple(arrays)


def join_tiles(
    compute: Callable[..., tf.Tensor], sizes: Sequence[tf.Tensor], *, channels: int
) -> tf.Tensor:
    """Put together a volume from disjoint tiles that lie on a grid, each computed once.

    Args:
        compute: numbers of a tile along the three axes, scalar tensors -> tile
            (first, second, third, channels) float32.
        sizes: voxels that the tiles give along each axis, (tiles,) int32.
        channels: of a tile.

    Returns:
        The volume, float32. Beside it, its copy and its voxels' places, one tile is in memory.
    """
    counts = [tf.size(axis) for axis in sizes]
    count = tf.reduce_prod(counts)
    parts = tf.TensorArray(
        tf.float32, size=count, infer_shape=False, element_shape=(None, channels)
    )

    def add(number, parts):
        row, third = number // counts[2], number % counts[2]
        numbers = row // counts[1], row % counts[1], third
        voxels = tf.reduce_prod([axis[n] for axis, n in zip(sizes, numbers, strict=True)])
        return (parts.write(number, tf.reshape(compute(*numbers), [voxels, channels])),)

    (parts,) = one_by_one(count, add, parts)
    return tf.gather(parts.concat(), _places(sizes))


def _places(sizes: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return for every voxel of the volume its place in the tiles written one after the other."""
    size, first, inside = [], [], []
    for axis, edges in enumerate(sizes):
        ends = tf.cumsum(edges)
        voxel = tf.range(ends[-1])
        tile = tf.searchsorted(ends, voxel, side="right")
        along = [-1 if other == axis else 1 for other in range(3)]
        size.append(tf.reshape(tf.gather(edges, tile), along))
        first.append(tf.reshape(tf.gather(ends - edges, tile), along))
        inside.append(tf.reshape(voxel, along) - first[-1])
    rows, columns = tf.size(inside[1]), tf.size(inside[2])
    before = (first[0] * rows + size[0] * first[1]) * columns + size[0] * size[1] * first[2]
    return before + (inside[0] * size[1] + inside[1]) * size[2] + inside[2]
