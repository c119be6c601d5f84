"""Queries from the service's log of searches: what people really ask, most frequent first."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from retrieval._validate import surrogate_at, whole_number
from retrieval.errors import CorpusError
from retrieval.evaluation.lines import records


@dataclass(frozen=True, slots=True)
class LoggedQueries:
    """What a log holds.

    Attributes:
        queries: text → how often it was asked, most frequent first, then in the log's order.
        notices: sentences about lines that were passed over.
    """

    queries: dict[str, int]
    notices: tuple[str, ...]


def read_query_log(
    path: str | os.PathLike[str],
    collection: str,
    *,
    most: int | None = None,
    tenant: str | None = None,
) -> LoggedQueries:
    """The different queries that were asked of a collection.

    Texts that differ in letter case, blanks or compatible signs are one query, written as it was
    asked first.

    Args:
        path: lines of JSON with "collection", "query" (null where texts are not logged), "tenant".
        collection: whose searches.
        most: at most so many queries.
        tenant: only this one's searches; None takes all.

    Raises:
        CorpusError: the file cannot be read, a line is no record of a search, or no line has a
            query of this collection.
        InvalidInput: `most` cannot be used.
    """
    if most is not None:
        whole_number(most, "most")
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    silent, others = 0, 0
    torn: list[str] = []
    for where, record in records(Path(path), torn=torn):
        text = record.get("query")
        if "collection" not in record or not (text is None or isinstance(text, str)):
            raise CorpusError(
                f'{where} is no search: expected {{"collection": "…", "query": "…"}}',
                fix="Give the service's log of searches, or a file of queries as --queries.",
            )
        if record["collection"] != collection or tenant not in (None, record.get("tenant")):
            others += 1
        elif text is None or not text.strip() or surrogate_at(text) is not None:
            silent += 1
        else:
            same = normalised(text)
            counts[same] += 1
            first.setdefault(same, " ".join(text.split()))
    notices = list(torn)
    if silent:
        notices.append(
            f"{silent:,} searches in {path} have no query text, since the service was told not to "
            "log it; they were passed over."
        )
    if others:
        whose = f"{collection!r}" if tenant is None else f"{collection!r} and tenant {tenant!r}"
        notices.append(f"{others:,} searches in {path} are not of {whose}.")
    if not counts:
        raise CorpusError(
            " ".join([f"{path} has no query of the collection {collection!r}.", *notices]),
            fix="Name the collection that was searched, or write queries into a file (--queries).",
        )
    found = {first[same]: times for same, times in counts.most_common(most)}
    return LoggedQueries(found, tuple(notices))


def normalised(text: str) -> str:
    """A query's text as it is compared: without letter case, further blanks and look-alikes."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
