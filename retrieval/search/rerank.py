"""The second stage: candidates are scored, put in final order and cut at a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from retrieval.models.rerankers.time_budget import score_within
from retrieval.search.hits import first_stage_hits, reranked_hits, threshold
from retrieval.search.plan import SearchPlan
from retrieval.types import Candidate, Hit, ProgressCallback, Reranker, Scores

BUDGET_NOTICE = "The time budget of"
"""How a notice begins that tells how deep a search with a time budget went."""


@dataclass(frozen=True, slots=True)
class Read:
    """What the second stage made of one query's candidates.

    hits: those that it read, or without one the first `depth`, in final order. rest: the others,
    in first-stage order. whole: no hit fell below the threshold, so deeper ones may pass it, too.
    reranked, of: how many were read, of how many. truncated: how many of them were cut.
    """

    hits: list[Hit]
    rest: list[Hit]
    whole: bool
    reranked: int = 0
    of: int = 0
    truncated: int = 0


def read_candidates(
    texts: Sequence[str],
    found: Sequence[Sequence[Candidate]],
    plan: SearchPlan,
    progress: ProgressCallback | None,
) -> list[Read]:
    """Re-rank the candidates of every query; all pairs share the reranker's batches."""
    if plan.reranker is None:
        return [_read(first_stage_hits(own, plan.cosines), plan.depth, plan) for own in found]
    groups = [
        [(text, candidate.passage.content) for candidate in own[: plan.depth]]
        for text, own in zip(texts, found, strict=True)
    ]
    if plan.options.budget_ms is None:
        scores = _score_all(plan.reranker, groups, progress)
    else:
        scores = score_within(plan.reranker, groups, plan.options.budget_ms, progress=progress)
    return [
        _read(
            reranked_hits(own, score, plan.reranker.relevance(score.values), plan.blend),
            len(score.values),
            plan,
            of=len(group),
            truncated=int(score.truncated.sum()),
        )
        for own, group, score in zip(found, groups, scores, strict=True)
    ]


def reading_notices(read: Read, plan: SearchPlan, hits: Sequence[Hit], queries: int) -> list[str]:
    """What of the candidates the reranker did not read, or only in part.

    Args:
        read: of one query.
        hits: those of it that are shown.
        queries: how many of them shared the time budget.
    """
    if plan.reranker is None:
        return []
    notices = []
    if read.truncated:
        notices.append(
            f"{read.truncated} of the re-ranked passages were longer than the reranker reads "
            f"({plan.reranker.info.max_length:,} tokens with the query) and were cut."
        )
    if read.reranked < read.of:
        shared = f" for {queries:,} queries" if queries > 1 else ""
        others = (
            "follow in first-stage order"
            if plan.options.min_relevance is None
            else "have no relevance and are left out"
        )
        notices.append(
            f"{BUDGET_NOTICE} {plan.options.budget_ms:g} ms{shared} re-ranked {read.reranked} of "
            f"{read.of} candidates; the others {others}."
        )
        return notices
    unread = sum(hit.stage2_score is None for hit in hits)
    if unread and plan.fetch == plan.depth:
        notices.append(
            f"{unread} of the hits are beyond the {plan.depth} candidates that are re-ranked, and "
            "follow in first-stage order."
        )
    return notices


def _read(
    hits: Sequence[Hit], depth: int, plan: SearchPlan, *, of: int = 0, truncated: int = 0
) -> Read:
    kept = threshold(hits[:depth], plan.options.min_relevance)
    rest = threshold(hits[depth:], plan.options.min_relevance)
    return Read(
        hits=kept,
        rest=rest,
        whole=len(kept) + len(rest) == len(hits),
        reranked=0 if plan.reranker is None else depth,
        of=of,
        truncated=truncated,
    )


def _score_all(
    reranker: Reranker,
    groups: Sequence[Sequence[tuple[str, str]]],
    progress: ProgressCallback | None,
) -> list[Scores]:
    """The scores of every group, from one call in which all share batches."""
    scores = reranker.score([pair for group in groups for pair in group], progress=progress)
    own: list[Scores] = []
    start = 0
    for group in groups:
        rows = slice(start, start + len(group))
        own.append(
            Scores(
                values=scores.values[rows],
                truncated=scores.truncated[rows],
                tokens=None if scores.tokens is None else scores.tokens[rows],
                spans=None if scores.spans is None else scores.spans[rows],
            )
        )
        start = rows.stop
    return own
