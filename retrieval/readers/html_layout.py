"""The text of an HTML element, block by block, with markdown's marks for what has a shape:
headings, lists, code and tables, which the splitter knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from retrieval.readers.blocks import without_soft_marks
from retrieval.readers.html_tables import Table, is_data, read_table
from retrieval.readers.numerals import letters, roman


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


_BLOCKS = _names(
    "address article aside blockquote body caption center dd details dialog div dl dt fieldset "
    "figcaption figure footer form header hgroup hr legend li main nav ol optgroup p search "
    "section summary table tbody td textarea tfoot th thead tr ul"
)
_PARAGRAPHS = _names(
    "aside blockquote article details dialog div dl figure form ol p section table textarea ul"
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LISTS = _names("ol ul menu")
_MOST_INDENT = 5

Dropped = Callable[[Any], bool]
"""Whether an element, with all in it, says nothing."""


def layout(root: Any, dropped: Dropped) -> str:
    """The text of an element without what is dropped."""
    writer = _Writer()
    _lay_out(root, dropped, writer)
    return writer.text()


def inline(root: Any, dropped: Dropped) -> str:
    """The text of an element as one line."""
    return " ".join(re.sub(r"(?m)^(?:#+|- |```+$)", "", layout(root, dropped)).split())


def _lay_out(root: Any, dropped: Dropped, writer: _Writer) -> None:
    """Walk an element; without recursion but for tables, which are read cell by cell."""
    stack: list[Any] = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, _Close):
            writer.close(node.tag)
        elif not _is_tag(node):
            writer.write(_text_of(node))
        elif dropped(node):
            continue
        elif node.name == "table" and is_data(node):
            writer.table(read_table(node, lambda cell: inline(_Inside(cell), dropped)))
        elif node.name == "ruby":
            writer.write(_ruby(node))
        elif node.name == "math":
            writer.write(f" {_math(node)} ")
        else:
            writer.open(node)
            stack.append(_Close(node))
            stack.extend(reversed(node.contents))


class _Close:
    def __init__(self, tag: Any) -> None:
        self.tag = tag


class _Inside:
    """What is in an element, as an element of no kind: a cell is read without being one."""

    name = "span"

    def __init__(self, tag: Any) -> None:
        self.contents = tag.contents

    def get(self, _: str, default: Any = None) -> Any:
        return default

    def has_attr(self, _: str) -> bool:
        return False


def _is_tag(node: Any) -> bool:
    return hasattr(node, "contents")


def _text_of(node: Any) -> str:
    from bs4.element import Comment, PreformattedString

    if isinstance(node, (Comment, PreformattedString)):  # CDATA, declarations, doctype
        return ""
    return str(node)


def _ruby(tag: Any) -> str:
    """What is written, and how it is read in brackets behind the whole: 漢字(かんじ)."""
    written: list[str] = []
    read: list[str] = []
    for node in tag.descendants:
        if _is_tag(node) or not _text_of(node).strip():
            continue
        inside = {parent.name for parent in node.parents if parent is not tag}
        if "rp" not in inside:
            (read if "rt" in inside else written).append(str(node).strip())
    return "".join(written) + (f"({''.join(read)})" if read else "")


def _math(tag: Any) -> str:
    """What a formula's author typed (TeX) where that is there; else its signs in order."""
    source = tag.find("annotation", attrs={"encoding": "application/x-tex"})
    return str(source.get_text() if source is not None else tag.get("alttext") or tag.get_text())


class _Writer:
    """Joins inline text into lines and lines into blocks."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._line: list[str] = []
        self._prefix = ""
        self._code: Any = None
        self._in_heading = False
        self._lists: list[_List] = []

    def open(self, tag: Any) -> None:
        name = tag.name
        if name in _HEADINGS:
            self._heading(_HEADINGS[name])
        elif name == "pre":
            self._open_code(tag)
        elif name == "br":
            self._newline()
        elif name == "sup":
            self._line.append(_raised(tag, "".join(self._line[-1:])))
        elif name in _BLOCKS:
            self._block(blank_line=name in _PARAGRAPHS and not (name in _LISTS and self._lists))
        if name in _LISTS:
            self._lists.append(_List(tag))
        elif name == "li" and self._code is None and not self._in_heading:
            self._prefix = self._item(tag)

    def close(self, tag: Any) -> None:
        name = tag.name
        if name in _HEADINGS and self._code is None:
            self._end_line()
            self._blank()
            self._in_heading = False
            self._prefix = ""
        elif name == "pre" and self._code is tag:
            self._close_code()
        elif name in _BLOCKS:
            nested = name in _LISTS and len(self._lists) > 1
            self._block(blank_line=name in _PARAGRAPHS and not nested)
        if name in _LISTS and self._lists:
            self._lists.pop()
        elif name == "li":
            self._prefix = ""

    def write(self, text: str) -> None:
        self._line.append(text)

    def table(self, table: Table) -> None:
        if self._code is not None or self._in_heading:
            self._line.append(" ".join(cell for row in table.rows for cell in row))
            return
        self._end_line()
        self._blank()
        self._done += table.lines()
        self._blank()

    def text(self) -> str:
        if self._code is not None:
            self._close_code()
        self._end_line()
        return "\n".join(self._done).strip("\n")

    def _newline(self) -> None:
        if self._code is not None:
            self._line.append("\n")
        elif self._in_heading:
            self._line.append(" ")
        else:
            self._end_line()

    def _block(self, *, blank_line: bool) -> None:
        if self._code is not None or self._in_heading:
            self._line.append(" " if self._in_heading else "")
            return
        self._end_line()
        if blank_line:
            self._blank()

    def _item(self, tag: Any) -> str:
        if not self._lists:
            return "- "
        return "  " * min(len(self._lists) - 1, _MOST_INDENT) + self._lists[-1].mark(tag)

    def _heading(self, level: int) -> None:
        if self._code is not None:
            return
        self._end_line()
        self._blank()
        self._in_heading = True
        self._prefix = "#" * level + " "

    def _open_code(self, tag: Any) -> None:
        if self._code is not None:
            return
        self._end_line()
        self._blank()
        self._code = tag

    def _close_code(self) -> None:
        lines = without_soft_marks("".join(self._line)).strip("\n").rstrip()
        self._line.clear()
        self._code = None
        if lines.strip():
            longest = max((len(run) for run in re.findall("`{3,}", lines)), default=2)
            fence = "`" * (longest + 1)
            self._done += [f"{fence}\n{lines}\n{fence}", ""]

    def _end_line(self) -> None:
        line = " ".join(without_soft_marks("".join(self._line)).split())
        self._line.clear()
        if line:
            self._done.append(self._prefix + line)
            self._prefix = ""

    def _blank(self) -> None:
        if self._done and self._done[-1]:
            self._done.append("")


def _raised(tag: Any, before: str) -> str:
    """What tells a raised number from the one before it: 10^5; of a note's mark, a blank."""
    text = tag.get_text().strip()
    if tag.find("a") is not None or tag.find_parent("a") is not None:
        return " "
    is_power = re.fullmatch(r"[+\-−]?[\w+\-−]{1,6}", text) and before[-1:].isdigit()
    return "^" if is_power else ""


class _List:
    """A list's numbers, as browsers count them."""

    def __init__(self, tag: Any) -> None:
        self._ordered = tag.name == "ol" and "none" not in str(tag.get("style") or "")
        self._kind = str(tag.get("type") or "1")
        items = sum(1 for child in tag.contents if getattr(child, "name", None) == "li")
        self._step = -1 if tag.has_attr("reversed") else 1
        self._next = _whole(tag.get("start"), items if self._step < 0 else 1)

    def mark(self, item: Any) -> str:
        """What stands before an item."""
        if not self._ordered:
            return "- "
        number = _whole(item.get("value"), self._next)
        self._next = number + self._step
        return f"{_number_as(self._kind, number)}. "


def _whole(given: Any, otherwise: int) -> int:
    found = re.match(r"\s*([+-]?\d{1,9})", str(given or ""))
    return int(found.group(1)) if found else otherwise


def _number_as(kind: str, number: int) -> str:
    """A number in the letters or Roman numerals that a list asks for, where there are such."""
    form = {"a": letters, "i": roman}.get(kind.lower(), str)
    try:
        text = form(number)
    except ValueError:
        return str(number)
    return text.upper() if kind in ("A", "I") else text
