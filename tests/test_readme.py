"""Every command that a README states, held to the real command lines without being run."""

import ast
import importlib
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from common import cli

ROOT = Path(__file__).resolve().parents[1]
PAPERS = sorted(path.parent.name for path in ROOT.glob("*/config.py"))
DOCUMENTS = sorted([
    *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *(ROOT / paper / "README.md" for paper in PAPERS),
])  # fmt: skip
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
SCRIPTS = {paper.replace("_", "-"): paper for paper in PAPERS}


def blocks(text):
    """Return the lines of fenced blocks without a language or of a shell, continued ones joined."""
    found = re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in found for line in block.replace("\\\n", " ").splitlines()]


def spans(text):
    """Return the inline code of a document."""
    return re.findall(
        r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    )


def words_of(code):
    """Split a command as a shell does; a comment ends it. None: it is no command line."""
    try:
        return shlex.split(code, comments=True)
    except ValueError:
        return None


def paper_command(words, home=None):
    """Return paper, verb and the words after it, or None where they call no paper.

    Args:
        words: of a command.
        home: the paper of the card it stands in, whose verbs may stand alone there.
    """
    if not words:
        return None
    if words[:2] == ["python", "-m"] and len(words) > 3 and words[2] in PAPERS:
        paper, rest = words[2], words[3:]
    elif words[0] in SCRIPTS and len(words) > 1:
        paper, rest = SCRIPTS[words[0]], words[1:]
    elif home and len(words) > 1 and words[0] in {*cli.find_commands(home), *aliases(home)[0]}:
        paper, rest = home, words
    else:
        return None
    return paper, rest[0], rest[1:]


@cache
def aliases(paper):
    """Return a paper's other names of verbs and options."""
    module = importlib.import_module(f"{paper}.__main__")
    verbs = dict(module.COMMAND_ALIASES)
    if hasattr(module, "choose_command"):
        verbs["deepMedicRun"] = "train"
    return verbs, module.OPTION_ALIASES


@cache
def options_of(paper, verb):
    """Return the options of a verb, as its help names them."""
    function = cli.load_command(paper, verb)
    config = importlib.import_module(f"{paper}.config")
    text = cli.build_parser("", function, config, ()).format_help()
    return set(re.findall(r"--\w+", text)) | ({"-o"} if verb == "predict" else set())


def assert_known(paper, verb, words):
    """The verb exists and so does every option, whatever its value."""
    verbs, names = aliases(paper)
    if verb == "deepMedicRun":
        verb = "train" if "-train" in words else "predict"
    verb = verbs.get(verb, verb)
    assert verb in cli.find_commands(paper), f"{paper} has no verb {verb}"
    for word in cli.spell_options(words, names):
        name = word.partition("=")[0]
        if name.startswith("-") and not re.fullmatch(r"-[\d.]+|-", name):
            assert name in options_of(paper, verb), f"{paper} {verb} has no option {name}"


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_blocks_are_taken_by_the_parser(name):
    """Values, too: those of a block are meant to be typed."""
    home = name.partition("/")[0] if name.partition("/")[0] in PAPERS else None
    for line in blocks((ROOT / name).read_text(encoding="utf-8")):
        found = paper_command(words_of(line) or [])
        if found is None:
            continue
        paper, verb, words = found
        assert home in (None, paper), line
        assert_known(paper, verb, words)
        if "--config" not in words and "--help" not in words:
            verbs, names = aliases(paper)
            words, _ = cli.split_output(words)
            cli.parse_command(paper, verbs.get(verb, verb), words, names)


@pytest.mark.parametrize("name", NAMES)
def test_commands_in_the_text_exist(name):
    """Verbs and options; values in tables are letters that stand for anything."""
    home = name.partition("/")[0] if name.partition("/")[0] in PAPERS else None
    for code in spans((ROOT / name).read_text(encoding="utf-8")):
        found = paper_command(words_of(code.replace("...", "")) or [], home)
        if found and not found[1].startswith("<"):
            assert_known(*found)


def commands_of_common():
    """Return module, further words and document of every `python -m common...` in the documents."""
    found = {}
    for name in NAMES:
        text = (ROOT / name).read_text(encoding="utf-8")
        for code in [*blocks(text), *spans(text)]:
            words = words_of(code) or []
            if words[:2] == ["python", "-m"] and re.match(r"common(\.|$)", "".join(words[2:3])):
                found.setdefault(words[2], {}).setdefault(name, []).append(words[3:])
    return found


@pytest.mark.parametrize("module", sorted(commands_of_common()))
@pytest.mark.slow
def test_commands_of_common_exist(module):
    """Options are looked up in the help of the module and of the command that is called."""
    helps = {}

    def help_of(*words):
        if words not in helps:
            done = subprocess.run(
                [sys.executable, "-m", module, *words, "--help"], cwd=ROOT,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            helps[words] = done.stdout + done.stderr
            assert "usage" in helps[words], helps[words]
        return helps[words]

    for name, calls in commands_of_common()[module].items():
        for words in calls:
            text = help_of()
            if module == "common" and words and not words[0].startswith("<"):
                assert re.search(rf"^  {re.escape(words[0])} ", text, re.MULTILINE), (name, words)
            if words and re.search(rf"^  (  )?{re.escape(words[0])}\b", text, re.MULTILINE):
                text += help_of(words[0])
            for word in words:
                option = word.partition("=")[0]
                if re.fullmatch(r"--?[a-zA-Z][\w-]*", option):
                    assert option in text, f"{name}: {module} has no option {option}"


def test_targets_of_make_exist():
    """With the variables they are given."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    checked = 0
    for name in NAMES:
        text = (ROOT / name).read_text(encoding="utf-8")
        for code in [*blocks(text), *spans(text)]:
            words = words_of(code) or []
            if words[:1] != ["make"] or len(words) < 2:
                continue
            assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), (name, code)
            for word in words[2:]:
                assert f"$({word.partition('=')[0]})" in makefile, (name, code)
            checked += 1
    assert checked > 4


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    """Files beside the project's pages and headings within them."""
    page = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        place = (page.parent / path) if path else page
        assert place.exists(), f"{name}: {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)", place.read_text(encoding="utf-8"), re.MULTILINE)
            made = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
            assert heading in made, f"{name}: {target}"


def test_packages_of_the_documents_are_those_of_the_project():
    """The table of the five papers and that of results name every package, each with its card; of
    results a paper may have several."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    papers, results = text.split("## What was reproduced")
    found = [re.findall(r"^\| \[`(\w+)`\]", part, re.MULTILINE) for part in (papers, results)]
    assert sorted(found[0]) == sorted(PAPERS)
    assert {*found[1]} == {*PAPERS}


@pytest.mark.parametrize("paper", PAPERS)
def test_a_card_begins_with_where_each_part_of_the_paper_is(paper):
    """After one paragraph; every module and function that it names exists."""
    blocks_of_card = (ROOT / paper / "README.md").read_text(encoding="utf-8").split("\n\n")
    header, _, *rows = blocks_of_card[2].splitlines()
    assert header == "| of the paper | here | the original |"
    assert len(rows) >= 8
    for row in rows:
        named = re.findall(r"`(\w+\.py): (\w+)`", row)
        assert named, row
        for module, name in named:
            tree = ast.parse((ROOT / paper / module).read_text(encoding="utf-8"))
            kinds = (ast.FunctionDef, ast.ClassDef)
            assert name in {node.name for node in tree.body if isinstance(node, kinds)}, row


def test_the_map_of_the_code_names_what_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("## Where is what")[2].partition("##")[0]
    places = re.findall(r"`(common/[\w/.]+)`", table)
    assert len(places) > 10
    assert all((ROOT / place).exists() for place in places), places
