"""Jupyter notebooks: their texts, their code, and what the code printed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from retrieval.readers.code import fenced
from retrieval.readers.files import Unreadable, decode
from retrieval.readers.text import Content
from retrieval.splitting.markdown_structure import find_headings

_MOST_OUTPUT = 2000
"""Characters of what one cell printed: a log of thousands of lines says little more."""


def parse_notebook(data: bytes, encoding: str | None) -> Content:
    """Cells in order: markdown as it is, code and its printed results fenced.

    Raises:
        Unreadable: it is no notebook.
    """
    found = decode(data, encoding)
    try:
        notebook = json.loads(found.text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is not a notebook: {error}") from error
    sheets = notebook.get("worksheets") if isinstance(notebook, dict) else None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if cells is None and isinstance(sheets, list):  # the format before version 4
        cells = [cell for sheet in sheets for cell in sheet.get("cells", ())]
    if not isinstance(cells, list):
        raise Unreadable("is not a notebook: it has no cells")
    language = _language(notebook)
    blocks = [one for cell in cells if isinstance(cell, dict) for one in _cell(cell, language)]
    text = "\n\n".join(filter(None, blocks))
    title = notebook.get("metadata", {}).get("title", "")
    if not isinstance(title, str) or not title:
        first = next(iter(find_headings(text)), None)
        title = first.text if first is not None and first.level == 1 else ""
    return Content(text, title, {"language": language}, notes=found.notes)


def _language(notebook: Mapping[str, Any]) -> str:
    known = notebook.get("metadata", {})
    for place in ("language_info", "kernelspec"):
        name = known.get(place, {}).get("name" if place == "language_info" else "language")
        if isinstance(name, str) and name:
            return name
    return "python"


def _cell(cell: Mapping[str, Any], language: str) -> Iterator[str]:
    source = _joined(cell.get("source", cell.get("input", "")))
    if cell.get("cell_type") != "code":
        yield source.strip()
        return
    yield fenced(source, language)
    for output in cell.get("outputs", ()):
        if isinstance(output, dict) and output.get("output_type") != "error":
            printed = _joined(output.get("text", "")) or _joined(
                output.get("data", {}).get("text/plain", "")
            )
            if len(printed) > _MOST_OUTPUT:
                printed = printed[:_MOST_OUTPUT] + "…"
            yield fenced(printed)


def _joined(value: Any) -> str:
    if isinstance(value, list):
        return "".join(part for part in value if isinstance(part, str))
    return value if isinstance(value, str) else ""
