"""From results to a row of a report: an order by keys, its measures and intervals."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from retrieval.evaluation.metrics import measure_per_query
from retrieval.evaluation.report import EvaluationRow, First, ScoreSample
from retrieval.evaluation.significance import bootstrap_interval
from retrieval.evaluation.trec import Qrels, Run
from retrieval.types import Blend, Candidate, Hit, Mode, Passage, SearchResult

HitKey: TypeAlias = Callable[[str, Passage], str]
"""Called as `key(query_id, passage)`: what a hit counts as in the qrels."""

BOOTSTRAP_SEED = 0

_JUDGED = "judged@10"
_SHOWN_CHARACTERS = 240


def by_key(query_id: str, found: Iterable[Candidate | Hit], key: HitKey) -> dict[str, float]:
    """Key → 1 / rank, each key at its best passage (MaxP)."""
    return as_run(key(query_id, item.passage) for item in found)


def as_run(order: Iterable[str]) -> dict[str, float]:
    """Key → 1 / rank, from keys best first, each at its first place."""
    return {one: 1.0 / rank for rank, one in enumerate(dict.fromkeys(order), start=1)}


def row_of_results(
    mode: Mode | None,
    results: Mapping[str, SearchResult],
    qrels: Qrels,
    measures: Sequence[str],
    key: HitKey,
    *,
    reranked: bool,
    source: str = "",
    after: Mapping[str, Sequence[str]] | None = None,
) -> EvaluationRow:
    """A row of one stage's order.

    Args:
        mode, source: what found the candidates, see `EvaluationRow`.
        results: query id → result.
        qrels, measures: to measure by.
        key: what a hit counts as.
        reranked: the hits are measured, else the candidates.
        after: query id → keys that follow those of the result.
    """
    run, firsts, scores, milliseconds = {}, {}, ScoreSample(), []
    for id_, result in results.items():
        times, grades = result.timings, qrels[id_]
        found: Sequence[Candidate | Hit] = result.hits if reranked else result.candidates
        keys = [key(id_, one.passage) for one in found]
        run[id_] = as_run([*keys, *(after or {}).get(id_, ())])
        milliseconds.append(times.total_ms if reranked else times.encode_ms + times.retrieve_ms)
        if found:
            firsts[id_] = _first(keys[0], found[0].passage)
        for name, one in zip(keys, found, strict=True):
            score = one.stage2_score if isinstance(one, Hit) else one.score
            if score is not None:
                (scores.relevant if grades.get(name, 0) > 0 else scores.others).append(score)
    blend: Blend = next(iter(results.values())).blend if reranked else "none"
    return _measured(
        EvaluationRow(
            mode=mode,
            reranked=reranked,
            blend=blend,
            measures={},
            ms_per_query=statistics.median(milliseconds),
            run=run,
            source=source,
            firsts=firsts,
            scores=scores,
        ),
        qrels,
        measures,
    )


def row_of_run(source: str, run: Run, qrels: Qrels, measures: Sequence[str]) -> EvaluationRow:
    """A row of a given run, of which nothing but the order is known."""
    firsts = {query: First(next(iter(own)), "", "") for query, own in run.items() if own}
    row = EvaluationRow(
        mode=None, reranked=False, blend="none", measures={}, ms_per_query=None, run=run,
        source=source, firsts=firsts,
    )  # fmt: skip
    return _measured(row, qrels, measures)


def _measured(row: EvaluationRow, qrels: Qrels, measures: Sequence[str]) -> EvaluationRow:
    import numpy as np

    found = measure_per_query(qrels, row.run, [*measures, _JUDGED])
    per_query = {name: found[name] for name in measures}
    values = np.array([list(own.values()) for own in per_query.values()])
    low, high = bootstrap_interval(values, seed=BOOTSTRAP_SEED)
    bounds = zip(low.tolist(), high.tolist(), strict=True)
    return replace(
        row,
        measures={name: sum(own.values()) / len(own) for name, own in per_query.items()},
        per_query=per_query,
        intervals=dict(zip(per_query, bounds, strict=True)),
        judged_at_10=statistics.fmean(found[_JUDGED].values()),
    )


def judged_notices(rows: Iterable[EvaluationRow], qrels: Qrels) -> list[str]:
    """Of which rows so little is judged that their figures say less about them than they seem to.

    What was not judged counts as not relevant, which flatters systems whose results were pooled
    for judging (Buckley and Voorhees, SIGIR 2004). Where five documents a query or more are
    judged, a system like those pooled has most of its first ten judged; one that has less than
    half of what the judgements allow is measured by its holes. Where fewer are judged, as in
    SciFact or MS MARCO, the share says nothing but how much was found.
    """
    most = statistics.fmean(min(len(grades), 10) / 10 for grades in qrels.values())
    if most < 0.5:
        return []
    low = [row for row in rows if row.judged_at_10 < most / 2]
    if not low:
        return []
    shares = ", ".join(f"{row.name} {row.judged_at_10:.0%}" for row in low)
    return [
        f"Of the first 10 results few are judged ({shares}; the judgements would allow "
        f"{most:.0%}). What is not judged counts as not relevant, so these figures may be too low "
        "beside those of systems whose results were judged."
    ]


def _first(key: str, passage: Passage) -> First:
    heading = " › ".join(dict.fromkeys(one for one in (passage.title, *passage.headings) if one))
    text = " ".join(passage.text[: 2 * _SHOWN_CHARACTERS].split())
    if len(text) > _SHOWN_CHARACTERS:
        text = text[: _SHOWN_CHARACTERS - 1].rstrip() + "…"
    return First(key, heading, text)
