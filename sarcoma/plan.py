"""Say what training and a prediction will take: memory, time, payloads."""

from pathlib import Path

from sarcoma.config import Config, Preset


def plan(
    *,
    config: Config,
    preset: Preset = "port",
    scan: tuple[int, int, int] | None = None,
    examples: int | None = None,
    probe: bool = True,
    mixed_precision: bool = False,
    out: Path | None = None,
) -> None:
    """Say what training and a prediction will take here: memory, time, payloads.

    Args:
        config: every number of the run.
        preset: where the numbers come from; options after it change single ones.
        scan: slices, rows, columns of the patient to predict; default: a usual one.
        examples: what is trained on, where the number of steps depends on it.
        probe: measure one step and one call, each in a process of its own; else estimate alone.
        mixed_precision: bfloat16 arithmetic.
        out: JSON file with the same numbers.
    """
    from common.cost.plan import print_plan

    print_plan(
        "sarcoma", config, scan=scan, examples=examples, probe=probe,
        mixed_precision=mixed_precision, out=out,
    )  # fmt: skip
