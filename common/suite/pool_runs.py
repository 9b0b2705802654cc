"""One report of several runs: the folds of a cross-validation, seeds of one experiment, or both.

`python -m common pool-runs RUN... --to FOLDER` takes run folders that evaluate has measured and
writes a folder with one report over all their cases, which `results record` and `compare-runs` take
like a run. Each case must be measured once per seed; the measures of several seeds are averaged by
case, and the mean of each seed is said beside the spread over cases. `--over TABLE` draws Dice and
HD95 over the other columns of a table with the column id, such as an age.
"""

from collections.abc import Sequence
from pathlib import Path

from common.cli import Parser
from common.errors import RunError
from common.files import as_yaml, make_folder, write_json, write_text_atomically
from common.report.page import Figure, Section, read_sections

OVERLAYS = "Overlays"
"""Title of the part of a run's page that has the pictures, worst case first."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report of several runs; return 0."""
    parser = Parser(prog="python -m common pool-runs", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="runs that evaluate has measured")
    parser.add_argument("--to", required=True, type=Path, help="folder of the report, which is new")
    parser.add_argument("--over", type=Path, help="table of id and what the measures depend on")
    options = parser.parse_args(argv)
    pool_runs(options.runs, options.to, over=options.over)
    return 0


def pool_runs(folders: Sequence[Path], to: Path, *, over: Path | None = None) -> None:
    """Write the report of several runs into a new folder.

    Raises:
        RunError: the folder exists; or see `common.evaluation.pooled.read_pool`.
        DataError: see `common.evaluation.pooled.add_covariates`.
    """
    # pandas and matplotlib, which no help needs
    from common.evaluation import pooled, run_report
    from common.report.drawing import draw_over

    if to.exists():
        raise RunError(f"--to {to} exists; expected a new folder")
    pool = pooled.read_pool(folders)
    phantom = pool.data.kind is pooled.DataKind.PHANTOM
    names = {**dict(zip(pool.measures, pool.measures, strict=True)), **run_report.MEASURES}
    measures = {name: names[name] for name in pool.measures}
    more = []
    if pool.differing:
        varied = ", ".join(pool.differing)
        text = f"{len(pool.runs)} runs, of which these options differ: {varied}."
        more.append(Section("What was pooled", text=text))
    drawn = {name: names[name] for name in ("dice", "hd95_mm") if name in measures}
    for column in pooled.add_covariates(pool, over) if over else ():
        png = draw_over(pool.rows, x=column, measures=drawn, phantom=phantom)
        title = f"Over {column.replace('_', ' ')}"
        more.append(Section(title, figures=[Figure(png, f"{title}: each point is a case.")]))
    manifest = pooled.manifest_of(pool)
    config = {k: v for k, v in pool.runs[0].config.items() if k not in pool.differing}
    make_folder(to, f"--to {to}")
    write_text_atomically(to / "config.yaml", as_yaml(config))
    write_json(to / "manifest.json", manifest)
    run_report.write_evaluation(
        pooled.Run(to, config, manifest),
        pool.rows,
        title=f"{pool.runs[0].paper}: {len(pool.runs)} runs",
        curve=(),
        overlays=worst_pictures(pool.runs),
        phantom=phantom,
        measures=measures,
        cohort=pooled.cohort_of(pool.data),
        unusable=pool.unusable,
        seeds=pool.seeds,
        more=more,
    )


def worst_pictures(runs: Sequence) -> list[Figure]:
    """Return the picture of each run's worst case."""
    pages = [run.path / "report" / "sections.json" for run in runs]
    overlays = [
        section for page in pages if page.is_file()
        for section in read_sections(page) if section.title == OVERLAYS
    ]  # fmt: skip
    return [section.figures[0] for section in overlays if section.figures]
