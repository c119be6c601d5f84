"""Evaluate a retriever on judged queries: every first stage, without and with re-ranking."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from retrieval._validate import whole_number
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import DEFAULT_MEASURES, display_name, measure
from retrieval.evaluation.report import (
    EvaluationReport,
    EvaluationRow,
    report_as_text,
    write_report,
)
from retrieval.evaluation.trec import Qrels
from retrieval.types import BlendChoice, Candidate, Hit, Mode, Passage, SearchResult

__all__ = [
    "BatchSearch",
    "EvaluationReport",
    "EvaluationRow",
    "evaluate",
    "report_as_text",
    "write_report",
]

EvaluationProgress: TypeAlias = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`, in queries of one mode, from the calling thread."""


HitKey: TypeAlias = Callable[[str, Passage], str]
"""Called as `key(query_id, passage)`: what a hit counts as in the qrels."""


class BatchSearch(Protocol):
    """What is evaluated; `TwoStageRetriever` is one."""

    def search_batch(
        self,
        queries: Sequence[str],
        *,
        top_k: int,
        candidates: int | None,
        fetch: int | None,
        mode: Mode | None,
        rerank: bool,
        blend: BlendChoice | None,
    ) -> list[SearchResult]:
        """One result a query, in order.

        `candidates` of a result are the first `fetch` passages in first-stage order; its `hits`
        are the first `candidates` of those re-ranked, followed by the others in their old order.
        """
        ...


def evaluate(
    retriever: BatchSearch,
    queries: Mapping[str, str],
    qrels: Qrels,
    *,
    modes: Sequence[Mode] = ("dense", "sparse", "hybrid"),
    rerank: bool = True,
    blend: BlendChoice | None = None,
    candidates: int = 50,
    depth: int = 100,
    measures: Sequence[str] = DEFAULT_MEASURES,
    batch_size: int = 16,
    progress: EvaluationProgress | None = None,
    key: HitKey | None = None,
) -> EvaluationReport:
    """Search every judged query in every mode and measure both stages' orders.

    Each query is searched once per mode; the row without re-ranking is the first stage's order of
    that search. Judgements are of documents: a document takes the rank of its best passage.

    Args:
        retriever: the searcher; results say whether it re-ranked.
        queries: query id → text; those without judgements are not searched.
        qrels: query id → document id → grade.
        modes: first stages to measure, one or two rows each.
        rerank: measure the second stage too, where the retriever has one.
        blend: how the two orders are joined; None takes the retriever's default.
        candidates: how many passages are re-ranked.
        depth: how many passages are fetched and ranked, at least. Those below `candidates` keep
            the first stage's order, so that recall at `depth` compares between the rows.
        measures: see `retrieval.evaluation.metrics`.
        batch_size: how many queries are searched together; 1 gives the time of a query alone.
        progress: called before the first and after each batch.
        key: what a hit counts as in the qrels, see `JudgedQueries.key`; its document.

    Returns:
        A row of measures for each mode, without and with re-ranking, and their runs.

    Raises:
        InvalidInput: an argument's value cannot be used, or a judged query has no text.

    Example:
        >>> import retrieval
        >>> documents = [retrieval.Document("a", "Red apples."), retrieval.Document("b", "Rain.")]
        >>> _ = retrieval.ingest(documents, "judged", encoder="starter")
        >>> with retrieval.open("judged", reranker=None) as retriever:
        ...     report = retrieval.evaluate(retriever, {"q": "red fruit"}, {"q": {"a": 1}})
        >>> report.rows[0].measures["nDCG@10"]
        1.0
    """
    wanted, names = check_settings(
        modes, measures, candidates=candidates, depth=depth, batch_size=batch_size
    )
    judged, ids = _judged(queries, qrels)
    depth = max(depth, candidates)
    rows: list[EvaluationRow] = []
    notices: dict[str, None] = {}
    encoder, reranker = "", None
    for mode in wanted:
        search = partial(
            retriever.search_batch, top_k=depth, candidates=candidates, fetch=depth, mode=mode,
            rerank=rerank, blend=blend,
        )  # fmt: skip
        report = None if progress is None else partial(progress, mode)
        results = _searched([queries[id_] for id_ in ids], search, batch_size, report)
        notices.update(dict.fromkeys(notice for result in results for notice in result.notices))
        encoder, reranker = results[0].encoder, results[0].reranker or reranker
        rows.append(_row(mode, ids, results, judged, names, key or _document, reranked=False))
        if results[0].reranker is not None:
            rows.append(_row(mode, ids, results, judged, names, key or _document, reranked=True))
    return EvaluationReport(
        encoder=encoder,
        reranker=reranker,
        queries=len(ids),
        depth=depth,
        candidates=candidates,
        batch_size=batch_size,
        measures=names,
        rows=tuple(rows),
        qrels=judged,
        notices=tuple(notices),
    )


def _searched(
    queries: list[str],
    search: Callable[[list[str]], list[SearchResult]],
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> list[SearchResult]:
    results: list[SearchResult] = []
    if progress is not None:
        progress(0, len(queries))
    for start in range(0, len(queries), batch_size):
        results += search(queries[start : start + batch_size])
        if progress is not None:
            progress(len(results), len(queries))
    return results


def _row(
    mode: Mode,
    ids: list[str],
    results: list[SearchResult],
    qrels: Qrels,
    names: tuple[str, ...],
    key: HitKey,
    *,
    reranked: bool,
) -> EvaluationRow:
    run, milliseconds = {}, []
    for id_, result in zip(ids, results, strict=True):
        times = result.timings
        run[id_] = by_key(id_, result.hits if reranked else result.candidates, key)
        milliseconds.append(times.total_ms if reranked else times.encode_ms + times.retrieve_ms)
    return EvaluationRow(
        mode=mode,
        reranked=reranked,
        blend=results[0].blend if reranked else "none",
        measures=measure(qrels, run, names),
        ms_per_query=statistics.median(milliseconds),
        run=run,
    )


def by_key(query_id: str, found: Iterable[Candidate | Hit], key: HitKey) -> dict[str, float]:
    """Key → 1 / rank, each key at its best passage (MaxP)."""
    order = dict.fromkeys(key(query_id, item.passage) for item in found)
    return {one: 1.0 / rank for rank, one in enumerate(order, start=1)}


def _document(query_id: str, passage: Passage) -> str:
    return passage.document_id


def _judged(
    queries: Mapping[str, str], qrels: Qrels
) -> tuple[dict[str, Mapping[str, int]], list[str]]:
    """Qrels that are not empty, and the ids of their queries in the order of `queries`."""
    judged = {id_: grades for id_, grades in qrels.items() if grades}
    without_text = [id_ for id_ in judged if id_ not in queries]
    if without_text:
        raise InvalidInput(
            f"{len(without_text):,} judged queries have no text, the first is {without_text[0]!r}",
            fix="Pass their texts, or leave their judgements out: searching fewer queries than "
            "are judged would give wrong means.",
        )
    if not judged:
        raise InvalidInput(
            "no query is judged, so there is nothing to measure",
            fix="Pass qrels as query id → document id → grade.",
        )
    return judged, [id_ for id_ in queries if id_ in judged]


def check_settings(
    modes: Sequence[Mode], measures: Sequence[str], **counts: int
) -> tuple[tuple[Mode, ...], tuple[str, ...]]:
    """Modes and names of measures, each once; what `evaluate` would refuse is refused here.

    Raises:
        InvalidInput: a value cannot be used.
    """
    names = tuple(dict.fromkeys(display_name(name) for name in measures))
    if not modes:
        raise InvalidInput("no mode was named", fix="Give modes=('dense', 'sparse', 'hybrid').")
    if not names:
        raise InvalidInput("no measure was named", fix="Give measures=('nDCG@10', 'recall@100').")
    for name, value in counts.items():
        whole_number(value, name, fix=f"Give {name} as 16, 50, 100 …")
    return tuple(dict.fromkeys(modes)), names
