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
    compute: Callable[..., tf.Tensor], counts: Sequence[tf.Tensor], *, channels: int
) -> tf.Tensor:
    """Put together a volume from disjoint tiles that lie on a grid, each computed once.

    Args:
        compute: numbers of a tile along the three axes, scalar tensors -> tile
            (first, second, third, channels) float32; tiles of one row agree in their other edges.
        counts: tiles along each axis, scalar tensors.
        channels: of a tile.

    Returns:
        The volume, float32. Beside it and its copy, one tile is in memory.
    """
    unknown = (None, None, None, channels)

    def along(axis: int, numbers: tuple) -> tf.Tensor:
        if axis == 3:
            return tf.ensure_shape(compute(*numbers), unknown)
        front = [axis, *(other for other in range(4) if other != axis)]
        shape = tuple(unknown[other] for other in front)
        parts = tf.TensorArray(
            tf.float32, size=counts[axis], infer_shape=False, element_shape=shape
        )

        def add(number, parts):
            part = tf.transpose(along(axis + 1, (*numbers, number)), front)
            return (parts.write(number, part),)

        (parts,) = one_by_one(counts[axis], add, parts)
        back = [*range(1, axis + 1), 0, *range(axis + 1, 4)]
        return tf.ensure_shape(tf.transpose(parts.concat(), back), unknown)

    return along(0, ())
