"""Sizes: what a segment becomes on its way through the pathways. Pure integer arithmetic.

Every triple is (x, y, z), the axis order of the files. `config` is a `Config`, which checks itself
here and so cannot be imported.
"""

from collections.abc import Sequence
from math import ceil

from common.errors import OptionError

Triple = tuple[int, int, int]


def receptive_field(kernels: Sequence[Triple]) -> Triple:
    """Return the voxels per axis that one output voxel of stacked convolutions sees."""
    return tuple(1 + sum(kernel[axis] - 1 for kernel in kernels) for axis in range(3))


def shrink(size: Triple, kernels: Sequence[Triple], padding: Sequence[str]) -> Triple:
    """Return the size after convolutions of which the valid ones take away kernel - 1 voxels."""
    for kernel, mode in zip(kernels, padding, strict=True):
        if mode == "valid":
            size = tuple(voxels - edge + 1 for voxels, edge in zip(size, kernel, strict=True))
    return size


def context_size(segment: Triple, field: Triple, factor: Triple) -> Triple:
    """Return the voxels per axis of the low-resolution segment that goes with a full one.

    `field` is the receptive field of the normal pathway, which all pathways share; `factor` the
    voxels of the image per voxel of the context.
    Source: `calc_inp_dims_given_outp` and its forerunners; specification 3.4.
    """
    return tuple(
        edge - 1 + ceil((voxels - edge + 1) / step)
        for voxels, edge, step in zip(segment, field, factor, strict=True)
    )


def context_sizes(config, segment: Triple) -> tuple[Triple, ...]:
    """Return `context_size` for each low-resolution pathway."""
    field = receptive_field(config.kernels)
    return tuple(context_size(segment, field, factor) for factor in config.context_factors)


def output_size(config, segment: Triple) -> Triple:
    """Return the voxels per axis that the network predicts from a segment."""
    normal = shrink(segment, config.kernels, config.padding)
    return shrink(normal, config.fc_kernels, config.fc_padding)


def margins(config, segment: Triple) -> tuple[tuple[int, int], ...]:
    """Return the unpredicted voxels (before, after) on each axis of a segment."""
    sizes = zip(segment, output_size(config, segment), strict=True)
    lost = [whole - predicted for whole, predicted in sizes]
    return tuple((voxels // 2, voxels - voxels // 2) for voxels in lost)


def check_architecture(config) -> None:
    """Raise `OptionError`, naming the field, for fields that cannot belong to one network."""
    normal, context = len(config.filters), len(config.context_kernels)
    fc = len(config.fc_filters) + 1
    lengths = {"kernels": normal, "padding": normal, "context_padding": context}
    lengths |= {"fc_kernels": fc, "fc_padding": fc, "context_filters": len(config.context_factors)}
    for name, expected in lengths.items():
        _check_length(name, getattr(config, name), expected)
    for filters in config.context_filters:
        _check_length("context_filters", filters, context)
    for pathway, depth in (("", normal), ("context_", context), ("fc_", fc)):
        if rates := getattr(config, f"{pathway}dropout"):
            _check_length(f"{pathway}dropout", rates, depth)
        for name, lowest in ((f"{pathway}residual_layers", 2), (f"frozen_{pathway}layers", 1)):
            for layer in getattr(config, name):
                if not lowest <= layer <= depth:
                    expected = f"expected layers {lowest} to {depth}"
                    raise OptionError(f"{name}: {expected}, found {layer}")
    if config.label_ids is not None:
        _check_length("label_ids", config.label_ids, config.classes)
    _check_sizes(config)


def _check_length(name: str, values: Sequence, expected: int) -> None:
    if len(values) != expected:
        raise OptionError(f"{name}: expected {expected} entries, one per layer, found {values}")


def _check_sizes(config) -> None:
    field = receptive_field(config.kernels)
    if config.context_factors and receptive_field(config.context_kernels) != field:
        raise OptionError(
            f"context_kernels: expected the receptive field of kernels, {field}, "
            f"found {receptive_field(config.context_kernels)}"
        )
    for name in ("train_segment", "validation_segment", "inference_segment"):
        segment = getattr(config, name)
        needed = tuple(1 + lost[0] + lost[1] for lost in margins(config, segment))
        if any(voxels < edge for voxels, edge in zip(segment, needed, strict=True)):
            raise OptionError(f"{name}: expected at least {needed} voxels, found {segment}")
        wanted = shrink(segment, config.kernels, config.padding)
        sizes = context_sizes(config, segment)
        for size, factor in zip(sizes, config.context_factors, strict=True):
            deep = shrink(size, config.context_kernels, config.context_padding)
            if any(a * b < c for a, b, c in zip(deep, factor, wanted, strict=True)):
                raise OptionError(
                    f"context_padding: the pathway of factor {factor} gives {deep} voxels, too few "
                    f"to cover the {wanted} of the normal one; pad both pathways alike"
                )
