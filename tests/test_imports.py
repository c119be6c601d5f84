"""No modules import each other in a circle, also not inside functions or for type checkers only.

import-linter finds the circles between rooms; this finds those inside one, too.
"""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def module_files(folder: str) -> dict[str, Path]:
    """Module name → file. Each folder of benchmarks/ is on the path of its own scripts."""
    if folder.startswith("benchmarks"):
        return {file.stem: file for file in (ROOT / folder).glob("*.py")}
    files = sorted((ROOT / folder).rglob("*.py"))
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def imported(source: str, known: Container[str]) -> Iterator[str]:
    """The known modules that import statements anywhere in `source` name.

    `from package import name` means the module package.name where there is one. That Python runs
    a package's `__init__` before its modules does not count as an import.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found = name if name in known else node.module
                if found in known:
                    yield found


@pytest.mark.parametrize("folder", ["retrieval", "app", "benchmarks", "benchmarks/peers"])
def test_no_modules_import_each_other_in_a_circle(folder: str) -> None:
    files = module_files(folder)
    graph = {name: set(imported(file.read_text("utf-8"), files)) for name, file in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other: {' -> '.join(reversed(error.args[1]))}")
