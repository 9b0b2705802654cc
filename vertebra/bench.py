"""Time training, inference and deformation beside PyTorch and the original's way."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from common.runtime import configure_runtime
from common.suite.contests import run_contests
from vertebra.config import CODE
from vertebra.study.bench import list_contests


def bench(
    channels: int = 64,
    *,
    patch_size: int = 64,
    turns: int = 3,
    mixed_precision: bool = False,
    part: Literal["beside", "search", "export"] = "beside",
    volume: tuple[int, int, int] = (400, 256, 256),
    to: Path | None = None,
) -> None:
    """Time training, inference and deformation beside PyTorch and the original's way.

    Args:
        channels: of the network.
        patch_size: edge of the patch; 128 is the original's.
        turns: timed calls of each side, which alternate; the least counts.
        mixed_precision: time the port in bfloat16 as well.
        part: beside: the comparison; search: how many windows a search of a phantom asks for, with
            a perfect network; export: the exported model beside the path of `predict`.
        volume: slices, rows, columns of the searched phantom.
        to: JSON file for the numbers of the comparison.
    """
    from vertebra.serving import bench_served
    from vertebra.study.search import bench_search

    if part == "search":
        bench_search(volume)
    elif part == "export":
        configure_runtime(seed=0)
        bench_served(replace(CODE, channels=channels, patch_size=patch_size))
    else:
        contests = list_contests(channels, patch_size)
        run_contests("vertebra", contests, turns=turns, mixed_precision=mixed_precision, to=to)
