"""Evaluate a retriever on judged queries: every first stage, without and with re-ranking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

from retrieval._validate import whole_number
from retrieval.errors import InvalidInput
from retrieval.evaluation.metrics import DEFAULT_MEASURES, display_name
from retrieval.evaluation.report import (
    EvaluationReport,
    EvaluationRow,
    report_as_text,
)
from retrieval.evaluation.rows import (
    HitKey,
    as_run,
    by_key,
    judged_notices,
    row_of_results,
    row_of_run,
)
from retrieval.evaluation.trec import Qrels, Run, ranking
from retrieval.evaluation.write_report import write_report
from retrieval.types import BlendChoice, Mode, Passage, SearchResult

__all__ = [
    "BatchSearch",
    "EvaluationReport",
    "EvaluationRow",
    "GivenRun",
    "HitKey",
    "by_key",
    "evaluate",
    "report_as_text",
    "write_report",
]

EvaluationProgress: TypeAlias = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`, in queries of one mode, from the calling thread."""


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
        min_relevance: float | str | None,
    ) -> list[SearchResult]:
        """One result a query, in order; nothing is left out.

        `candidates` of a result are the first `fetch` passages in first-stage order; its `hits`
        are the first `candidates` of those re-ranked, followed by the others in their old order.
        """
        ...


@dataclass(frozen=True, slots=True)
class GivenRun:
    """Another system's results for the judged queries.

    Attributes:
        name: of its rows.
        run: query id → key → score.
        rerank: called as `rerank(text, scores)` with a query and its candidates, id → score, best
            first; the result's hits are their new order. None measures the run as it is.
    """

    name: str
    run: Run
    rerank: Callable[[str, Mapping[str, float]], SearchResult] | None = None


def evaluate(
    retriever: BatchSearch | None,
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
    runs: Sequence[GivenRun] = (),
) -> EvaluationReport:
    """Search every judged query in every mode and measure both stages' orders.

    Each query is searched once per mode; the row without re-ranking is the first stage's order of
    that search. Judgements are of documents: a document takes the rank of its best passage.

    Args:
        retriever: the searcher; results say whether it re-ranked. None without modes.
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
        runs: of other systems, measured beside ours, and re-ranked where they say how. A run that
            has no results for a query counts as 0 for it.

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
        modes, measures, candidates=candidates, depth=depth, batch_size=batch_size,
        without_modes=bool(runs),
    )  # fmt: skip
    judged, ids = _judged(queries, qrels)
    depth = max(depth, candidates)
    if retriever is None and wanted:
        raise InvalidInput(
            f"{', '.join(wanted)} cannot be searched without a retriever",
            fix="Pass one, or modes=() to measure given runs alone.",
        )
    rows: list[EvaluationRow] = []
    seen: list[SearchResult] = []
    key = key or _document
    for mode in wanted:
        assert retriever is not None  # seen to above
        search = partial(
            retriever.search_batch, top_k=depth, candidates=candidates, fetch=depth, mode=mode,
            rerank=rerank, blend=blend, min_relevance=0,
        )  # fmt: skip
        report = None if progress is None else partial(progress, mode)
        found = _searched([queries[id_] for id_ in ids], search, batch_size, report)
        results = dict(zip(ids, found, strict=True))
        rows.append(row_of_results(mode, results, judged, names, key, reranked=False))
        if found[0].reranker is not None:
            rows.append(row_of_results(mode, results, judged, names, key, reranked=True))
        seen += found
    for one in runs:
        report = None if progress is None else partial(progress, one.name)
        more, found = _given(one, ids, queries, judged, names, key, candidates, report)
        rows += more
        seen += found
    notices = dict.fromkeys(notice for result in seen for notice in result.notices)
    return EvaluationReport(
        encoder=next((result.encoder for result in seen if result.encoder), None),
        reranker=next((result.reranker for result in seen if result.reranker), None),
        queries=len(ids),
        depth=depth,
        candidates=candidates,
        batch_size=batch_size,
        measures=names,
        rows=tuple(rows),
        qrels=judged,
        notices=(*notices, *judged_notices(rows, judged), *_nothing_found(rows, judged)),
        texts={id_: queries[id_] for id_ in ids},
    )


def _given(
    given: GivenRun,
    ids: Sequence[str],
    queries: Mapping[str, str],
    qrels: Qrels,
    measures: Sequence[str],
    key: HitKey,
    candidates: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[EvaluationRow], list[SearchResult]]:
    """The rows of a run: as it is, and where it says how, with its first candidates re-ranked."""
    orders = {id_: ranking(given.run.get(id_, {}), query=id_) for id_ in ids}
    run = {id_: as_run(order) for id_, order in orders.items()}
    rows = [row_of_run(given.name, run, qrels, measures)]
    if given.rerank is None:
        return rows, []
    results: dict[str, SearchResult] = {}
    for id_, order in orders.items():
        if progress is not None:
            progress(len(results), len(ids))
        own = given.run.get(id_, {})
        results[id_] = given.rerank(queries[id_], {one: own[one] for one in order[:candidates]})
    if progress is not None:
        progress(len(ids), len(ids))
    reranked = row_of_results(
        None, results, qrels, measures, key, reranked=True, source=given.name, after=orders
    )
    return [*rows, reranked], list(results.values())


def _nothing_found(rows: Sequence[EvaluationRow], qrels: Qrels) -> list[str]:
    """Whether no row has any relevant document: most often ids that do not belong together."""
    relevant = {
        query: {id_ for id_, grade in grades.items() if grade > 0}
        for query, grades in qrels.items()
    }
    without = sum(not ids for ids in relevant.values())
    notices = []
    if without:
        were = "1 query has" if without == 1 else f"{without:,} queries have"
        notices.append(
            f"{were} no document that is judged relevant (of {len(qrels):,}), and count as 0."
        )
    found = any(relevant[query] & row.run.get(query, {}).keys() for row in rows for query in qrels)
    if not found and without < len(qrels):
        notices.append(
            "No row has any of the relevant documents: do the judgements name them as the "
            "collection does?"
        )
    return notices


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
    modes: Sequence[Mode], measures: Sequence[str], *, without_modes: bool = False, **counts: int
) -> tuple[tuple[Mode, ...], tuple[str, ...]]:
    """Modes and names of measures, each once; what `evaluate` would refuse is refused here.

    without_modes: there may be no mode, since runs were given.

    Raises:
        InvalidInput: a value cannot be used.
    """
    names = tuple(dict.fromkeys(display_name(name) for name in measures))
    if not modes and not without_modes:
        raise InvalidInput("no mode was named", fix="Give modes=('dense', 'sparse', 'hybrid').")
    if not names:
        raise InvalidInput("no measure was named", fix="Give measures=('nDCG@10', 'recall@100').")
    for name, value in counts.items():
        whole_number(value, name, fix=f"Give {name} as 16, 50, 100 …")
    return tuple(dict.fromkeys(modes)), names
