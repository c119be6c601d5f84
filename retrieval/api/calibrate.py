"""Calibrate a collection: what its scores mean, learned from judged queries of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Unpack

import numpy as np

from retrieval.api.open import open
from retrieval.errors import InvalidInput
from retrieval.evaluation import calibration as statistics
from retrieval.evaluation.calibration import METHODS, Floats, Judged, ScoreMap
from retrieval.evaluation.calibration_report import CalibrationReport, Histogram, Tried
from retrieval.evaluation.candidate_scores import Seen
from retrieval.evaluation.drift import distribution
from retrieval.evaluation.judged import JudgedQueries
from retrieval.evaluation.judgements import load_judgements
from retrieval.evaluation.resolve import resolve
from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE, Store, StoreLike
from retrieval.search.cascade import DROP_RECALL, KEEP_PRECISION
from retrieval.search.first_stage import FirstStage, encode
from retrieval.search.options import SearchArguments
from retrieval.search.plan import SearchPlan
from retrieval.search.relevance import threshold_at
from retrieval.search.rerank import read_candidates
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import Calibration, Hit, Reference, Signal

LEAST_QUERIES = 50
"""With fewer, an interval around a share is wider than what anybody would act on, and a recall of
0.98 could not be promised at all."""

LEVELS = tuple(round(0.5 + 0.01 * step, 2) for step in range(50))
UNDER = 0.9
"""The recall whose threshold `retrieval drift` watches: best hits below it become more."""

_BINS = 24
_FEW_JUDGED = 0.3


def calibrate(
    judged: str | os.PathLike[str] | JudgedQueries,
    collection: str = DEFAULT_COLLECTION,
    *,
    split: str = "test",
    store: StoreLike = DEFAULT_STORE,
    reranker: str = "auto",
    signal: Signal | None = None,
    names: Mapping[str, str] | None = None,
    find_cascade: bool = False,
    grade: int = 1,
    limit: int | None = None,
    keep: bool = True,
    seed: int = 0,
    batch_size: int = 16,
    api_key: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    model_options: Mapping[str, Any] | None = None,
    **search: Unpack[SearchArguments],
) -> CalibrationReport:
    """Learn what a collection's scores mean, and keep it with the collection.

    The judged queries are searched as any search would be (by the collection's defaults, or as
    `search` says), and three scores of each candidate are looked at: the first stage's, the
    reranker's, and the blended one. The score and the method (isotonic or Platt) with the least
    Brier score on held-out queries are taken, of the scores that mean the same from query to
    query: fused and blended ones are relative to each query's own candidates, so that they cannot
    tell a question without an answer; they are taken where there is no other. From then on
    `Hit.relevance` of searches with the same models and settings is the probability of being
    relevant, and `min_relevance` takes `recall:0.95`, `precision:0.9` or one of the `names`.

    Args:
        judged: as for `load_judgements`, or the queries themselves.
        collection, store, api_key: what is searched.
        split: of a folder of judgements.
        reranker: as for `open`.
        signal: the score to take; None chooses.
        names: thresholds by names of one's own: {"strict": "precision:0.9"}.
        find_cascade: also find the first-stage scores beyond which no reranker is needed.
        grade: from which grade on a judgement means relevant.
        limit: only the first queries.
        keep: store it with the collection.
        seed: of the folds.
        batch_size: how many queries are searched together.
        progress: called with the queries that are searched so far, and all of them.
        model_options: how the models run, as for `open`.
        search: options of the searches.

    Returns:
        The calibration, and how good it is.

    Raises:
        InvalidInput: fewer than 50 queries have a relevant candidate, or an argument's value
            cannot be used. Nothing is stored then.
        CorpusError: the judgements cannot be read, or name what the collection does not hold.
    """
    if "min_relevance" in search:
        raise InvalidInput(
            "min_relevance was given to calibrate, which finds out what it should be",
            fix="Leave it out, and give it to searches afterwards.",
        )
    read = judged if isinstance(judged, JudgedQueries) else load_judgements(judged, split)
    opened = open(
        collection, store=store, reranker=reranker, api_key=api_key, **(model_options or {})
    )
    with opened as retriever:
        retriever.tuning = replace(retriever.tuning, calibration=None)  # nothing twice
        search["min_relevance"] = 0  # and nothing is left out
        known = resolve(read, retriever.index, tenant=search.get("tenant"))
        seen = Seen(known, grade)
        ids = list(islice(known.queries, limit))
        for start in range(0, len(ids), batch_size):
            batch = ids[start : start + batch_size]
            hits = searched(retriever, [known.queries[id_] for id_ in batch], search)
            for id_, own in zip(batch, hits, strict=True):
                seen.add(id_, own)
            if progress is not None:
                progress(min(start + batch_size, len(ids)), len(ids))
        report = _report(retriever, seen, search, names or {}, find_cascade, seed, signal)
    if keep:
        Store.of(store, api_key).set_calibration(collection, report.calibration)
    return replace(report, stored=keep)


def searched(
    retriever: TwoStageRetriever, texts: list[str], options: SearchArguments
) -> list[list[Hit]]:
    """All candidates of each query as hits, in final order: a page would show the best alone."""
    plan = retriever.plan(**options)
    first = FirstStage(retriever.index, encode(retriever.encoder, texts, plan), plan)
    return [[*one.hits, *one.rest] for one in read_candidates(texts, first.found, plan, None)]


def _report(
    retriever: TwoStageRetriever,
    seen: Seen,
    search: SearchArguments,
    names: Mapping[str, str],
    cascade: bool,
    seed: int,
    wanted: Signal | None,
) -> CalibrationReport:
    usable = sum(any(one.relevant for one in own) for own in seen.queries)
    if usable < LEAST_QUERIES:
        raise InvalidInput(
            f"{len(seen.queries)} judged queries were searched, and of {usable} a relevant "
            f"candidate was found; at least {LEAST_QUERIES} such queries are needed",
            fix="Judge more queries (retrieval questions, retrieval judge): with fewer, a "
            "threshold would be a guess.",
        )
    plan = retriever.plan(**search)
    reranked = plan.reranker is not None
    signals = _signals(plan)
    if wanted is not None and wanted not in signals:
        raise InvalidInput(
            f"the signal is {wanted!r}, and these searches have {', '.join(signals)}",
            fix="Name one of them, or leave it out.",
        )
    tried = _tried(seen, signals, seed, reranked=reranked)
    eligible = [one for one in tried if one.absolute] or tried
    if wanted is not None:
        eligible = [one for one in tried if one.signal == wanted]
    best = min(eligible, key=lambda one: one.brier)
    queries = seen.of(best.signal)
    compared = seen.of(best.signal, read=reranked)
    guess = statistics.held_out(compared, best.method, seed)
    scores, labels = statistics.pooled(compared)
    before, before_labels = statistics.pooled(seen.of("before"))
    quality = _quality(before, before_labels) if len(before) else None
    fitted = statistics.fitted(compared, best.method)
    recall = _thresholds(queries, statistics.recall_threshold)
    made = Calibration(
        pipeline=plan.pipeline,
        signal=best.signal,
        method=best.method,
        knots=fitted.knots,
        slope=fitted.slope,
        intercept=fitted.intercept,
        recall=recall,
        precision=_thresholds(queries, statistics.precision_threshold),
        cascade=_cascade(seen) if cascade and reranked and signals["stage1"] else None,
        names=dict(names),
        queries=usable,
        judged=len(scores),
        relevant=int(labels.sum()),
        brier=best.brier,
        brier_before=None if quality is None else quality[0],
        ece=best.ece,
        reference=_reference(queries, seen.lengths, fitted, dict(recall).get(UNDER)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    for name in names:
        threshold_at(made, name)  # which says what cannot be promised
    return CalibrationReport(
        collection=retriever.index.collection,
        calibration=made,
        stored=False,
        found=seen.found / max(seen.relevant, 1),
        judged_top10=seen.judged_top10,
        tried=tuple(tried),
        before=quality,
        reliability=tuple(statistics.reliability(guess, labels)),
        histogram=_histogram(scores, labels),
        notices=_notices(seen, made, asked=cascade),
    )


def _signals(plan: SearchPlan) -> dict[Signal, bool]:
    """The scores that the searches have, and whether each means the same from query to query."""
    signals: dict[Signal, bool] = {"stage1": plan.mode != "hybrid" or plan.pipeline.refined}
    if plan.reranker is not None:
        signals["stage2"] = True
        if plan.blend != "none":
            signals["score"] = False
    return signals


def _tried(seen: Seen, signals: Mapping[Signal, bool], seed: int, *, reranked: bool) -> list[Tried]:
    """Every score and method on held-out queries, all on the same candidates."""
    tried = []
    for signal, absolute in signals.items():
        queries = seen.of(signal, read=reranked)
        labels = statistics.pooled(queries)[1]
        for method in METHODS:
            guess = statistics.held_out(queries, method, seed)
            tried.append(Tried(signal, method, absolute, *_quality(guess, labels)))
    return tried


def _quality(guess: Floats, labels: Any) -> tuple[float, float]:
    bins = statistics.reliability(guess, labels)
    return statistics.brier(guess, labels), statistics.expected_calibration_error(bins)


def _thresholds(
    queries: list[Judged], find: Callable[[list[Judged], float], float | None]
) -> tuple[tuple[float, float], ...]:
    found = [(level, find(queries, level)) for level in LEVELS]
    return tuple((level, score) for level, score in found if score is not None)


def _cascade(seen: Seen) -> tuple[float, float] | None:
    first = seen.of("stage1")
    drop = statistics.recall_threshold(first, DROP_RECALL)
    keep = statistics.precision_threshold(first, KEEP_PRECISION)
    return None if drop is None or keep is None or drop > keep else (drop, keep)


def _reference(
    queries: Sequence[Judged], lengths: Sequence[int], map_: ScoreMap, under: float | None
) -> Reference:
    found = [q.scores[~np.isnan(q.scores)] for q in queries]
    best = map_(np.array([one.max() for one in found if len(one)]))
    under_at = 0.0 if under is None else float(map_(np.array([under]))[0])
    return Reference(
        queries=len(queries),
        relevance=distribution(best),
        length=distribution(np.array(lengths, dtype=np.float64)),
        under_at=under_at,
        under=float(np.mean(best < under_at)),
        unanswered=1.0 - len(best) / len(queries),
    )


def _histogram(scores: Floats, labels: Any) -> Histogram:
    edges = np.linspace(scores.min(), scores.max(), _BINS + 1)
    relevant, _ = np.histogram(scores[labels == 1], edges)
    others, _ = np.histogram(scores[labels == 0], edges)
    return Histogram(*(tuple(one.tolist()) for one in (edges, relevant, others)))


def _notices(seen: Seen, made: Calibration, *, asked: bool) -> tuple[str, ...]:
    notices = []
    if seen.judged_top10 < _FEW_JUDGED:
        notices.append(
            f"Of the first ten hits {seen.judged_top10:.0%} are judged, and the others count as "
            "not relevant: where they are relevant all the same, probabilities are too low."
        )
    if asked and made.cascade is None:
        notices.append(
            "No cascade: it needs a reranker behind a first stage whose scores mean the same from "
            "query to query (not hybrid), and that tell relevant from other candidates well enough "
            f"for a recall of {DROP_RECALL:g} and a precision of {KEEP_PRECISION:g}."
        )
    return tuple(notices)
