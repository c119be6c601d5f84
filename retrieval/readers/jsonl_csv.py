"""Files of rows, one document each: JSONL, CSV and TSV. A bad row is named by its line."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, BinaryIO

from retrieval._validate import is_whole_number, surrogate_at
from retrieval.readers.files import Unreadable, choose_encoding, guessed_as, not_in
from retrieval.readers.guessing import guess_file

MAX_LINE_BYTES = 64 * 1024 * 1024
_HEAD_BYTES = 64 * 1024
_ID_FIELDS = ("_id", "id")
_TEXT_FIELDS = ("text", "contents", "content")


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One row. `id` is the one given in it, or empty; `line` is where it starts, from 1."""

    line: int
    id: str
    text: str
    title: str
    metadata: Mapping[str, Any]


def read_jsonl(
    file: BufferedReader,
    encoding: str | None,
    on_bad_row: Callable[[Unreadable], None],
    on_note: Callable[[str], None],
) -> Iterator[DocumentRow]:
    """One JSON object per line; blank lines are skipped.

    Raises:
        Unreadable: the file as a whole cannot be read.
    """
    name = _settled(file, encoding, on_note)
    for number, line in _lines(file, name):
        try:
            if isinstance(line, Unreadable):
                raise line
            if line.strip():
                yield _row_of(_json_object(line), number)
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
        raise Unreadable(f"is JSON, but {_json_kind(value)}; expected an object with a text field")
    if "\\u" in line and surrogate_at(json.dumps(value, ensure_ascii=False)) is not None:
        raise Unreadable("holds half of a surrogate pair (\\ud800 to \\udfff), which is not text")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _json_kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = ((list, "an array"), (str, "a string"), ((int, float), "a number"), (dict, "an object"))
    return next(name for kind, name in kinds if isinstance(value, kind))


# --- CSV ------------------------------------------------------------------------------------


def read_csv(
    binary: BufferedReader,
    encoding: str | None,
    on_bad_row: Callable[[Unreadable], None],
    on_note: Callable[[str], None],
    *,
    delimiters: str,
) -> Iterator[DocumentRow]:
    """Rows under a header with a `text` column; a cell that is a JSON number or boolean is one.

    Args:
        delimiters: the first of them that gives the header a text column is used.

    Raises:
        Unreadable: the file as a whole cannot be read, or has no text column.
    """
    # The limit is the process's own; it is only ever raised, so no other reader is hurt.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))
    name = _settled(binary, encoding, on_note)
    # Bytes that are not UTF-8 come as surrogates and spoil their own row only.
    errors = "surrogateescape" if name.startswith("utf-8") else "strict"
    codec = "utf-8-sig" if name == "utf-8" else name
    with io.TextIOWrapper(binary, codec, errors=errors, newline="") as file:
        yield from _csv_rows(_text_lines(file, name), on_bad_row, delimiters)


def _csv_rows(
    lines: Iterator[str], on_bad_row: Callable[[Unreadable], None], delimiters: str
) -> Iterator[DocumentRow]:
    first = next(lines, "")
    columns, delimiter = _header(first, delimiters)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        start = reader.line_num + 2
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = f"is not valid CSV: {error}"
            if "unexpected end" in str(error):
                reason += " (a quote opened here is never closed, so the rows after it are lost)"
            on_bad_row(Unreadable(reason, start))
            continue
        if not cells:
            continue
        try:
            yield _row_of(_cells(columns, cells), start)
        except Unreadable as bad:
            on_bad_row(Unreadable(bad.reason, start))


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


def _header(line: str, delimiters: str) -> tuple[list[str], str]:
    if not line.strip():
        raise Unreadable("is empty, or has an empty first line where the columns' names belong")
    found: list[str] = []
    for delimiter in delimiters:
        found = [name.strip() for name in next(csv.reader([line], delimiter=delimiter))]
        columns = [name or f"column{n}" for n, name in enumerate(found, 1)]
        columns = [c.lower() if c.lower() in _KNOWN_FIELDS else c for c in columns]
        if surrogate_at(line) is None and not set(columns).isdisjoint(_TEXT_FIELDS):
            twice = {name for name in columns if columns.count(name) > 1}
            if twice:
                raise Unreadable(f"has two columns named {min(twice)!r}; expected one of each", 1)
            return columns, delimiter
        if len(found) > 1:
            break
    shown = ", ".join(ascii(name)[1:-1] for name in found[:12])
    raise Unreadable(
        f"has the columns {shown}; expected one of them to be named text (or content, contents)", 1
    )


def _cells(columns: list[str], cells: list[str]) -> dict[str, Any]:
    if len(cells) > len(columns):
        raise Unreadable(f"has {len(cells)} cells, but the header has {len(columns)} columns")
    row: dict[str, Any] = {}
    for name, cell in zip(columns, cells, strict=False):
        if "\0" in cell:
            raise Unreadable(f"has a NUL character in the column {name!r}, so it is not text")
        if surrogate_at(cell) is not None:
            raise Unreadable(f"has bytes in the column {name!r} that are not UTF-8")
        if name in _KNOWN_FIELDS:
            row[name] = cell
        elif cell:
            row[name] = _typed(cell)
    return row


def _typed(cell: str) -> Any:
    """The JSON number or boolean that is written exactly so (not 007), else the text."""
    try:
        value = json.loads(cell, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return cell
    return value if isinstance(value, (int, float)) and json.dumps(value) == cell else cell


# --- both -----------------------------------------------------------------------------------

_KNOWN_FIELDS = frozenset({*_ID_FIELDS, *_TEXT_FIELDS, "title"})


def _row_of(fields: Mapping[str, Any], line: int) -> DocumentRow:
    """id, text and title from their fields; every other field is metadata."""
    text_field = next((name for name in _TEXT_FIELDS if fields.get(name) is not None), None)
    title = _title(fields.get("title"))
    if text_field is None and not title:
        raise Unreadable(
            f"has no text field: found {_names(fields)}; expected text, contents or content"
        )
    text = "" if text_field is None else fields[text_field]
    if not isinstance(text, str):
        raise Unreadable(f"has a {text_field} field that is {_json_kind(text)}, expected a string")
    if "\0" in text or "\0" in title:
        raise Unreadable("has a NUL character, so it is not text")
    if not text.strip():
        # In BEIR a document may be its title alone: what the encoder reads is the same.
        text, title = title, ""
    if not text.strip():
        raise Unreadable("is empty: neither text nor title")
    nested = fields.get("metadata")
    rest = {**nested} if isinstance(nested, dict) else {}
    known = {*_ID_FIELDS, "title", text_field, "metadata" if isinstance(nested, dict) else ""}
    rest |= {name: value for name, value in fields.items() if name not in known}
    return DocumentRow(line, _id(fields), text, title, rest)


def _id(fields: Mapping[str, Any]) -> str:
    for name in _ID_FIELDS:
        value = fields.get(name)
        if value is None or value == "":
            continue
        if not is_whole_number(value) and not isinstance(value, str):
            raise Unreadable(
                f"has an {name} that is {_json_kind(value)}, expected a string or whole number"
            )
        return str(value)
    return ""


def _title(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise Unreadable(f"has a title that is {_json_kind(value)}, expected a string")
    return value.strip()


def _names(fields: Mapping[str, Any]) -> str:
    names = [repr(name) for name in fields]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "no field"


def _too_long() -> str:
    return f"is longer than {MAX_LINE_BYTES // 2**20} MiB, the most that is read as one line"


def _undecoded(encoding: str, error: UnicodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return not_in(encoding, error)
    return f"was read as {encoding.upper()}, but is not: {error}"
