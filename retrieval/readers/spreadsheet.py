"""Spreadsheets (xlsx) → a table for each sheet, cells as they are shown; extra `files`."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from retrieval.errors import MissingExtra
from retrieval.readers import zip_limits
from retrieval.readers.blocks import MAX_CHARACTERS, clean, properties_of, table_lines
from retrieval.readers.files import Unreadable
from retrieval.readers.text import Content

_PERCENT = re.compile(r"^0(\.0+)?%$")
_DECIMALS = re.compile(r"^#?,?#*0\.(0+)$")


def parse_xlsx(file: BinaryIO) -> Content:
    """Each sheet that is shown: a heading, and its rows under the row that names the columns.

    Raises:
        MissingExtra: openpyxl is not installed.
        Unreadable: the file is damaged, encrypted, or too large.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise MissingExtra("openpyxl", extra="files", purpose="Reading spreadsheets") from error
    with zip_limits.opened(file, "a spreadsheet (xlsx)") as package:
        zip_limits.check(package, package.infolist())
        zip_limits.refuse_document_types(package)
        file.seek(0)
        try:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            try:
                return _content(book)
            finally:
                book.close()
        except Unreadable:
            raise
        except Exception as error:  # the one boundary: a part may lack, or hold, anything
            reason = zip_limits.damaged("a spreadsheet", error)
            raise Unreadable(f"{reason}; if Excel opens it, save it anew") from error


def _content(book: Any) -> Content:
    parts: list[str] = []
    hidden: list[str] = []
    length = 0
    for sheet in book.worksheets:
        if sheet.sheet_state != "visible":
            hidden.append(sheet.title)
            continue
        lines = list(_lines(sheet))
        length += sum(map(len, lines))
        if length > MAX_CHARACTERS:
            raise Unreadable(
                f"has more than {MAX_CHARACTERS // 2**20} Mi characters by its sheet "
                f"{sheet.title!r}, the most that is read as one document; split it"
            )
        if lines:
            parts.append(f"# {clean(sheet.title)}\n\n" + "\n".join(lines))
    notes = (f"has hidden sheets that were not read: {', '.join(hidden)}",) if hidden else ()
    title, author = properties_of(book.properties)
    return Content("\n\n".join(parts), title, {"author": author} if author else {}, notes=notes)


def _lines(sheet: Any) -> Iterator[str]:
    rows = [[_shown(cell) for cell in row] for row in sheet.iter_rows()]
    rows = [row for row in rows if any(row)]
    if not rows:
        return
    used = [any(column) for column in zip(*rows, strict=False)]
    kept = [[cell for cell, own in zip(row, used, strict=False) if own] for row in rows]
    width = max(map(len, kept))
    kept = [row + [""] * (width - len(row)) for row in kept]
    yield from table_lines(kept, has_head=_is_head(kept))


def _is_head(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row names columns: words in each, no two alike, and no numbers."""
    first = rows[0]
    if len(rows) < 2 or not all(first) or len(set(first)) < len(first):
        return False
    return not any(re.fullmatch(r"[-+\d.,%:/ €$£]+", cell) for cell in first)


def _shown(cell: Any) -> str:
    """A value as the sheet shows it, as far as dates, percents and decimals go."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, datetime.datetime):
        has_time = value.time() != datetime.time()
        return value.isoformat(" ", "minutes") if has_time else value.date().isoformat()
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (int, float)):
        return _number(value, str(cell.number_format or "General"))
    return " ".join(clean(str(value)).split())


def _number(value: float, form: str) -> str:
    if percent := _PERCENT.match(form):
        decimals = max(len(percent.group(1) or "") - 1, 0)
        return f"{100 * value:.{decimals}f}%"
    if decimals_of := _DECIMALS.match(form):
        return f"{value:.{len(decimals_of.group(1))}f}"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.15g}"
