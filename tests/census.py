"""What the sources of the project amount to, counted; `make census` prints it, tests hold it.

Nothing of the project is imported: the files are read with `ast`.
"""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAPERS = sorted(path.parent.name for path in ROOT.glob("*/config.py"))
PACKAGES = ("common", *PAPERS)
SHARED_LINES = 12
"""Consecutive lines of code that two papers may not have in common."""


def sources() -> list[Path]:
    """Return the Python files of the packages."""
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def tree_of(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def module_of(path: Path) -> str:
    """Return the dotted name of a file's module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def entries_of_common() -> list[str]:
    """Return what lies in `common/`, packages and modules."""
    return sorted(path.name for path in (ROOT / "common").iterdir()
                  if path.suffix == ".py" or (path / "__init__.py").is_file())  # fmt: skip


def local_imports() -> list[str]:
    """Return "file:line" of every import within a function."""
    found = []
    for path in sources():
        lines = set()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines |= {part.lineno for part in ast.walk(node)
                          if isinstance(part, (ast.Import, ast.ImportFrom))}  # fmt: skip
        found += [f"{path.relative_to(ROOT)}:{line}" for line in sorted(lines)]
    return found


def typing_blocks() -> list[str]:
    """Return "file:line" of every `if TYPE_CHECKING` block."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    ]


def import_graph(*, everywhere: bool = True) -> dict[str, set[str]]:
    """Return the project's modules that each module imports.

    Args:
        everywhere: also within functions, not at the top of the module alone.
    """
    known = {module_of(path) for path in sources()}
    graph = {}
    for path in sources():
        tree = tree_of(path)
        wanted: set[str] = set()
        for node in ast.walk(tree) if everywhere else tree.body:
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= (named & known) or {node.module}
        graph[module_of(path)] = (wanted & known) - {module_of(path)}
    return graph


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the groups of nodes that reach one another (Tarjan's components of two or more)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == index[node]:
            position = stack.index(node)
            group = sorted(stack[position:])
            del stack[position:]
            if len(group) > 1:
                found.append(group)

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def package_graph() -> dict[str, set[str]]:
    """Return which packages and top modules of `common` import which others of them."""
    graph: dict[str, set[str]] = defaultdict(set)
    for module, others in import_graph().items():
        if module.startswith("common."):
            own = module.split(".")[1]
            graph[own] |= {
                other.split(".")[1] for other in others if other.startswith("common.")
            } - {own}
    return dict(graph)


def line_counts() -> dict[str, int]:
    """Return the lines of every package, those of `common` one by one."""
    counts: dict[str, int] = defaultdict(int)
    for path in sources():
        parts = path.relative_to(ROOT).parts
        nested = parts[0] == "common" and len(parts) > 2
        counts["/".join(parts[: 2 if nested else 1])] += path.read_text("utf-8").count("\n")
    return dict(counts)


def code_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines that are code: no comments, docstrings, blanks, imports.

    The paper's own name is replaced, since code that differs in nothing else is the same.
    """
    tree = tree_of(path)
    skipped: set[int] = set()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, (ast.Import, ast.ImportFrom)) or is_text:
            skipped |= set(range(node.lineno, node.end_lineno + 1))
    paper = path.relative_to(ROOT).parts[0]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.partition("  #")[0].strip()
        if number not in skipped and text and not text.startswith("#"):
            yield number, re.sub(rf"\b{paper}\b", "PAPER", text)


def shared_code(length: int = SHARED_LINES) -> list[str]:
    """Return the places where two papers have this many consecutive lines of code in common."""
    places: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for paper in PAPERS:
        for path in sorted((ROOT / paper).rglob("*.py")):
            lines = list(code_lines(path))
            for start in range(len(lines) - length + 1):
                window = tuple(text for _, text in lines[start : start + length])
                place = f"{path.relative_to(ROOT)}:{lines[start][0]}"
                places[window].setdefault(paper, place)
    return [" = ".join(found.values()) for found in places.values() if len(found) > 1]


def main() -> None:
    """Print the counts."""
    graph = import_graph()
    modules, packages = circles(graph), circles(package_graph())
    counts = line_counts()
    print(f"entries in common: {len(entries_of_common())}")
    print(f"import circles of modules: {len(modules)}, of packages of common: {len(packages)}")
    for group in (*modules, *packages):
        print(f"  {' <-> '.join(group)}")
    print(f"function-local imports: {len(local_imports())}")
    print(f"TYPE_CHECKING blocks: {len(typing_blocks())}")
    shared = shared_code()
    print(f"places where two papers share {SHARED_LINES} lines of code: {len(shared)}")
    print("".join(f"  {place}\n" for place in shared if "--all" in sys.argv), end="")
    print(f"source lines outside tests: {sum(counts.values())}")
    for package, count in sorted(counts.items()):
        print(f"  {package:<22} {count:>6}")


if __name__ == "__main__":
    main()
