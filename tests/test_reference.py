"""Each public name is documented as reference, and its example runs."""

from __future__ import annotations

import dataclasses
import doctest
import importlib.util
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import retrieval
from retrieval.types import Problem, Timings

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(name for name in retrieval.__all__ if name != "__version__")
RECORDS = [
    value
    for value in (*(getattr(retrieval, name) for name in NAMES), Timings, Problem)
    if dataclasses.is_dataclass(value)
]


def documented(value: Any) -> str:
    text = inspect.getdoc(value)
    assert text, f"{value} has no docstring"
    return text


def section(text: str, title: str) -> str:
    """A section of a docstring; empty where there is none."""
    _, _, rest = f"\n{text}\n".partition(f"\n{title}:\n")
    lines = []
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        lines.append(line)
    return "\n".join(lines)


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = getattr(retrieval, name)
    example = doctest.DocTestParser().get_doctest(documented(value), {}, name, None, 0)
    assert example.examples, f"retrieval.{name} has no example (`>>> …`) in its docstring"
    shown: list[str] = []
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False
    )
    runner.run(example, out=shown.append)
    assert not runner.failures, "".join(shown)


def test_the_page_of_the_reference_is_what_the_docstrings_say() -> None:
    spec = importlib.util.spec_from_file_location("page", ROOT / "scripts/make_python_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), (
        "docs/python.md is not what the docstrings say: run scripts/make_python_docs.py"
    )


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_fields_are_described_one_by_one(record: Any) -> None:
    described = section(documented(record), "Attributes")
    for field in dataclasses.fields(record):
        assert f"    {field.name}:" in f"\n{described}", f"{record.__name__}.{field.name}"


@pytest.mark.parametrize(
    "name", [name for name in NAMES if not dataclasses.is_dataclass(getattr(retrieval, name))]
)
def test_arguments_and_errors_are_described(name: str) -> None:
    value = getattr(retrieval, name)
    text = documented(value)
    described = section(text, "Args")
    for argument in list(inspect.signature(value).parameters.values()):
        if argument.kind is not argument.VAR_KEYWORD:
            assert argument.name in described, f"{name}({argument.name}=…)"
    if inspect.isfunction(value):
        assert section(text, "Returns") or "Yields" in text, f"{name}: what it returns"
    if name not in ("RetrievalError", "result_as_dict"):
        assert section(text, "Raises"), f"{name}: its errors"


@pytest.mark.parametrize("page", sorted([*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]))
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Paths between backticks, and links of the same folder."""
    if page.name == "CHANGELOG.md":  # names what was there once
        return
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:retrieval|app|tests|scripts|benchmarks|docs)/[\w./-]+)`", text)
    linked = re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", text)
    missing = [path for path in named if not (ROOT / path).exists()]
    missing += [path for path in linked if not (page.parent / path).exists()]
    assert missing == []
