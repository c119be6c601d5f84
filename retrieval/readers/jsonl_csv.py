"""Files of rows, one document each: JSONL, CSV and TSV. A bad row is named by its line."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, BinaryIO

from retrieval._validate import surrogate_at
from retrieval.readers.files import Unreadable, choose_encoding, guessed_as, not_in
from retrieval.readers.guessing import guess_file
from retrieval.readers.options import Columns, ReadOptions
from retrieval.readers.rows import DocumentRow, Roles, json_kind, row_of

MAX_LINE_BYTES = 64 * 1024 * 1024
_HEAD_BYTES = 64 * 1024
_NO_TEXT_COLUMN = "expected one of them to be named text (or content, body, …)"


def read_jsonl(
    file: BufferedReader,
    options: ReadOptions,
    on_bad_row: Callable[[Unreadable], None],
    on_note: Callable[[str], None],
) -> Iterator[DocumentRow]:
    """One JSON object per line; blank lines are skipped.

    Raises:
        Unreadable: the file as a whole cannot be read.
    """
    name = _settled(file, options.codec, on_note)
    for number, line in _lines(file, name):
        try:
            if isinstance(line, Unreadable):
                raise line
            if line.strip():
                yield row_of(_json_object(line), number, options.columns)
        except Unreadable as bad:
            on_bad_row(Unreadable(bad.reason, number))


def _settled(file: BufferedReader, encoding: str | None, on_note: Callable[[str], None]) -> str:
    """The encoding, guessed where nothing names it and the file is not UTF-8."""
    name = choose_encoding(file.peek(_HEAD_BYTES), encoding)
    if encoding is None and name == "utf-8" and file.seekable():
        guessed = guess_file(file)
        if guessed is not None:
            on_note(guessed_as(guessed))
            return guessed
    return name


def _lines(file: BinaryIO, encoding: str) -> Iterator[tuple[int, str | Unreadable]]:
    """Numbered lines; a bad one does not hide those after it, where the encoding allows that."""
    if not encoding.startswith("utf-8"):
        with io.TextIOWrapper(file, encoding) as wrapper:
            yield from enumerate(_text_lines(wrapper, encoding), 1)
        return
    for number in itertools.count(1):
        raw = file.readline(MAX_LINE_BYTES)
        if not raw:
            return
        if len(raw) == MAX_LINE_BYTES and not raw.endswith(b"\n"):
            while (rest := file.readline(2**20)) and not rest.endswith(b"\n"):
                pass
            yield number, Unreadable(_too_long())
            continue
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            yield number, Unreadable(not_in("utf-8", error))


def _json_object(line: str) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise Unreadable(f"is not valid JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"is not JSON that can be used: {error}") from error
    if not isinstance(value, dict):
        raise Unreadable(f"is JSON, but {json_kind(value)}; expected an object with a text field")
    if "\\u" in line and surrogate_at(json.dumps(value, ensure_ascii=False)) is not None:
        raise Unreadable("holds half of a surrogate pair (\\ud800 to \\udfff), which is not text")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


# --- CSV ------------------------------------------------------------------------------------


def read_csv(
    binary: BufferedReader,
    options: ReadOptions,
    on_bad_row: Callable[[Unreadable], None],
    on_note: Callable[[str], None],
    *,
    delimiters: str,
) -> Iterator[DocumentRow]:
    """Rows under a header; a column of JSON numbers, or of booleans, alone has such values.

    Args:
        delimiters: the first of them that gives the header a text column is used.

    Raises:
        Unreadable: the file as a whole cannot be read, or has no text column.
    """
    # The limit is the process's own; it is only ever raised, so no other reader is hurt.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    name = _settled(binary, options.codec, on_note)
    # Bytes that are not UTF-8 come as surrogates and spoil their own row only.
    errors = "surrogateescape" if name.startswith("utf-8") else "strict"
    codec = "utf-8-sig" if name == "utf-8" else name
    with io.TextIOWrapper(binary, codec, errors=errors, newline="") as file:
        table = _Table.of(_text_lines(file, name), delimiters, options.columns)
        typed = _typed_columns(table)
        file.seek(0)
        again = _Table.of(_text_lines(file, name), delimiters, options.columns)
        roles = Roles.of((), table.roles).names
        for line, cells in again.rows(on_bad_row):
            try:
                yield row_of(_cells(table.columns, cells, typed, roles), line, table.roles)
            except Unreadable as bad:
                on_bad_row(Unreadable(bad.reason, line))


@dataclass(frozen=True, slots=True)
class _Table:
    """A table whose header was read. roles: its columns of text, title and id, by their names."""

    columns: list[str]
    roles: Columns
    delimiter: str
    lines: Iterator[str]

    @classmethod
    def of(cls, lines: Iterator[str], delimiters: str, wanted: Columns) -> _Table:
        columns, roles, delimiter = _header(next(lines, ""), delimiters, wanted)
        return cls(columns, roles, delimiter, lines)

    def rows(self, on_bad_row: Callable[[Unreadable], None]) -> Iterator[tuple[int, list[str]]]:
        """Where each row begins, and its cells."""
        reader = csv.reader(self.lines, delimiter=self.delimiter, strict=True)
        while True:
            start = reader.line_num + 2
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                reason = f"is not valid CSV: {error}"
                if "unexpected end" in str(error):
                    reason += " (a quote opened here is never closed: the rows after it are lost)"
                on_bad_row(Unreadable(reason, start))
                continue
            if cells:
                yield start, cells


def _text_lines(file: io.TextIOWrapper, encoding: str) -> Iterator[str]:
    for number in itertools.count(1):
        try:
            line = file.readline(MAX_LINE_BYTES)
        except UnicodeError as error:
            raise Unreadable(_undecoded(encoding, error), number) from error
        if not line:
            return
        if len(line) == MAX_LINE_BYTES and not line.endswith("\n"):
            raise Unreadable(_too_long(), number)
        yield line


def _header(line: str, delimiters: str, wanted: Columns) -> tuple[list[str], Columns, str]:
    """Names of columns, which of them are text, title and id, and what parts them."""
    if not line.strip():
        raise Unreadable("is empty, or has an empty first line where the columns' names belong")
    found: list[str] = []
    for delimiter in delimiters:
        found = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
        columns = [name or f"column{n}" for n, name in enumerate(found, 1)]
        roles = _roles(columns, wanted)
        if surrogate_at(line) is None and roles is not None:
            twice = {name for name in columns if columns.count(name) > 1}
            if twice:
                raise Unreadable(f"has two columns named {min(twice)!r}; expected one of each", 1)
            return columns, roles, delimiter
        if len(found) > 1:
            break
    shown = ", ".join(ascii(name)[1:-1] for name in found[:12])
    expected = _NO_TEXT_COLUMN + ", or its name as the text column"
    if asked := [name for name in (*wanted.text, wanted.title, wanted.id) if name]:
        expected = f"expected {', '.join(map(repr, asked))} among them"
    raise Unreadable(f"has the columns {shown}; {expected}", 1)


def _roles(columns: list[str], wanted: Columns) -> Columns | None:
    """The columns for text, title and id, whatever the case of usual names; None without text."""
    asked = {*wanted.text, *filter(None, (wanted.title, wanted.id))}
    if not asked <= set(columns):
        return None
    by_name = {name.lower(): name for name in reversed(columns)}
    roles = Roles.of(by_name, Columns())
    text = wanted.text or tuple(by_name[name] for name in roles.text)
    if not text:
        return None
    title, own_id = (by_name.get(name, "") for name in (roles.title, roles.id))
    title = "" if title in text else title
    return Columns(text, wanted.title or title, wanted.id or own_id)


def _typed_columns(table: _Table) -> frozenset[str]:
    """The columns all of whose cells are JSON numbers, or all booleans, as they are written."""
    kinds: dict[str, set[type]] = {name: set() for name in table.columns}
    with contextlib.suppress(Unreadable):  # said when it is read for its rows
        for _, cells in table.rows(lambda _: None):
            for name, cell in zip(table.columns, cells, strict=False):
                if cell and str not in kinds[name]:
                    kinds[name].add(_kind(cell))
    alone = ({float}, {bool})
    own = Roles.of((), table.roles).names
    return frozenset(name for name, found in kinds.items() if found in alone and name not in own)


def _cells(
    columns: list[str], cells: list[str], typed: frozenset[str], roles: frozenset[str]
) -> dict[str, Any]:
    if len(cells) > len(columns):
        raise Unreadable(f"has {len(cells)} cells, but the header has {len(columns)} columns")
    row: dict[str, Any] = {}
    for name, cell in zip(columns, cells, strict=False):
        if "\0" in cell:
            raise Unreadable(f"has a NUL character in the column {name!r}, so it is not text")
        if surrogate_at(cell) is not None:
            raise Unreadable(f"has bytes in the column {name!r} that are not UTF-8")
        if cell or name in roles:
            row[name] = json.loads(cell) if name in typed else cell
    return row


def _kind(cell: str) -> type:
    """float for a number that is written as JSON has it (not 007 or 1.10), bool, else str."""
    if cell in ("true", "false"):
        return bool
    try:
        value = json.loads(cell, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return str
    is_number = isinstance(value, (int, float)) and json.dumps(value) == cell
    return float if is_number else str


def _too_long() -> str:
    return f"is longer than {MAX_LINE_BYTES // 2**20} MiB, the most that is read as one line"


def _undecoded(encoding: str, error: UnicodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return not_in(encoding, error)
    return f"was read as {encoding.upper()}, but is not: {error}"
