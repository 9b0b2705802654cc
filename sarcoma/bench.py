"""Time training and inference beside PyTorch and beside the original's loop on tf-keras."""

from pathlib import Path
from typing import Literal

from common.runtime import configure_runtime
from common.suite.contests import run_contests
from sarcoma.config import PORT
from sarcoma.study.bench import list_contests


def bench(
    shape: tuple[int, int, int] = (24, 100, 100),
    *,
    turns: int = 3,
    mixed_precision: bool = False,
    part: Literal["beside", "export"] = "beside",
    to: Path | None = None,
) -> None:
    """Time training and inference beside PyTorch and beside the original's loop on tf-keras.

    A training step includes the patches: ours are cut out of slices when they are drawn, the others
    hold all of them in memory.

    Args:
        shape: slices, rows, columns of the segmented volume.
        turns: timed calls of each side, which alternate; the least counts.
        mixed_precision: time the port in bfloat16 as well.
        part: beside: the comparison; export: the exported model beside the path of `predict`.
        to: JSON file for the numbers of the comparison.
    """
    from sarcoma.serving import bench_served

    if part == "export":
        configure_runtime(seed=0)
        bench_served(PORT, shape)
    else:
        contests = list_contests(shape)
        run_contests("sarcoma", contests, turns=turns, mixed_precision=mixed_precision, to=to)
