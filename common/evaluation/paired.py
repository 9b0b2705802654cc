"""A measure of two runs on the cases that both have: differences, and whether they are chance.

Several rows of one case are averaged first, since they are not independent.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from scipy import stats

from common.errors import DataError, OptionError, RunError, nearest, one_line
from common.evaluation.metrics import FEWEST_FOR_INTERVAL, summarise
from common.report.page import format_spread


def read_case_table(run: Path) -> pd.DataFrame:
    """Return the table of a run's measured cases, with `id` and `label` as text.

    Raises:
        RunError: the run was not evaluated, or its table is damaged.
    """
    path = run / "report" / "cases.csv"
    if not path.is_file():
        raise RunError(f"{path} is missing; expected a run that evaluate has measured")
    try:
        table = pd.read_csv(path, dtype={"id": str, "label": str})
        return table.astype({"id": str, "label": str})
    except (ValueError, KeyError, UnicodeDecodeError) as failure:
        raise RunError(f"{path} cannot be read: {one_line(failure)}") from failure


def read_cases(run: Path, measure: str, *, option: str = "--measure") -> pd.Series:
    """Return a measure of a run by case and label, the rows of one case averaged; NaN where it is
    not defined.

    Raises:
        RunError: see `read_case_table`.
        OptionError: the table has no such column of numbers; names the option.
    """
    table = read_case_table(run)
    numbers = table.select_dtypes("number")
    if measure not in numbers:
        near = nearest(measure, numbers) or ", ".join(numbers)
        where = run / "report" / "cases.csv"
        raise OptionError(f"{option} {measure}: {where} has no such numbers; expected {near}")
    return table.groupby(["id", "label"], sort=False)[measure].mean()


def compare_measures(rows: Sequence[Mapping], first: str, second: str) -> str:
    """Return what two measures of one run come to on the same cases, in a line."""
    table = pd.DataFrame(rows).groupby(["id", "label"], sort=False)
    (found,) = compare_cases(table[first].mean(), table[second].mean())
    difference = found["difference"]
    text = f"{found['mean_b']:.3f} against {found['mean_a']:.3f}, n = {found['n']}; difference "
    text += f"{difference['mean']:.3f} ({format_spread(difference)})"
    if found["p_t"] is None:
        return text
    return f"{text}; paired t p {found['p_t']:.4f}, Wilcoxon p {found['p_wilcoxon']:.4f}"


def compare_cases(first: pd.Series, second: pd.Series) -> list[dict]:
    """Compare a measure of the cases that two runs have, label by label.

    Args:
        first, second: by case and label, as `read_cases` gives them.

    Returns:
        Per label: n, the pairs where both are defined; undefined, the others; mean_a, mean_b;
        difference, what `summarise` says of B - A; effect, its mean over its deviation; p_t and
        p_wilcoxon, two-sided, None with fewer pairs than an interval needs.

    Raises:
        DataError: the runs have no case and label in common.
    """
    pairs = pd.DataFrame({"a": first, "b": second}).loc[first.index.intersection(second.index)]
    if pairs.empty:
        raise DataError("found no case and label that both runs have; expected some")
    rows = []
    for label, both in pairs.groupby(level="label", sort=False):
        defined = both.dropna()
        change = defined["b"] - defined["a"]
        found, tested = summarise(change), len(change) >= FEWEST_FOR_INTERVAL and change.any()
        t_test = stats.ttest_rel(defined["b"], defined["a"]) if tested else None
        rows.append(
            {
                "label": label,
                "n": len(change),
                "undefined": len(both) - len(change),
                "mean_a": float(defined["a"].mean()),
                "mean_b": float(defined["b"].mean()),
                "difference": found,
                "effect": found["mean"] / found["sd"] if found["sd"] else float("nan"),
                "p_t": float(t_test.pvalue) if tested else None,
                "p_wilcoxon": float(stats.wilcoxon(change).pvalue) if tested else None,
            }
        )
    return rows
