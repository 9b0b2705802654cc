"""The page of all papers: a row for each, whatever became of it, and nothing from outside."""

import json
import re
from html.parser import HTMLParser

import pytest

from common.__main__ import main
from common.errors import RunError
from common.evaluation.claims_reader import find_claims
from common.report.page import PHANTOM_NOTICE, Section, write_sections
from common.suite.collect import build, collect
from common.suite.page import inline_script
from common.suite.read_runs import STAGES

PAPERS = sorted(find_claims())


class Page(HTMLParser):
    """Tags, addresses and the rows of the front page."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.scripts, self.views, self.rows = [], [], [], []
        self._in_front = self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag == "script":
            self.scripts.append("")
            self._in_script = True
        if attributes.get("class") == "view":
            self.views.append(attributes["id"])
        if tag == "table":
            self._in_front = "front" in attributes.get("class", "")
        if tag == "tr" and self._in_front:
            self.rows.append("")

    def handle_endtag(self, tag):
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data):
        if self._in_script:
            self.scripts[-1] += data
        elif self._in_front and self.rows:
            self.rows[-1] += f" {data.strip()}"


def rows_by_paper(page):
    return {row.split()[0]: " ".join(row.split()) for row in page.rows[1:]}


def fail(folder, **changes):
    """Leave what a paper's failed `reproduce` leaves."""
    folder.mkdir(parents=True)
    state = {"paper": "vertebra", "preset": "quick", "run": "run", "status": "failed"}
    state |= {"failure": "train failed with status 3", "seconds": [["prepare", 2.0]], **changes}
    (folder / STAGES).write_text(json.dumps(state))
    return folder


@pytest.fixture
def page(make_run, tmp_path):
    """A phantom's run, a run on the paper's own data, a failed paper, two that were not run."""
    runs = [
        make_run(tmp_path / "one"),
        make_run(
            tmp_path / "two", "fetal_brain", dice=(0.92, 0.93, 0.94), phantom=False,
            cohort="ifind-fetal", preset="paper",
        ),
        fail(tmp_path / "three"),
    ]  # fmt: skip
    return Page(build(runs, tmp_path / "report").read_text(encoding="utf-8"))


class TestPage:
    def test_every_paper_has_a_row_and_a_part(self, page):
        rows = rows_by_paper(page)
        assert list(rows) == PAPERS
        assert page.views == ["overview", *PAPERS]
        assert "failed: train failed with status 3" in rows["vertebra"]
        assert "not run" in rows["sarcoma"]
        assert all("not attempted" in rows[paper] for paper in PAPERS if paper != "fetal_brain")

    def test_a_row_says_what_was_run_and_what_came_out(self, page):
        row = rows_by_paper(page)["raseg"]
        assert "0.613 ± 0.078" in row
        assert "preset quick phantoms 3 held-out cases" in row
        assert "0.700 ± 0.200 phantom" in row
        assert "Dice of foreground, n = 3; 0.500, 0.700, 0.900" in row
        assert "not attempted run on phantoms" in row
        own = rows_by_paper(page)["fetal_brain"]
        assert "the paper's cohort" in own
        assert "partly 0.006 from the published number; tolerance 0.02; but n = 3" in own

    def test_nothing_is_fetched(self, page):
        for address in page.addresses:
            assert address.startswith(("data:image/png;base64,", "#"))

    def test_phantoms_are_named_wherever_they_are_shown(self, make_run, tmp_path):
        text = build([make_run(tmp_path / "run")], tmp_path / "report").read_text(encoding="utf-8")
        front, part = text.partition('id="raseg"')[::2]
        assert PHANTOM_NOTICE in front
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", part)
        assert len(captions) == 2
        assert all(PHANTOM_NOTICE in caption for caption in captions)
        assert "PHANTOM, NOT A PATIENT" in part

    def test_a_page_of_real_data_alone_names_no_phantom(self, make_run, tmp_path):
        run = make_run(tmp_path / "run", phantom=False)
        text = build([run], tmp_path / "report").read_text(encoding="utf-8")
        assert PHANTOM_NOTICE not in text
        assert "run on stand-in patients" in text

    def test_scripts_are_whole_and_text_is_escaped(self, page):
        """Three volumes, NiiVue, ours, the page's own two; none ended early by what it holds."""
        assert sum("atob(" in script and "openViewer" in script for script in page.scripts) == 1
        assert sum(len(script) > 2_000_000 for script in page.scripts) == 1
        assert len(page.scripts) == 1 + 2 * 3 + 2 + 1

    def test_the_comparison_is_shown(self, make_run, tmp_path):
        compared = tmp_path / "report" / "raseg" / "compare"
        compared.mkdir(parents=True)
        write_sections(compared / "sections.json", [Section("Presets <side> by side")])
        text = build([make_run(tmp_path / "run")], tmp_path / "report").read_text(encoding="utf-8")
        assert "Presets &lt;side&gt; by side" in text

    def test_the_same_runs_give_the_same_page(self, make_run, tmp_path):
        run = make_run(tmp_path / "run")
        one, two = (build([run], tmp_path / name).read_bytes() for name in ("a", "b"))
        assert one == two


def test_a_script_cannot_end_its_element():
    for name in ("niivue.umd.js", "viewer.js"):
        assert not re.search(r"</script|<!--", inline_script(name), re.IGNORECASE)


class TestMistakes:
    def test_a_known_failure_outweighs_an_older_report(self, make_run, tmp_path):
        entries = collect([], find_claims(), {"raseg": "failed: predict"})
        assert [entry.problem for entry in entries if entry.claims.paper == "raseg"] == [
            "failed: predict"
        ]

    def test_two_runs_of_one_paper(self, make_run, tmp_path):
        runs = [make_run(tmp_path / name) for name in ("one", "two")]
        with pytest.raises(RunError, match=r"one and .*two are both of raseg"):
            collect(runs, find_claims())

    @pytest.mark.parametrize(
        ("damage", "words"),
        [
            (lambda run: (run / "report" / "report.json").unlink(), "run evaluate first"),
            (lambda run: (run / "report" / "report.json").write_text("{"), "cannot be read"),
            (lambda run: (run / "report" / "sections.json").unlink(), "run evaluate again"),
            (lambda run: (run / "report" / "sections.json").write_text("{}"), "is damaged"),
            (lambda run: (run / "model.keras").write_text("no"), "layers cannot be read"),
            (lambda run: (run / "manifest.json").unlink(), "is not a run folder"),
        ],
    )
    def test_each_is_one_line_and_status_2(self, damage, words, make_run, tmp_path, capsys):
        run = make_run(tmp_path / "run")
        damage(run)
        capsys.readouterr()
        assert main(["report", str(run), "--to", str(tmp_path / "report")]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert words in said.err
        assert len(said.err.splitlines()) == 1
        assert not list(tmp_path.glob("report/*"))

    def test_what_did_not_finish_is_said(self, tmp_path):
        folder = fail(tmp_path / "run", status="running", failure="")
        problems = {entry.claims.paper: entry.problem for entry in collect([folder], find_claims())}
        assert problems["vertebra"] == "did not finish: 1 stages were done"
