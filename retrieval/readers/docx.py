"""Word documents (docx) → text with markdown's marks for headings and lists; extra `files`.

python-docx opens the package (with entities unresolved) and its parts. The body is walked here,
because its `paragraphs` leave out content controls, tracked insertions, text boxes and notes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from retrieval.errors import MissingExtra
from retrieval.readers import zip_limits
from retrieval.readers.blocks import Block, clean, join_blocks, table_lines
from retrieval.readers.docx_numbering import DASH, Numbering
from retrieval.readers.files import Unreadable
from retrieval.readers.text import Content

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"
# Deleted text, what older programs show instead, properties, and how characters are read aloud.
_PASSED = {f"{_W}del", f"{_W}moveFrom", f"{_MC}Fallback", f"{_W}pPr", f"{_W}rPr", f"{_W}rt"}
_CHARACTERS = {
    f"{_W}tab": " ",
    f"{_W}ptab": " ",
    f"{_W}br": "\n",
    f"{_W}cr": "\n",
    f"{_W}noBreakHyphen": "-",
}
_NOTES = {f"{_W}footnoteReference": "footnotes", f"{_W}endnoteReference": "endnotes"}
_HEADING = re.compile(r"heading ([1-9])", re.IGNORECASE)
_MOST_SPAN = 100
_MOST_STYLES = 32
"""Longest chain of styles, each based on the next, so that a circle ends."""


def parse_docx(file: BinaryIO) -> Content:
    """Paragraphs, lists and tables in order; notes and text boxes after the paragraph they are in.

    The title is the document's own, else its title paragraph or first heading of level 1. Tables
    of contents, headers, footers, comments and deleted text are left out.

    Raises:
        MissingExtra: python-docx is not installed.
        Unreadable: the file is damaged, encrypted, or too large.
    """
    try:
        import docx
    except ImportError as error:
        raise MissingExtra("python-docx", extra="files", purpose="Reading Word files") from error
    with zip_limits.opened(file, "a Word document (docx)") as package:
        zip_limits.check(package, package.infolist())
        zip_limits.refuse_document_types(package)
        file.seek(0)
        try:
            document = docx.Document(file)
            return _Reading.of(document).content()
        except Unreadable:
            raise
        except Exception as error:  # the one boundary: a part may lack, or hold, anything
            reason = zip_limits.damaged("a Word document", error)
            raise Unreadable(f"{reason}; if Word opens it, save it anew") from error


@dataclass(frozen=True, slots=True)
class _Style:
    """What a paragraph style says of itself."""

    id: str
    name: str
    based_on: str
    level: int | None
    list_id: str
    list_level: int | None


@dataclass(frozen=True, slots=True)
class _Number:
    """A list's level, and the number or dash before a paragraph of it."""

    level: int
    mark: str


@dataclass(slots=True)
class _Reading:
    """A document on its way into blocks of text."""

    document: Any
    styles: dict[str, _Style]
    numbering: Numbering
    notes: dict[tuple[str, str], Any]
    titles: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, document: Any) -> _Reading:
        part = document.part
        notes = {
            (kind, str(note.get(f"{_W}id"))): note
            for kind in ("footnotes", "endnotes")
            for note in _related(part, kind)
            if isinstance(note.tag, str) and not note.get(f"{_W}type")  # separators have one
        }
        return cls(document, _styles(part), Numbering(_related(part, "numbering")), notes)

    def content(self) -> Content:
        text = join_blocks(self._blocks(self.document.element.body))
        title, metadata = properties(self.document.part.package, "Word Document")
        if not title and self.titles:
            title = self.titles[0]
        return Content(text, title, metadata)

    def _blocks(self, parent: Any) -> Iterator[Block]:
        for child in parent:
            if child.tag == f"{_W}p":
                yield from self._paragraph(child)
            elif child.tag == f"{_W}tbl":
                yield from self._table(child)
            elif isinstance(child.tag, str) and child.tag not in _PASSED:
                # Content controls, insertions, custom markup: what they hold counts.
                yield from self._blocks(child)

    def _paragraph(self, paragraph: Any) -> Iterator[Block]:
        after: list[Any] = []
        text = clean("".join(self._inline(paragraph, after)))
        text = "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))
        style = self._style_chain(_value(paragraph, "pStyle"))
        # Word counts paragraphs that say nothing, too.
        number = self._counted(paragraph, style)
        if text and not any(each.name.lower().startswith("toc ") for each in style):
            yield self._block(text, number, paragraph, style)
        for element in after:
            yield from self._blocks(element)

    def _block(
        self, text: str, number: _Number | None, paragraph: Any, style: list[_Style]
    ) -> Block:
        names = [each.name.lower() for each in style]
        level = _number(_value(paragraph, "outlineLvl"))
        if level is None:
            level = next((each.level for each in style if each.level is not None), None)
        is_title = "title" in names
        if is_title or (level is not None and level < 9):
            line = " ".join(text.split())
            depth = 0 if is_title or level is None else level
            if depth == 0 and (is_title or not self.titles):
                self.titles.insert(0 if is_title else len(self.titles), line)
            shown = "" if number is None or number.mark == DASH else f"{number.mark} "
            return Block(f"{'#' * min(depth + 1, 6)} {shown}{line}")
        if number is None:
            listed = any(name.startswith("list bullet") for name in names)
            listed = listed and _value(paragraph, "numId") != "0"
            return Block(f"{DASH}{text}" if listed else text, is_item=listed)
        indent = "  " * min(number.level, 5)
        return Block(f"{indent}{number.mark.rstrip()} {text}", is_item=True)

    def _counted(self, paragraph: Any, style: list[_Style]) -> _Number | None:
        """Count a paragraph of a list, and what is shown before it; None where nothing is."""
        own = _value(paragraph, "numId")
        named = next((each for each in style if each.list_id), None)
        list_id = own or (named.list_id if named else "")
        if list_id in ("", "0"):  # 0 takes a paragraph out of its style's list
            return None
        level = _number(_value(paragraph, "ilvl"))
        if level is None and named is not None and not own:
            level = named.list_level
            if level is None:
                level = self.numbering.level_of_style(list_id, named.id)
        mark = self.numbering.next(list_id, level or 0)
        return None if mark is None else _Number(level or 0, mark)

    def _inline(self, element: Any, after: list[Any]) -> Iterator[str]:
        """The text of a paragraph; what is beside it (notes, text boxes) goes to `after`."""
        stack = list(reversed(element))
        while stack:
            node = stack.pop()
            if node.tag in (f"{_W}t", f"{_M}t"):
                yield node.text or ""
            elif node.tag in _CHARACTERS:
                yield _CHARACTERS[node.tag]
            elif node.tag in _NOTES:
                note = self.notes.pop((_NOTES[node.tag], str(node.get(f"{_W}id"))), None)
                if note is not None:
                    after.append(note)
            elif node.tag == f"{_W}txbxContent":
                after.append(node)
            elif isinstance(node.tag, str) and node.tag not in _PASSED:
                stack.extend(reversed(node))

    def _table(self, table: Any) -> Iterator[Block]:
        rows = [
            list(_within(row, "tc"))
            for row in _within(table, "tr")
            if row.find(f"{_W}trPr/{_W}del") is None
        ]
        inner = table.find(f".//{_W}tc//{_W}tbl") is not None
        if inner or all(len(row) <= 1 for row in rows):
            # A frame around text and other tables, not a table.
            for row in rows:
                for cell in row:
                    yield from self._blocks(cell)
            return
        grid: list[list[str]] = []
        for row in rows:
            line = list(self._grid_row(row, grid[-1] if grid else []))
            if any(line):
                grid.append(line)
        width = max(map(len, grid), default=0)
        grid = [line + [""] * (width - len(line)) for line in grid]
        if grid:
            yield Block("\n".join(table_lines(grid, has_head=_names_columns(table))))

    def _grid_row(self, row: list[Any], above: list[str]) -> Iterator[str]:
        """A row's cells in their columns: one merged with those above is said again."""
        place = 0
        for cell in row:
            merged = cell.find(f"{_W}tcPr/{_W}vMerge")
            goes_on = merged is not None and merged.get(f"{_W}val") in (None, "continue")
            text = " ".join(join_blocks(self._blocks(cell)).split())
            if goes_on and not text and place < len(above):
                text = above[place]
            yield text
            span = cell.find(f"{_W}tcPr/{_W}gridSpan")
            over = _number(str(span.get(f"{_W}val"))) if span is not None else None
            over = min(max(over or 1, 1), _MOST_SPAN)
            yield from [""] * (over - 1)
            place += over

    def _style_chain(self, name: str) -> list[_Style]:
        """A style and those it is based on, nearest first."""
        chain: list[_Style] = []
        while name in self.styles and len(chain) < _MOST_STYLES:
            chain.append(self.styles[name])
            name = chain[-1].based_on
        return chain


def properties(package: Any, made_up: str) -> tuple[str, dict[str, Any]]:
    """Title, and author and language where given, of a package of python-docx or python-pptx.

    Args:
        made_up: the title that the library, or the program, gives where there is none.
    """
    try:
        package.part_related_by(f"{_PACKAGE_RELATIONS}core-properties")
    except KeyError:
        return "", {}  # the library would make some up
    core = package.core_properties
    title = " ".join(clean(core.title).split())
    given = {"author": core.author, "language": core.language}
    metadata = {name: " ".join(clean(value).split()) for name, value in given.items()}
    return "" if title == made_up else title, {k: v for k, v in metadata.items() if v}


_PACKAGE_RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships/metadata/"


def _related(part: Any, kind: str) -> Any:
    """The root of a part that belongs to another; no elements where there is none."""
    from docx.oxml.parser import parse_xml

    try:
        return parse_xml(part.part_related_by(_RELATIONS + kind).blob)
    except KeyError:
        return ()


def _styles(part: Any) -> dict[str, _Style]:
    found = {}
    for style in _related(part, "styles"):
        if style.tag == f"{_W}style" and style.get(f"{_W}type") == "paragraph":
            name = _value(style, "name")
            heading = _HEADING.fullmatch(name)
            outline = _number(_value(style, "outlineLvl"))
            level = int(heading.group(1)) - 1 if heading else outline
            own = str(style.get(f"{_W}styleId"))
            found[own] = _Style(
                own,
                name,
                _value(style, "basedOn"),
                level,
                _value(style, "numId"),
                _number(_value(style, "ilvl")),
            )
    return found


def _names_columns(table: Any) -> bool:
    """Whether the first row is marked as the table's head, or is laid out as one."""
    first = next(_within(table, "tr"), None)
    look = table.find(f"{_W}tblPr/{_W}tblLook")
    marked = first is not None and first.find(f"{_W}trPr/{_W}tblHeader") is not None
    return marked or (look is not None and look.get(f"{_W}firstRow") in ("1", "true"))


def _within(parent: Any, name: str) -> Iterator[Any]:
    """Rows of a table or cells of a row, also those within content controls; no deeper tables'."""
    for child in parent:
        if child.tag == f"{_W}{name}":
            yield child
        elif child.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml"):
            yield from _within(child, name)


def _value(element: Any, name: str) -> str:
    """What a property of a paragraph, style or list says; empty where it is not set."""
    for place in (name, f"pPr/{name}", f"pPr/numPr/{name}"):
        found = element.find("/".join(_W + step for step in place.split("/")))
        if found is not None:
            return str(found.get(f"{_W}val") or "")
    return ""


def _number(value: str) -> int | None:
    return int(value) if value.isdecimal() else None
