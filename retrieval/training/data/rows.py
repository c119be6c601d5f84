"""Rows of tables: CSV, TSV, JSON lines and parquet, each with its place as path:line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, TypeAlias

from retrieval._validate import surrogate_at
from retrieval.errors import CorpusError, MissingExtra, first_line
from retrieval.evaluation.lines import lines
from retrieval.readers.files import Unreadable, choose_encoding

TEXT_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet")

Row: TypeAlias = tuple[str, dict[str, Any]]
"""Where a row stands, for messages, and its cells by their columns' names."""

_HEAD_BYTES = 64 * 1024
_LONGEST_CELL = 64 * 1024 * 1024


def suffix_of(path: Path) -> str:
    """The suffix that says how a file is read, of a compressed one that before its `.gz`."""
    return Path(path.name.removesuffix(".gz")).suffix.lower()


def read_rows(path: Path, header: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a table.

    Args:
        path: ends in one of `SUFFIXES`; all but parquet may be compressed (`….gz`). A CSV file may
            have commas, semicolons or tabs, and a byte order mark; UTF-16 is read where it has one.
        header: names of the columns of a CSV or TSV file, or of JSON lines that are arrays, which
            have no header of their own. In such a TSV file quotation marks are letters, as MS
            MARCO's files have them.

    Raises:
        CorpusError: the file cannot be read, or a row is bad; the message names it.
        MissingExtra: a parquet file, without pyarrow.
    """
    suffix = suffix_of(path)
    if suffix == ".parquet":
        return _parquet_rows(path)
    if suffix in (".csv", ".tsv"):
        return _csv_rows(path, header, "\t" if suffix == ".tsv" else ",;\t")
    return _json_rows(path, header)


def json_objects(path: Path) -> Iterator[Row]:
    """Every line of a file of JSON lines as an object; blank lines are passed over.

    Raises:
        CorpusError: the file cannot be read, or a line is no JSON object, or has a key twice.
    """
    return _json_rows(path, ())


def _json_rows(path: Path, header: Sequence[str]) -> Iterator[Row]:
    for number, line in lines(path):
        where = f"{path}:{number}"
        try:
            value = json.loads(line, object_pairs_hook=_distinct)
        except _Twice as twice:
            bad(where, f"the key {twice.key!r} is there twice", "Keep one of the two.")
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            bad(
                where,
                f"the line is not JSON ({reason})",
                "Each line holds one JSON object; an array over many lines becomes lines with: "
                "jq -c '.[]'",
            )
        if isinstance(value, list) and header:
            value = dict(zip(header, _fitting(value, header, where), strict=False))
        if not isinstance(value, dict):
            bad(
                where,
                f"the line is a JSON {type(value).__name__}, expected an object",
                'Write it as {"query": "…", "pos": ["…"], "neg": ["…"]}; an array of objects '
                "becomes lines with: jq -c '.[]'; of arrays of texts, name the columns: "
                "--columns query,positive,negative",
            )
        yield where, value


class Unused:
    """Names of keys or columns that are there and not used, so that none is lost silently."""

    def __init__(self) -> None:
        self._times: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def count(self, names: Iterable[str], where: str) -> None:
        """Note those of a row."""
        for name in names:
            self._times[name] += 1
            self._first.setdefault(name, where)

    def sentences(self, kind: str) -> Iterator[str]:
        """One about each name, in their order."""
        for name, times in sorted(self._times.items()):
            yield f"the {kind} {name!r} is not used ({times:,} ×, first at {self._first[name]})."


class _Twice(Exception):
    def __init__(self, key: str) -> None:
        self.key = key


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise _Twice(key)
        made[key] = value
    return made


# --- CSV ------------------------------------------------------------------------------------


def _csv_rows(path: Path, header: Sequence[str], delimiters: str) -> Iterator[Row]:
    # The limit is the process's own; it is only ever raised, so no other reader is hurt.
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
    reached = 0
    try:
        with _opened(path) as file:
            first = file.readline()
            delimiter = max(delimiters, key=first.count)  # the first of those as frequent
            file.seek(0)
            if header and delimiter == "\t":
                reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
            else:
                reader = csv.reader(file, delimiter=delimiter, strict=True)
            columns = list(header)
            while True:
                reached = reader.line_num + 1
                cells = next(reader, None)
                if cells is None:
                    return
                where = f"{path}:{reached}"
                if not any(cell.strip() for cell in cells):
                    continue
                if not columns:
                    columns = _header(cells, where)
                    continue
                row = dict.fromkeys(columns, "")  # cells at the end may be missing
                for name, cell in zip(columns, _fitting(cells, columns, where), strict=False):
                    row[name] = _decoded(cell, name, where)
                yield where, row
    except csv.Error as error:
        bad(
            f"{path}:{reached}",
            f"the row is not valid CSV ({error})",
            'Put a cell that holds a separator or a line end into "…", and write " as ""; a TSV '
            "file whose quotation marks are letters is read with its header removed and "
            "--columns query,positive,negative",
        )
    except Unreadable as problem:
        bad(str(path), problem.reason, "Convert the file to UTF-8.")
    except UnicodeError as error:
        bad(f"{path}:{reached}", f"cannot be decoded ({error})", "Convert the file to UTF-8.")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        bad(str(path), f"cannot be read ({reason})", "Check the file and its permissions.")


def _opened(path: Path) -> io.TextIOWrapper:
    binary: IO[bytes] = gzip.GzipFile(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[assignment]
    try:
        name = choose_encoding(binary.read(_HEAD_BYTES), None)
        binary.seek(0)
        # Bytes that are not UTF-8 come as surrogates, so that their row can be named.
        codec, errors = (
            ("utf-8-sig", "surrogateescape") if name.startswith("utf-8") else (name, "strict")
        )
        return io.TextIOWrapper(binary, codec, errors=errors, newline="")
    except BaseException:
        binary.close()
        raise


def _header(cells: list[str], where: str) -> list[str]:
    columns = [cell.strip() or f"column{number}" for number, cell in enumerate(cells, start=1)]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        bad(where, f"two columns are named {twice[0]!r}", "Rename one.")
    return columns


def _fitting(cells: list[Any], columns: Sequence[str], where: str) -> list[Any]:
    if len(cells) > len(columns):
        bad(
            where,
            f"the row has {len(cells)} cells, and there are {len(columns)} columns: "
            f"{', '.join(columns)}",
            "Put a cell that holds the separator into quotation marks, or name every column.",
        )
    return cells


def _decoded(cell: str, column: str, where: str) -> str:
    if surrogate_at(cell) is not None:
        bad(
            where,
            f"the column {column!r} has bytes that are not UTF-8",
            "Convert the file, for example with: iconv -f LATIN1 -t UTF-8",
        )
    return cell


# --- parquet --------------------------------------------------------------------------------


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", extra="parquet", purpose="a .parquet file") from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        bad(
            str(path),
            f"cannot be read as parquet after row {number} ({first_line(error)})",
            "Write the file again, or download it again.",
        )


def bad(where: str, problem: str, fix: str) -> NoReturn:
    """Raise a CorpusError that begins with a place."""
    raise CorpusError(f"{where}: {problem}", fix=fix)
