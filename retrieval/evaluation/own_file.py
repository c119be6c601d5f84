"""A file of one's own: questions, and what answers them in one's own indexed documents.

    query,relevant,grade
    when does the gate close?,rules.md,
    who pays for travel?,handbook.pdf#page=3;rules.md#Travel costs,2

CSV (with commas or semicolons), TSV and JSON lines, with the columns

    query          also: question, text
    relevant       also: sources, source, documents, document, docs, doc, ids, id
    grade          may be left out: 1
    query_id       also: qid, and id where another column says what is relevant; may be left out

Several answers stand in one cell with ; or | between them, as a JSON list, or in rows of their own.
What can be typed for one is said in `retrieval.evaluation.resolve`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from retrieval._validate import is_whole_number
from retrieval.errors import CorpusError
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.lines import lines, records
from retrieval.evaluation.qrels import add_grade, add_query, grade_of

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")

_QUERY = ("query", "question", "text")
_RELEVANT = (
    "relevant", "sources", "source", "documents", "document", "docs", "doc", "ids", "id",
)  # fmt: skip
_QUERY_ID = ("query_id", "qid", "id")
_GRADE = ("grade", "relevance", "score")


def load_own_file(path: Path) -> JudgedQueries:
    """Read the questions; what was typed as their answers is in `typed`, to be resolved.

    Raises:
        CorpusError: the file cannot be read, a column is missing, a row is bad (named as
            path:line), or an answer has two grades.
    """
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    typed: dict[str, str] = {}
    named: dict[str, str] = {}  # a query's text → its id, where rows do not say it
    for line, row in _rows(path):
        where = f"{path}:{line}"
        text = _cell(row, _QUERY)
        if not isinstance(text, str) or not text.strip():
            raise CorpusError(f"{where}: the row has no query", fix="Write it, or drop the row.")
        text = " ".join(text.split())
        relevant, column = _relevant(row, where)
        id_ = _query_id(row, column) or named.setdefault(text, str(line))
        add_query(queries, id_, text, where)
        written = _cell(row, _GRADE)
        grade = 1 if written in (None, "") else grade_of(written, where)
        for one in relevant:
            typed.setdefault(one, where)
            add_grade(qrels, id_, one, grade, where)
    if not queries:
        raise CorpusError(
            f"{path} has no questions below its header" if path.suffix else f"{path} is empty",
            fix="Write a row for each question and what answers it.",
        )
    name = path.name.removesuffix(".gz").rpartition(".")[0]
    return JudgedQueries(
        name=name, split="test", queries=queries, qrels=qrels, typed=typed, files=(path,)
    )


def _cell(row: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _query_id(row: Mapping[str, Any], relevant: str) -> str:
    value = next((row[n] for n in _QUERY_ID if n != relevant and row.get(n) not in (None, "")), "")
    return str(value).strip()


def _relevant(row: Mapping[str, Any], where: str) -> tuple[list[str], str]:
    """What was typed as relevant, and the column it stands in."""
    column = next(name for name in _RELEVANT if name in row)  # a header without one was refused
    value = row[column]
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise CorpusError(
                f"{where}: {value[:80]!r} begins as a JSON list and is none ({error})",
                fix='Write ["one.md", "two.md"], or one.md;two.md',
            ) from error
    elif isinstance(value, str):
        value = value.replace("|", ";").split(";")
    found = value if isinstance(value, list) else [] if value is None else [value]
    texts = [str(one).strip() for one in found if isinstance(one, str) or is_whole_number(one)]
    if len(texts) != len(found):
        raise CorpusError(
            f"{where}: {column!r} is {value!r}, expected ids as text",
            fix='Write one as "rules.md", several as ["rules.md", "handbook.pdf#page=3"].',
        )
    if not any(texts):
        raise CorpusError(
            f"{where}: nothing is named as relevant in the column {column!r}",
            fix="Name at least one, or drop the row: a question without answers measures nothing.",
        )
    return [text for text in texts if text], column


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Rows with the line at which they start, under names in lower case."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        for where, record in records(path):
            row = {str(name).strip().lower(): value for name, value in record.items()}
            _check_columns(list(row), where)
            yield int(where.rpartition(":")[2]), row
        return
    numbered = list(lines(path))
    if not numbered:
        raise CorpusError(f"{path} is empty", fix="Write a header: query,relevant")
    delimiter = _delimiter(numbered[0][1], "\t" if suffix == ".tsv" else ",;\t")
    reader = csv.reader(
        io.StringIO("\n".join(line for _, line in numbered)), delimiter=delimiter, strict=True
    )
    columns: list[str] = []
    while True:
        start = numbered[min(reader.line_num, len(numbered) - 1)][0]
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CorpusError(
                f"{path}:{start}: the row is not valid CSV ({error})",
                fix='Put a cell that holds a comma or a line end into "…", and write " as "".',
            ) from error
        if not columns:
            columns = [cell.strip().lower() for cell in cells]
            _check_columns(columns, f"{path}:{start}")
            continue
        if len(cells) > len(columns):
            raise CorpusError(
                f"{path}:{start}: the row has {len(cells)} cells, the header {len(columns)}",
                fix=f"Put a cell that holds {delimiter!r} into quotation marks.",
            )
        yield start, dict(zip(columns, (cell.strip() for cell in cells), strict=False))


def _delimiter(header: str, among: str) -> str:
    """The first that makes columns of the header: a table program may write semicolons."""
    for delimiter in among:
        names = {name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter))}
        if not names.isdisjoint(_QUERY) and not names.isdisjoint(_RELEVANT):
            return delimiter
    return among[0]


def _check_columns(columns: list[str], where: str) -> None:
    for names in (_QUERY, _RELEVANT):
        if set(columns).isdisjoint(names):
            raise CorpusError(
                f"{where}: there is no column {names[0]!r}; found {', '.join(columns) or 'none'}",
                fix=f"Name it {names[0]} (or one of {', '.join(names[1:])}); a file of TREC "
                "topics needs its judgements, too: --qrels FILE.",
            )
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise CorpusError(f"{where}: two columns are named {twice[0]!r}", fix="Rename one.")
