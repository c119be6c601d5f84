"""From scored candidates to hits: final order, threshold, and where in a passage the answer is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.fusion import dbsf, rrf
from retrieval.types import Blend, Candidate, Hit, Passage, Scores


def first_stage_hits(candidates: Sequence[Candidate], cosines: bool) -> list[Hit]:
    """Hits in first-stage order, of passages that no second stage has read.

    cosines: their scores are cosines, a relevance scale of a kind; BM25 and fused scores are not
    bounded by meaning.
    """
    return [
        Hit(
            passage=candidate.passage,
            rank=candidate.rank,
            score=candidate.score,
            relevance=min(max(candidate.score, 0.0), 1.0) if cosines else None,
            stage1_rank=candidate.rank,
            stage1_score=candidate.score,
        )
        for candidate in candidates
    ]


def reranked_hits(
    candidates: Sequence[Candidate],
    scores: Scores,
    relevance: NDArray[np.float64],
    blend: Blend,
    weight: float = 1.0,
) -> list[Hit]:
    """Hits in final order: those that were scored first, the others as the first stage had them.

    Args:
        candidates: in first-stage order.
        scores: of the first `len(scores.values)` of them.
        relevance: float64, one for each score.
        blend: "none" for the reranker's order; joined with the first stage's, "rrf" by ranks and
            "scores" by the sum of both stages' scores, each brought to one scale among the
            candidates that were scored (`retrieval.fusion.dbsf`).
        weight: of the reranker in the blend "scores"; the first stage's is 1.
    """
    values = scores.values
    depth = len(values)
    ids = [candidate.passage.id for candidate in candidates[:depth]]
    by_reranker = sorted(range(depth), key=lambda row: (-values[row], ids[row]))
    stage2_rank = {row: rank for rank, row in enumerate(by_reranker, start=1)}
    if blend == "none":
        order = [(row, float(values[row])) for row in by_reranker]
    else:
        if blend == "rrf":
            joined = rrf([ids, [ids[row] for row in by_reranker]])
        else:
            first = [(one.passage.id, one.score) for one in candidates[:depth]]
            joined = dbsf([first, list(zip(ids, values.tolist(), strict=True))], (1.0, weight))
        row_of = {id_: row for row, id_ in enumerate(ids)}
        order = [(row_of[id_], score) for id_, score in joined]
    hits = [
        Hit(
            passage=candidates[row].passage,
            rank=rank,
            score=score,
            relevance=float(relevance[row]),
            stage1_rank=candidates[row].rank,
            stage1_score=candidates[row].score,
            stage2_rank=stage2_rank[row],
            stage2_score=float(values[row]),
            best_span=best_span(candidates[row].passage, scores.spans, row),
        )
        for rank, (row, score) in enumerate(order, start=1)
    ]
    return hits + first_stage_hits(candidates[depth:], cosines=False)


def threshold(hits: Sequence[Hit], min_relevance: float | None) -> list[Hit]:
    """Hits of at least that relevance; those without a relevance are left out."""
    if min_relevance is None:
        return list(hits)
    return [h for h in hits if h.relevance is not None and h.relevance >= min_relevance]


def best_span(
    passage: Passage, spans: NDArray[np.int64] | None, row: int
) -> tuple[int, int] | None:
    """A window of `passage.content`, given by `spans[row]`, as offsets in `passage.text`.

    None where there are no windows, or where it is before the text, in title and headings.
    """
    if spans is None:
        return None
    before = len(passage.content) - len(passage.text)  # the text is last
    start = max(int(spans[row, 0]) - before, 0)
    end = min(int(spans[row, 1]) - before, len(passage.text))
    return (start, end) if start < end else None
