"""HTML tables → rows of cells in their columns, as the grid that a browser lays out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from retrieval.readers.blocks import table_lines

_MOST_SPAN = 100
"""A cell over more columns or rows is none that anybody reads."""
_MOST_CELL = 2000
"""Characters of a cell; a longer one makes the table a frame around texts."""
_FRAMED = ("h1", "h2", "h3", "h4", "h5", "h6", "table", "pre", "form", "article", "section")


@dataclass(frozen=True, slots=True)
class Table:
    """caption: what stands above. rows: all of equal length. has_head: the first names columns."""

    caption: str
    rows: list[list[str]]
    has_head: bool

    def lines(self) -> Iterator[str]:
        """Markdown's table, the caption a line above it."""
        if self.caption:
            yield self.caption
            yield ""
        yield from table_lines(self.rows, has_head=self.has_head)


def part_cells(soup: Any) -> None:
    """Put cells and rows that were never closed beside each other, as browsers do; the parser
    takes each for a part of the one before."""
    for tag in soup.find_all(["tr", "td", "th"]):
        around = ["td", "th", "table"] if tag.name != "tr" else ["tr", "table"]
        outer = tag.find_parent(around)
        if outer is not None and outer.name != "table":
            outer.insert_after(tag)


def is_data(table: Any) -> bool:
    """Whether it is a table and not a frame that puts texts side by side."""
    if table.get("role") in ("presentation", "none") or table.find(_FRAMED) is not None:
        return False
    rows = list(_rows(table))
    cells = [cell for row in rows for cell in _cells(row)]
    if max((len(list(_cells(row))) for row in rows), default=0) < 2:
        return False
    return all(len(cell.get_text()) <= _MOST_CELL for cell in cells)


def read_table(table: Any, text_of: Callable[[Any], str]) -> Table:
    """The grid: a cell over several rows is said in each of them, one over columns once.

    Args:
        text_of: a cell's text in one line.
    """
    grid: list[list[str]] = []
    below: dict[int, tuple[int, str]] = {}
    heads: list[bool] = []
    for row in _rows(table):
        line: list[str] = []
        cells = list(_cells(row))
        heads.append(
            row.parent.name == "thead" or (bool(cells) and all(one.name == "th" for one in cells))
        )
        for cell in cells:
            _fill(line, below)
            text = text_of(cell)
            over = _span(cell, "rowspan")
            for place in range(_span(cell, "colspan")):
                line.append("" if place else text)
                if over > 1:
                    below[len(line) - 1] = (over - 1, "" if place else text)
        while any(place >= len(line) for place in below):
            _fill(line, below)
            if any(place >= len(line) for place in below):
                line.append("")
        grid.append(line)
    width = max((len(line) for line in grid), default=0)
    kept = [
        (line + [""] * (width - len(line)), head)
        for line, head in zip(grid, heads, strict=True)
        if any(line)
    ]
    caption = table.find("caption")
    return Table(
        "" if caption is None else text_of(caption),
        [line for line, _ in kept],
        bool(kept) and kept[0][1],
    )


def _fill(line: list[str], below: dict[int, tuple[int, str]]) -> None:
    """Put in what hangs down from the rows above."""
    while len(line) in below:
        left, text = below.pop(len(line))
        if left > 1:
            below[len(line)] = (left - 1, text)
        line.append(text)


def _span(cell: Any, name: str) -> int:
    found = re.match(r"\s*(\d{1,4})", str(cell.get(name) or ""))
    return min(max(int(found.group(1)), 1), _MOST_SPAN) if found else 1


def _rows(table: Any) -> Iterator[Any]:
    for child in table.contents:
        name = getattr(child, "name", None)
        if name == "tr":
            yield child
        elif name in ("thead", "tbody", "tfoot"):
            yield from (one for one in child.contents if getattr(one, "name", None) == "tr")


def _cells(row: Any) -> Iterator[Any]:
    return (one for one in row.contents if getattr(one, "name", None) in ("td", "th"))
