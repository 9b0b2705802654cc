"""Who may import whom, read from the sources with `ast`."""

import ast
from pathlib import Path

import census
import pytest

from common import __main__ as suite
from common.cli import COMMANDS, COMMANDS_ON_TENSORFLOW, SHARED_COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAPERS = sorted(path.parent.name for path in ROOT.glob("*/config.py"))
SCRIPTS = ("train", "predict", "evaluate", "convert", "compare", "prepare", "phantom", "plan",
           "reproduce", "bench")  # fmt: skip
HEAVY = {"tensorflow", "keras", "pandas", "scipy", "matplotlib", "SimpleITK", "nibabel", "torch"}
SLOW = {"tensorflow", "keras", "tf_keras", "torch", "jax", "pandas", "scipy", "matplotlib"}
"""What takes 0.2 s and more of processor time to import; the others of `HEAVY` a third of that."""


def imports(path, *, top_level_only=False):
    """Return the full names of the modules that a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def packages(path, **options):
    """Return the top packages that a file imports."""
    return {name.partition(".")[0] for name in imports(path, **options)}


def test_there_is_a_paper():
    assert "fetal_brain" in PAPERS


@pytest.mark.parametrize("paper", PAPERS)
def test_no_paper_imports_another(paper):
    for path in (ROOT / paper).rglob("*.py"):
        assert not packages(path) & (set(PAPERS) - {paper}), path


def test_common_imports_no_paper():
    for path in (ROOT / "common").rglob("*.py"):
        assert not packages(path) & set(PAPERS), path


@pytest.mark.parametrize("paper", PAPERS)
def test_models_and_losses_run_on_any_backend(paper):
    """`keras` alone: the same file defines the network on TensorFlow, JAX and PyTorch."""
    standard = {"collections", "contextlib", "dataclasses", "math", "typing"}
    allowed = {"keras", "numpy", "common", paper} | standard
    for name in ("model", "layers", "losses", "workload"):
        path = ROOT / paper / f"{name}.py"
        if path.is_file():
            assert packages(path) <= allowed, path
    for name in ("losses", "meters"):
        assert packages(ROOT / "common" / "network" / f"{name}.py") <= allowed


@pytest.mark.parametrize("paper", PAPERS)
def test_evaluation_imports_no_model(paper):
    path = ROOT / paper / "evaluate.py"
    if path.is_file():
        assert not packages(path) & {"tensorflow", "keras"}
        assert f"{paper}.model" not in imports(path)


@pytest.mark.parametrize("paper", PAPERS)
def test_help_path_imports_nothing_heavy(paper):
    for name in (*SCRIPTS, "config", "__main__"):
        path = ROOT / paper / f"{name}.py"
        if path.is_file():
            assert not packages(path, top_level_only=True) & HEAVY, path
    shared = (module for module, _ in SHARED_COMMANDS.values())
    for module in ("common.cli", "common.runtime", *shared):
        path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
        assert not packages(path, top_level_only=True) & HEAVY, path


def module_path(name):
    """Return the file of a project's module, or None."""
    path = ROOT.joinpath(*name.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def loaded(*modules, functions=False):
    """Return the packages from elsewhere that importing modules of the project loads.

    Args:
        modules: their names.
        functions: also what the functions of these modules import.
    """
    ways, seen, found = [(name, functions) for name in modules], set(), set()
    while ways:
        name, inside = ways.pop()
        path = module_path(name)
        if name.partition(".")[0] not in ("common", *PAPERS):
            found.add(name.partition(".")[0])
        elif path and name not in seen:
            seen.add(name)
            ways += [(other, False) for other in imports(path, top_level_only=not inside)]
            tree = ast.parse(path.read_text(encoding="utf-8"))
            ways += [
                (f"{node.module}.{alias.name}", False)
                for node in (ast.walk(tree) if inside else tree.body)
                if isinstance(node, ast.ImportFrom) and module_path(node.module)
                for alias in node.names
                if module_path(f"{node.module}.{alias.name}")
            ]
    return found


def test_imports_stand_at_the_top():
    """But for a command's own block, and where a package may be absent or must wait."""
    assert len(census.local_imports()) <= 100
    assert census.typing_blocks() == []


def commands_of(paper):
    """Return the names of a paper's own command modules by verb."""
    return {verb: f"{paper}.{verb}" for verb in COMMANDS if module_path(f"{paper}.{verb}")}


@pytest.mark.parametrize("paper", PAPERS)
def test_commands_are_leaves(paper):
    """What two commands need has a room that is no command."""
    commands = set(commands_of(paper).values())
    for module, imported in census.import_graph().items():
        if module != f"{paper}.__main__":
            assert not imported & commands, module


@pytest.mark.parametrize("paper", PAPERS)
def test_help_loads_nothing_slow(paper):
    """Deterministic where a clock is not: help stays under half a second."""
    for module in commands_of(paper).values():
        assert not loaded(module) & SLOW, module


def test_help_of_shared_commands_loads_nothing_slow():
    for module in (
        *(name for name, _ in suite.COMMANDS.values()),
        *(n for n, _ in SHARED_COMMANDS.values()),
    ):
        assert not loaded(module) & SLOW, module


@pytest.mark.parametrize("paper", PAPERS)
def test_commands_do_without_tensorflow_where_they_can(paper):
    for verb, module in commands_of(paper).items():
        if verb not in COMMANDS_ON_TENSORFLOW:
            assert not loaded(module, functions=True) & {"tensorflow", "keras"}, module


@pytest.mark.parametrize("paper", PAPERS)
def test_a_prediction_loads_no_pictures_and_no_data_frames(paper):
    needless = {"matplotlib", "pandas", "torch", "tf_keras", "tensorboard", "jinja2"}
    assert not loaded(f"{paper}.predict", functions=True) & needless


@pytest.mark.parametrize("package", ["common", *PAPERS])
def test_a_package_decides_how_tensorflow_starts_and_nothing_else(package):
    """Importing any of them comes before TensorFlow, which reads its environment once."""
    first, *others = (ROOT / package / "__init__.py").read_text().splitlines()
    imported = "common.runtime" if package == "common" else "common"
    assert first.split()[:3] == ["import", imported, "#"]
    registers = (ROOT / package / "layers.py").is_file()
    wanted = ["", f'common.runtime.import_with_keras("{package}.layers")'] if registers else []
    assert others == wanted


def test_the_other_init_files_are_empty():
    for path in ROOT.glob("*/*/**/__init__.py"):
        if path.relative_to(ROOT).parts[0] in ("common", *PAPERS):
            assert path.read_text() == "", path


ORDER = (
    "errors", "papers", "files", "runtime", "cli", "data", "network", "inference", "runs",
    "cost", "cohort", "training", "report", "evaluation", "export", "serving", "suite", "study",
)  # fmt: skip
"""The parts of common from the bottom up; each imports only from those before it."""


def test_common_has_few_entries():
    assert len(census.entries_of_common()) <= 20


def test_packages_of_common_import_in_one_direction():
    graph = census.package_graph()
    assert set(graph) - {"__main__"} == set(ORDER)
    for part in ORDER:
        # `python -m common.runs` and the like hand over to the command line of all.
        assert graph[part] - {"__main__"} <= set(ORDER[: ORDER.index(part)]), part


def test_nothing_imports_in_a_circle():
    assert census.circles(census.import_graph()) == []


def test_no_two_papers_share_a_stretch_of_code():
    assert census.shared_code() == []
