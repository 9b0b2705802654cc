"""Time training and prediction beside PyTorch and beside the original's whole layers."""

from pathlib import Path
from typing import Literal

from common.runtime import configure_runtime
from common.suite.contests import run_contests
from raseg.config import PORT
from raseg.study.bench import list_contests


def bench(
    shape: tuple[int, int, int] = (256, 256, 20),
    step_shape: tuple[int, int, int] = (96, 96, 20),
    *,
    turns: int = 3,
    mixed_precision: bool = False,
    part: Literal["beside", "export"] = "beside",
    to: Path | None = None,
) -> None:
    """Time training and prediction beside PyTorch and beside the original's whole layers.

    Args:
        shape: rows, columns, slices of the predicted volume; 512,512,20 is the original's.
        step_shape: the same of the volume that is trained on.
        turns: timed calls of each side, which alternate; the least counts.
        mixed_precision: time the port in bfloat16 as well.
        part: beside: the comparison; export: the exported model beside the path of `predict`.
        to: JSON file for the numbers of the comparison.
    """
    from raseg.serving import bench_served

    if part == "export":
        configure_runtime(seed=0)
        bench_served(PORT, shape)
    else:
        contests = list_contests(shape, step_shape)
        run_contests("raseg", contests, turns=turns, mixed_precision=mixed_precision, to=to)
