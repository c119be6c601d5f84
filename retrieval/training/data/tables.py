"""Tables of pairs and triplets, with the columns as sentence-transformers and others name them.

    query, positive                          a pair in each row
    query, positive, negative                also negative_1 … negative_N; lists in JSON and parquet
    … and scores                             a teacher's, [positive, negative_1, …]
    query, document, label                   1: it answers the query, 0: it does not
    query, document, score                   with a `least_score`: from there on it answers

Which columns those are is found by their usual names, or said; what could be either is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval._validate import is_number, surrogate_at
from retrieval.errors import CorpusError
from retrieval.training.data.merging import merge_queries
from retrieval.training.data.rows import Unused, bad, read_rows
from retrieval.training.examples import TrainingExample

_QUERY = (("query", "anchor"), ("question", "sentence1"))
_POSITIVE = (
    ("positive", "positives", "pos"),
    (
        "answer", "passage", "passages", "text", "context", "document", "documents", "docs",
        "sentence2",
    ),
)  # fmt: skip
"""Names that say it, and names that may mean it where there is one of them alone."""
_NEGATIVE = re.compile(r"negatives?|neg|negative_\d+")
_LABELS = ("label", "labels", "score", "scores")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table hold what, where their names do not say it.

    Attributes:
        query, positive: names of columns; "" where they are to be found.
        negatives: names of columns; empty where they are to be found.
        header: names of all columns of a file that has none in its first line.
        least_score: of a column `score` beside pairs: from there on a document answers the query,
            below it does not.
    """

    query: str = ""
    positive: str = ""
    negatives: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    least_score: float | None = None


@dataclass(frozen=True, slots=True)
class _Layout:
    query: str
    positive: str
    negatives: tuple[str, ...]
    label: str


def read_table(
    path: Path, columns: Columns, on_notice: Callable[[str], None]
) -> tuple[list[TrainingExample], Counter[str]]:
    """The examples of a table; rows of the same query are one example.

    Returns:
        The examples, and what was dropped: reason → how many.

    Raises:
        CorpusError: the file cannot be read, it is not clear which columns hold query and
            positive, or a row is bad; the message names it, and the column.
        MissingExtra: a parquet file, without pyarrow.
    """
    merged, dropped = merge_queries(_rows_as_examples(path, columns, on_notice))
    if not merged:
        bad(
            str(path),
            "the table has no rows with a positive",
            "Write a row for each pair below the columns' names; of a file without a header, name "
            "all columns: --columns query,positive",
        )
    return merged, dropped


def is_table_of_pairs(names: Iterable[str]) -> bool:
    """Whether columns of these names can be found to hold a query and a positive."""
    lower = {name.strip().lower() for name in names}
    return all(not lower.isdisjoint({*sure, *likely}) for sure, likely in (_QUERY, _POSITIVE))


def _rows_as_examples(
    path: Path, columns: Columns, on_notice: Callable[[str], None]
) -> Iterator[TrainingExample]:
    unused = Unused()
    layout: _Layout | None = None
    for where, row in read_rows(path, columns.header):
        if layout is None or layout.query not in row or layout.positive not in row:
            layout = _layout(row, columns, where)
        negatives = layout.negatives or tuple(filter(_is_negative, row))
        used = {layout.query, layout.positive, layout.label, *negatives}
        unused.count(row.keys() - used, where)
        yield _example(row, layout, negatives, columns.least_score, where)
    for sentence in unused.sentences("column"):
        on_notice(f"{path}: {sentence}")


def _layout(row: Mapping[str, Any], columns: Columns, where: str) -> _Layout:
    for name in (columns.query, columns.positive, *columns.negatives):
        if name and name not in row:
            bad(
                where,
                f"there is no column {name!r}; found {', '.join(row) or 'none'}",
                "Correct the name, or leave it out.",
            )
    return _Layout(
        query=columns.query or _found(row, _QUERY, "query", where),
        positive=columns.positive or _found(row, _POSITIVE, "positive", where),
        negatives=columns.negatives,
        label=next((name for name in row if name.strip().lower() in _LABELS), ""),
    )


def _found(
    row: Mapping[str, Any], names: tuple[tuple[str, ...], ...], what: str, where: str
) -> str:
    for among in names:
        found = [name for name in row if name.strip().lower() in among]
        if len(found) == 1:
            return found[0]
        if found:
            bad(
                where,
                f"the columns {', '.join(found)} may all hold the {what}",
                f"Say which: --{what}-column {found[0]}",
            )
    known = ", ".join(name for among in names for name in among)
    raise CorpusError(
        f"{where}: no column holds the {what}; found {', '.join(row) or 'none'}",
        fix=f"Name it {what} (or one of {known}), or say which it is: --{what}-column NAME; of a "
        "file without a header, name all columns: --columns query,positive",
    )


def _is_negative(name: str) -> bool:
    return _NEGATIVE.fullmatch(name.strip().lower()) is not None


def _example(
    row: Mapping[str, Any],
    layout: _Layout,
    negative_columns: tuple[str, ...],
    least_score: float | None,
    where: str,
) -> TrainingExample:
    query = _texts(row[layout.query], layout.query, where)
    if len(query) != 1:
        bad(where, f"the column {layout.query!r} is empty, expected a query", "Write the query.")
    positives = _texts(row[layout.positive], layout.positive, where)
    if not positives:
        bad(
            where,
            f"the column {layout.positive!r} is empty, expected a passage",
            "Write what answers the query, or remove the row.",
        )
    negatives = [text for name in negative_columns for text in _texts(row.get(name), name, where)]
    if not layout.label:
        return TrainingExample(query[0], tuple(positives), tuple(negatives), where=where)
    label = row.get(layout.label)
    if negative_columns:
        return _scored(query[0], positives, negatives, layout.label, label, where)
    return _labelled(query[0], positives, layout.label, label, least_score, where)


def _scored(
    query: str, positives: list[str], negatives: list[str], column: str, label: Any, where: str
) -> TrainingExample:
    """A teacher's scores of the positive and the negatives, as mine_hard_negatives writes them."""
    scores = label if isinstance(label, list) else []
    together = len(positives) + len(negatives)
    if len(scores) != together or not all(map(is_number, scores)):
        bad(
            where,
            f"the column {column!r} is {str(label)[:60]!r} beside {len(positives)} positive and "
            f"{len(negatives)} negatives, expected a list of {together} finite numbers: a "
            "teacher's scores, the positive's first",
            "Write them so, or remove the column; margins alone are not enough.",
        )
    return TrainingExample(
        query,
        tuple(positives),
        tuple(negatives),
        positive_scores=tuple(map(float, scores[: len(positives)])),
        negative_scores=tuple(map(float, scores[len(positives) :])),
        where=where,
    )


def _labelled(
    query: str,
    documents: list[str],
    column: str,
    label: Any,
    least_score: float | None,
    where: str,
) -> TrainingExample:
    """Documents that answer the query or not, by their labels or scores."""
    values = [_number(one) for one in (label if isinstance(label, list) else [label])]
    if len(values) != len(documents) or None in values:
        bad(
            where,
            f"the column {column!r} is {str(label)[:60]!r} for {len(documents)} documents, "
            "expected a finite number for each",
            "Correct it, or remove the column: then every document counts as an answer.",
        )
    numbers = [one for one in values if one is not None]
    if least_score is None and not set(numbers) <= {0.0, 1.0}:
        bad(
            where,
            f"the column {column!r} is {str(label)[:60]!r}, expected 0 or 1: grades and scores do "
            "not say which documents answer the query",
            "Say from which score on they do: --least-score 0.5; or remove the column, where all "
            "do.",
        )
    least = 1.0 if least_score is None else least_score
    good = [(text, one) for text, one in zip(documents, numbers, strict=True) if one >= least]
    others = [(text, one) for text, one in zip(documents, numbers, strict=True) if one < least]
    scored = least_score is not None  # they are a teacher's then, and not labels
    return TrainingExample(
        query,
        tuple(text for text, _ in good),
        tuple(text for text, _ in others),
        positive_scores=tuple(one for _, one in good) if scored and good else None,
        negative_scores=tuple(one for _, one in others) if scored and others else None,
        where=where,
    )


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if is_number(value) else None


def _texts(value: Any, column: str, where: str) -> list[str]:
    """A text, or those of a list; none of an empty cell."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    found = value if isinstance(value, list) else [value]
    for one in found:
        if not isinstance(one, str) or not one.strip():
            bad(
                where,
                f"the column {column!r} holds {str(one)[:60]!r}, expected a text",
                "Write it in quotation marks, or name another column.",
            )
        if surrogate_at(one) is not None:
            bad(
                where,
                f"the column {column!r} has a lone surrogate, which is not Unicode text",
                "Write the character itself.",
            )
    return [one.strip() for one in found]
