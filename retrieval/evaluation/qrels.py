"""Judgements and texts of queries, put together with the checks that every format needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from retrieval._validate import is_whole_number
from retrieval.errors import CorpusError


def grade_of(written: object, where: str, what: str = "grade") -> int:
    """A grade as a whole number, also where a table program wrote it as 1.0.

    Raises:
        CorpusError: it is anything else; `where` and `what` are for the message.
    """
    if is_whole_number(written):
        return written
    try:
        value = float(str(written)) if isinstance(written, (str, float)) else None
    except ValueError:
        value = None
    if value is None or not value.is_integer():
        raise CorpusError(
            f"{where}: the {what} is {written!r}, expected a whole number",
            fix="Correct the line: grades are 0, 1, 2 …",
        )
    return int(value)


def add_grade(
    qrels: dict[str, dict[str, int]], query: str, document: str, grade: int, where: str
) -> None:
    """Add a judgement; the same one twice is fine.

    Raises:
        CorpusError: the document has another grade for that query already.
    """
    before = qrels.setdefault(query, {}).setdefault(document, grade)
    if before != grade:
        raise CorpusError(
            f"{where}: document {document!r} has two different grades for query {query!r}, "
            f"{before} and {grade}",
            fix="Keep one of the lines.",
        )


def add_query(queries: dict[str, str], query: str, text: str, where: str) -> None:
    """Add a query's text; the same one twice is fine.

    Raises:
        CorpusError: the text is blank, or the id was given with another text.
    """
    if not text.strip():
        raise CorpusError(
            f"{where}: the text of query {query!r} is empty",
            fix="Write the query's text, or remove the line.",
        )
    if queries.setdefault(query, text) != text:
        raise CorpusError(
            f"{where}: query {query!r} was given before with another text",
            fix="Give every query its own id.",
        )


def judged_of(
    queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]], texts: Path, grades: Path
) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """The queries that are judged and their judgements, both in the order of the queries' file.

    Raises:
        CorpusError: a judged query has no text.
    """
    missing = [query for query in qrels if query not in queries]
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise CorpusError(
            f"query {missing[0]!r}{more} is judged in {grades} but has no text in {texts}",
            fix="Add its text, or remove its judgements: otherwise the figures would be wrong.",
        )
    kept = {query: text for query, text in queries.items() if query in qrels}
    return kept, {query: dict(qrels[query]) for query in kept}
