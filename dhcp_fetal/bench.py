"""Time training and inference beside PyTorch and beside the engine's expressions."""

from pathlib import Path
from typing import Literal

from common.runtime import configure_runtime
from common.suite.contests import run_contests
from dhcp_fetal.config import PORT
from dhcp_fetal.study.bench import list_contests


def bench(
    shape: tuple[int, int, int] = (100, 100, 80),
    *,
    turns: int = 3,
    mixed_precision: bool = False,
    part: Literal["beside", "export"] = "beside",
    to: Path | None = None,
) -> None:
    """Time training and inference beside PyTorch and beside the engine's expressions.

    Args:
        shape: voxels (x, y, z) of the segmented volume.
        turns: timed calls of each side, which alternate; the least counts.
        mixed_precision: time the port in bfloat16 as well.
        part: beside: the comparison; export: the exported model beside the path of `predict`.
        to: JSON file for the numbers of the comparison.
    """
    from dhcp_fetal.serving import bench_served

    if part == "export":
        configure_runtime(seed=0)
        bench_served(PORT)
    else:
        contests = list_contests(shape)
        run_contests("dhcp_fetal", contests, turns=turns, mixed_precision=mixed_precision, to=to)
