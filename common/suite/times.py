"""How long the main job will still take: an estimate from stages that were timed before."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from common.errors import RunError
from common.suite.read_runs import RESULTS, STAGES, read_result, read_stages

ENOUGH_TO_COMPARE_S = 20.0
"""Of timed stages: before that, this machine's pace is not told from chance."""

Timed = Sequence[tuple[str, float]]


def timed_before(paper: str, preset: str, out: Path) -> dict[tuple[str, int], float]:
    """Return how long each stage took before, on this machine or else on that of results/.

    Args:
        paper: package name.
        preset: whose numbers.
        out: folder that `reproduce` writes to, where an earlier one may have left its times.

    Returns:
        Seconds by verb and number of its occurrence, from 0; empty where nothing is known.
    """
    for path, read in (
        (out / STAGES, read_stages),
        (RESULTS / f"{paper}-{preset}.json", read_result),
    ):
        try:
            found = read(path)
        except RunError:  # none there, or one from another version: then there is no estimate
            continue
        if found.preset == preset and getattr(found, "status", "finished") == "finished":
            return count_occurrences(found.seconds)
    return {}


def count_occurrences(seconds: Timed) -> dict[tuple[str, int], float]:
    """Key times by verb and occurrence, since a paper may train more than once."""
    keyed: dict[tuple[str, int], float] = {}
    for verb, time in seconds:
        keyed[verb, sum(known == verb for known, _ in keyed)] = time
    return keyed


def estimate_left(
    verbs: Sequence[str],
    done: Sequence[float],
    before: Mapping[tuple[str, int], float],
    later_s: float | None,
) -> float | None:
    """Estimate the seconds that are left.

    What is ahead is scaled by how much slower or faster the stages that are done went than before.

    Args:
        verbs: of all stages of this paper.
        done: seconds of those that are done.
        before: seconds by verb and occurrence, as `timed_before` returns them.
        later_s: seconds of the papers after this one as timed before; None where unknown.

    Returns:
        Seconds, or None where a stage ahead was never timed.
    """
    keys = list(count_occurrences([(verb, 0.0) for verb in verbs]))
    ahead = [before.get(key) for key in keys[len(done) :]]
    if later_s is None or None in ahead:
        return None
    pairs = [(before[key], time) for key, time in zip(keys, done, strict=False) if key in before]
    known, spent = (sum(column) for column in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    pace = spent / known if known >= ENOUGH_TO_COMPARE_S else 1.0
    return pace * (sum(ahead) + later_s)


def total_before(papers: Iterable[str], preset: str, runs: Path) -> float | None:
    """Return the seconds that papers took before, or None where one was never timed."""
    totals = [sum(timed_before(paper, preset, runs / f"{paper}-{preset}").values())
              for paper in papers]  # fmt: skip
    return sum(totals) if all(totals) else None


def in_words(seconds: float | None) -> str:
    """Return an estimate as words that say it is one."""
    if seconds is None:
        return "time left unknown: not timed before"
    if seconds < 90:
        return f"about {max(10, round(seconds, -1)):.0f} s left, an estimate from earlier runs"
    return f"about {seconds / 60:.0f} min left, an estimate from earlier runs"
