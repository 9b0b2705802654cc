"""Time training and inference beside PyTorch with MONAI and beside the code's windows."""

from pathlib import Path
from typing import Literal

from common.runtime import configure_runtime
from common.suite.contests import run_contests
from fetal_brain.config import PORT
from fetal_brain.study.bench import list_contests


def bench(
    slices: int = 12,
    plane: int = 336,
    *,
    turns: int = 3,
    mixed_precision: bool = False,
    part: Literal["beside", "export"] = "beside",
    to: Path | None = None,
) -> None:
    """Time training and inference beside PyTorch with MONAI and beside the code's windows.

    Args:
        slices: slices of the segmented volume; the original's README shows 120 and 170.
        plane: rows and columns; the original's README shows 336.
        turns: timed calls of each side, which alternate; the least counts.
        mixed_precision: time the port in bfloat16 as well.
        part: beside: the comparison; export: the exported model beside the path of `predict`.
        to: JSON file for the numbers of the comparison.
    """
    from fetal_brain.serving import bench_served

    if part == "export":
        configure_runtime(seed=0)
        bench_served(PORT, slices=slices, plane=plane)
    else:
        contests = list_contests(slices, plane)
        run_contests("fetal_brain", contests, turns=turns, mixed_precision=mixed_precision, to=to)
