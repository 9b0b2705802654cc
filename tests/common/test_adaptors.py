"""The modules through which `common` reaches a paper have what their protocols ask for."""

import importlib
import inspect
from pathlib import Path

import pytest

from common.cli import SHARED_COMMANDS, find_commands, parse_command
from common.cost.workloads import WorkloadModule
from common.export.write import ServingModule
from common.papers import find_papers

ADAPTORS = {"serving": ServingModule, "workload": WorkloadModule}
CASES = [(paper, name) for name in ADAPTORS for paper in find_papers(f"{name}.py")]


def functions_of(protocol):
    """Return the parameter names of a protocol's functions, by name and without `self`."""
    return {
        name: list(inspect.signature(function).parameters)[1:]
        for name, function in inspect.getmembers(protocol, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize(("paper", "name"), CASES)
def test_an_adaptor_has_the_functions_of_its_protocol(paper, name):
    module = importlib.import_module(f"{paper}.{name}")
    for function, expected in functions_of(ADAPTORS[name]).items():
        found = inspect.signature(getattr(module, function)).parameters
        assert list(found) == expected, function


@pytest.mark.parametrize("paper", find_papers())
def test_shared_commands_are_offered_where_their_adaptor_is(paper):
    """No paper has a module of that name itself, which would be passed over."""
    folder = Path(importlib.import_module(paper).__file__).parent
    for verb, (_, needed) in SHARED_COMMANDS.items():
        assert (verb in find_commands(paper)) == (folder / needed).is_file()
        assert not (folder / f"{verb}.py").exists()


@pytest.mark.parametrize("paper", find_papers("serving.py"))
def test_a_shared_command_is_called_with_the_papers_name(paper):
    function, _, values = parse_command(paper, "export", ["--run", "here"], {})
    assert next(iter(inspect.signature(function).parameters)) == "paper"
    assert "paper" not in values
    assert values.run == Path("here")
