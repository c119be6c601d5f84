"""The second stage: candidates are scored, put in final order and cut at a threshold."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from retrieval.models.rerankers.time_budget import score_within
from retrieval.search.cascade import KEEP_PRECISION, parted
from retrieval.search.excerpts import Excerpt, tokens, whole
from retrieval.search.hits import first_stage_hits, reranked_hits
from retrieval.search.plan import SearchPlan
from retrieval.types import Candidate, Hit, ProgressCallback, Reranker, Scores

WHOLE_BEST = 5
"""Candidates that are read whole also where of the others excerpts are read.

SciFact train, 100 claims, MiniLM-L12 over hybrid search with bge-small, blend "scores", nDCG@10
beside all 50 whole (0.757): 25 candidates, of which 5 whole, -0.002 (95% interval -0.007 to 0.001)
for a fifth of the tokens; 50 excerpts alone -0.001 (-0.015 to 0.013), and -0.016 where the reranker
weighs more; the best 12 whole alone -0.003, and -0.009."""

WHOLE_SHARE = 2 / 3
"""Of what a search may read, for these; a slower machine reads fewer of them whole."""

LEAST_CANDIDATES = 8
"""Fewer would leave next to nothing to put in order, however slow the machine is."""

EXCERPT_NOTICE = (
    f"Below the best {WHOLE_BEST} candidates the reranker read of long ones the part that fits the "
    "query best; read='full' (--read full) reads all of them, several times slower."
)
PACE_NOTICE = (
    "The reranker read as many candidates as take this CPU about half a second, the best few whole "
    "and of the others, where they are long, the part that fits the query best; candidates=50, "
    "read='full' (--candidates 50 --read full) reads all."
)
"""The same for every query, so that they are shown once."""

_AT_ONCE = 50
"""Candidates among which a term is rare or frequent, where excerpts are chosen by it."""

_LEAST_BUDGET_MS = 0.001

BUDGET_NOTICE = "The time budget of"
"""How a notice begins that tells how deep a search with a time budget went."""


@dataclass(frozen=True, slots=True)
class Read:
    """What the second stage made of one query's candidates.

    hits: those that it read, or without one the first `depth`, in final order. rest: the others,
    in first-stage order. best: the highest relevance before the threshold. whole: no hit fell
    below the threshold, so deeper ones may pass it, too. reranked, of: how many were read, of how
    many. truncated: how many of them were cut. excerpts: of how many a part was chosen. unread: how
    many of the hits a cascade kept without reading.
    """

    hits: list[Hit]
    rest: list[Hit]
    whole: bool
    best: float | None = None
    reranked: int = 0
    of: int = 0
    truncated: int = 0
    excerpts: int = 0
    unread: int = 0


def read_candidates(
    texts: Sequence[str],
    found: Sequence[Sequence[Candidate]],
    plan: SearchPlan,
    progress: ProgressCallback | None,
) -> list[Read]:
    """Re-rank the candidates of every query; all pairs share the reranker's batches."""
    if plan.reranker is None:
        return [_read(first_stage_hits(own, plan.cosines), plan.depth, plan) for own in found]
    if plan.cascade is None:
        return _read_all(texts, found, plan, progress)
    parts = [parted(own[: plan.depth], plan.cascade) for own in found]
    read = _read_all(texts, [middle for _, middle in parts], plan, progress)
    return [
        # what is deeper scores lower than what was dropped, or is no better than it
        replace(
            one, hits=[*kept, *one.hits], rest=[], whole=False, unread=len(kept),
            best=max([KEEP_PRECISION] * bool(kept) + [one.best or 0.0]),
        )
        for one, (kept, _) in zip(read, parts, strict=True)
    ]  # fmt: skip


def _read_all(
    texts: Sequence[str],
    found: Sequence[Sequence[Candidate]],
    plan: SearchPlan,
    progress: ProgressCallback | None,
) -> list[Read]:
    assert plan.reranker is not None
    started = time.perf_counter()
    budget_ms = plan.options.budget_ms
    parts = _parts(texts, [own[: plan.depth] for own in found], plan)
    groups = [[(text, part.text) for part in own] for text, own in zip(texts, parts, strict=True)]
    if budget_ms is None:
        scores = _score_all(plan.reranker, groups, progress)
    else:
        left_ms = max(budget_ms - 1000 * (time.perf_counter() - started), _LEAST_BUDGET_MS)
        scores = score_within(plan.reranker, groups, left_ms, progress=progress)
    if plan.excerpts is not None:
        scores = [
            _with_spans(score, own, chosen)
            for score, own, chosen in zip(scores, found, parts, strict=True)
        ]
    return [
        _read(
            reranked_hits(
                own,
                score,
                plan.reranker.relevance(score.values),
                plan.blend,
                plan.second_weight,
            ),
            len(score.values),
            plan,
            of=min(len(own), plan.depth),
            truncated=int(score.truncated.sum()),
            excerpts=sum(not part.whole for part in chosen[: len(score.values)]),
        )
        for own, chosen, score in zip(found, parts, scores, strict=True)
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
    early = read.reranked < read.of
    others = "follow in first-stage order"
    if plan.relevance.limited and not plan.relevance.of_first_stage:
        others = "have no relevance and are left out"
    notices = []
    if plan.cascade is not None:
        notices.append(
            f"The first stage's scores settled all but {read.of} candidates: {read.unread} were "
            "kept without the reranker, the others left out."
        )
    if early and plan.most_tokens is not None:
        notices.append(f"{PACE_NOTICE} The others {others}.")
    elif read.excerpts:
        notices.append(EXCERPT_NOTICE)
    if read.truncated:
        notices.append(
            f"{read.truncated} of the re-ranked passages were longer than the reranker reads "
            f"({plan.reranker.info.max_length:,} tokens with the query) and were cut."
        )
    if early and plan.options.budget_ms is not None:
        shared = f" for {queries:,} queries" if queries > 1 else ""
        notices.append(
            f"{BUDGET_NOTICE} {plan.options.budget_ms:g} ms{shared} re-ranked {read.reranked} of "
            f"{read.of} candidates; the others {others}."
        )
    if early:
        return notices
    unread = sum(hit.stage2_score is None for hit in hits)
    if plan.cascade is None and unread and plan.fetch == plan.depth:
        notices.append(
            f"{unread} of the hits are beyond the {plan.depth} candidates that are re-ranked, and "
            "follow in first-stage order."
        )
    return notices


def _read(
    hits: Sequence[Hit],
    depth: int,
    plan: SearchPlan,
    *,
    of: int = 0,
    truncated: int = 0,
    excerpts: int = 0,
) -> Read:
    hits = plan.relevance.told(hits)
    kept = plan.relevance.kept(hits[:depth])
    rest = plan.relevance.kept(hits[depth:])
    return Read(
        hits=kept,
        rest=rest,
        whole=len(kept) + len(rest) == len(hits),
        best=max((hit.relevance for hit in hits if hit.relevance is not None), default=None),
        reranked=0 if plan.reranker is None else depth,
        of=of,
        truncated=truncated,
        excerpts=excerpts,
    )


def _parts(
    texts: Sequence[str], found: Sequence[Sequence[Candidate]], plan: SearchPlan
) -> list[list[Excerpt]]:
    """What is read of each candidate of every query.

    Within a time budget, excerpts are chosen of as many as a fifth of it allows, best candidates
    first: no reranker could read more in what is left.
    """
    passages = [[candidate.passage for candidate in own] for own in found]
    if plan.excerpts is None:
        return [[whole(one) for one in own] for own in passages]
    budget_ms = plan.options.budget_ms
    last = math.inf if budget_ms is None else time.perf_counter() + budget_ms / 5000
    parts: list[list[Excerpt]] = [[] for _ in texts]
    for start in range(0, max(map(len, passages), default=0), _AT_ONCE):
        if start and time.perf_counter() > last:
            break
        for text, own, chosen in zip(texts, passages, parts, strict=True):
            chosen += plan.excerpts.of(text, own[start : start + _AT_ONCE])
    for text, own, chosen in zip(texts, passages, parts, strict=True):
        best = [whole(one) for one in own[: min(WHOLE_BEST, len(chosen))]]
        if plan.most_tokens is not None:
            best = _within(WHOLE_SHARE * plan.most_tokens, text, best, 0)
        chosen[: len(best)] = best
    if plan.most_tokens is None:
        return parts
    least = max(LEAST_CANDIDATES, plan.options.top_k)
    return [
        _within(plan.most_tokens, text, chosen, least)
        for text, chosen in zip(texts, parts, strict=True)
    ]


def _within(most: float, text: str, parts: list[Excerpt], least: int) -> list[Excerpt]:
    """The first of the parts that have at most `most` tokens beside the query; `least` always."""
    used = 0.0
    for place, part in enumerate(parts):
        used += tokens(text) + tokens(part.text)
        if used > most and place >= least:
            return parts[:place]
    return parts


def _with_spans(
    scores: Scores, candidates: Sequence[Candidate], parts: Sequence[Excerpt]
) -> Scores:
    """The scores with the excerpts as the parts of `passage.content` that gave them."""
    read = len(scores.values)
    spans = np.zeros((read, 2), dtype=np.int64)
    for row, (candidate, part) in enumerate(zip(candidates[:read], parts[:read], strict=True)):
        content = candidate.passage.content
        before = len(content) - len(candidate.passage.text)  # the text is last
        spans[row] = (before + part.start, before + part.end)
        if part.whole:  # the reranker itself may have read it by windows
            spans[row] = (0, len(content)) if scores.spans is None else scores.spans[row]
    return replace(scores, spans=spans)


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
