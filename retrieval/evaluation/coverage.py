"""Whether what is judged can be found at all: in the collection, and in a run that was given."""

from __future__ import annotations

from itertools import islice

from retrieval.errors import CorpusError
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.trec import Run
from retrieval.types import Index

_BATCH = 500


def missing_documents(
    judged: JudgedQueries, index: Index, *, tenant: str | None = None
) -> tuple[str, ...]:
    """A sentence on relevant documents that the collection does not hold, where there are any.

    Raises:
        CorpusError: it holds none of them.
    """
    parts = {key: part.document_id for own in judged.parts.values() for key, part in own.items()}
    relevant = {
        parts.get(key, key): None
        for grades in judged.qrels.values()
        for key, grade in grades.items()
        if grade > 0
    }
    ids = list(relevant)
    stored: set[str] = set()
    for start in range(0, len(ids), _BATCH):
        stored |= index.document_states(ids[start : start + _BATCH], tenant=tenant).keys()
    missing = [id_ for id_ in ids if id_ not in stored]
    if not missing:
        return ()
    shown = ", ".join(map(repr, missing[:3])) + (", …" if len(missing) > 3 else "")
    name = index.manifest.collection
    if len(missing) < len(ids):
        return (
            f"{len(missing):,} of {len(ids):,} relevant documents are not in the collection "
            f"{name!r} ({shown}), so recall cannot reach 1.",
        )
    has = list(dict.fromkeys(id_ for id_, _ in islice(index.document_sources(tenant=tenant), 3)))
    raise CorpusError(
        f"none of the {len(ids):,} relevant documents is in the collection {name!r}: the "
        f"judgements name {shown}, the collection has {', '.join(map(repr, has)) or 'nothing'}",
        fix="Judge by the collection's own ids, which `retrieval documents` lists, or search the "
        "documents that were judged.",
    )


def missing_queries(name: str, run: Run, judged: JudgedQueries) -> tuple[str, ...]:
    """A sentence on judged queries that a run has no results for, where there are any.

    Raises:
        CorpusError: it has results for none of them.
    """
    missing = [query for query in judged.queries if not run.get(query)]
    if not missing:
        return ()
    if len(missing) < len(judged.queries):
        return (
            f"The run {name!r} has no results for {len(missing):,} of {len(judged.queries):,} "
            f"judged queries (such as {missing[0]!r}), which count as 0 for it.",
        )
    has = next(iter(run))
    raise CorpusError(
        f"the run {name!r} has results for none of the {len(missing):,} judged queries: its first "
        f"is {has!r}, the judgements' {missing[0]!r}",
        fix="Give a run of these queries; ids must be written alike.",
    )
