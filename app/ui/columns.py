"""The page's two columns, first-stage order and final order, as HTML.

Pure functions; every text from outside goes through `escape`. Ranks count from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.ui.text import duration, escape, highlight, query_terms, snippet
from retrieval.types import Candidate, Hit, Mode, Passage, SearchResult

SCORE_NAMES: dict[Mode, str] = {"dense": "cosine", "sparse": "BM25", "hybrid": "fused"}
MODE_NAMES: dict[Mode, str] = {
    "dense": "dense vectors",
    "sparse": "BM25 terms",
    "hybrid": "dense vectors + BM25",
}
# Texts of passages make up the page's weight; one passage never needs to be longer than this.
PASSAGE_CHARACTERS = 20_000


@dataclass(frozen=True, slots=True)
class Change:
    """How a hit's rank differs from its first-stage rank: a sign to see, a sentence to hear."""

    kind: str
    sign: str
    meaning: str


def rank_change(hit: Hit, shown: int) -> Change:
    """The change from stage 1 to the final order; "new" where stage 1 had it below `shown`."""
    delta = hit.stage1_rank - hit.rank
    if hit.stage1_rank > shown:
        return Change("new", "new", f"new among the first {shown}, was {hit.stage1_rank}")
    if delta > 0:
        return Change("up", f"▲{delta}", f"up {delta}, was {hit.stage1_rank}")
    if delta < 0:
        return Change("down", f"▼{-delta}", f"down {-delta}, was {hit.stage1_rank}")
    return Change("same", "=", "same place in both stages")


def stage1_column(result: SearchResult, shown: int) -> str:
    """First-stage order: `shown` candidates in full, the others as a list of titles."""
    final = {hit.passage.id: hit.rank for hit in result.hits}
    terms = query_terms(result.query)
    items = []
    for candidate in result.candidates[:shown]:
        rank = final.get(candidate.passage.id)
        items.append(
            _card(
                candidate.passage,
                rank=candidate.rank,
                badge=_destination(rank, candidate.rank, len(result.hits)),
                scores=_score(SCORE_NAMES[result.mode], candidate.score),
                terms=terms,
            )
        )
    rest = _rest(result.candidates[shown:], final, result.mode)
    took = result.timings.encode_ms + result.timings.retrieve_ms
    return _column(
        "stage1",
        "Stage 1",
        "First-stage order",
        f"{MODE_NAMES[result.mode]} · {duration(took)}",
        items,
        rest,
    )


def stage2_column(result: SearchResult, shown: int) -> str:
    """Final order with rank changes, relevance and the raw reranker score."""
    terms = query_terms(result.query)
    items = []
    for hit in result.hits:
        change = rank_change(hit, shown)
        items.append(
            _card(
                hit.passage,
                rank=hit.rank,
                badge=_badge(change) if result.reranker else "",
                scores=_hit_scores(hit, result),
                terms=terms,
                best=hit.best_span,
            )
        )
    if result.reranker is None:
        return _column("stage2", "Stage 2", "Final order", "not re-ranked", items)
    note = "blended with stage 1 · " if result.blend != "none" else ""
    note += duration(result.timings.rerank_ms)
    return _column("stage2", "Stage 2", "Re-ranked order", note, items)


def _card(
    passage: Passage,
    *,
    rank: int,
    badge: str,
    scores: str,
    terms: frozenset[str],
    best: tuple[int, int] | None = None,
) -> str:
    title = passage.title or passage.document_id
    path = " › ".join(heading for heading in passage.headings if heading != passage.title)
    if best == (0, len(passage.text)):
        best = None  # it was read in one piece: there is nothing to set off
    start, end = best or (0, len(passage.text))
    short = snippet(passage.text[start:end], terms)
    label = '<span class="tsr-best-label">Best part</span> ' if best else ""
    more = ""
    if best or " ".join(passage.text.split()) != short or "\n" in passage.text.strip():
        more = (
            "<details><summary>Whole passage"
            f'<span class="tsr-sr"> of {escape(title)}, rank {rank}</span></summary>'
            f'<div class="tsr-whole">{_whole(passage.text, terms, best)}</div></details>'
        )
    headings = f'<p class="tsr-path">{escape(path)}</p>' if path else ""
    source = f'<span class="tsr-source">{escape(passage.source)}</span>' if passage.source else ""
    return (
        f'<li class="tsr-card" data-rank="{rank}" data-passage="{escape(passage.id)}">'
        f'<div class="tsr-rank"><span class="tsr-number">{rank}</span>{badge}</div>'
        f'<div class="tsr-body"><h3>{highlight(title, terms)}</h3>{headings}'
        f'<p class="tsr-snippet">{label}{highlight(short, terms)}</p>{more}'
        f'<div class="tsr-meta">{scores}{source}</div></div></li>'
    )


def _whole(text: str, terms: frozenset[str], best: tuple[int, int] | None) -> str:
    """A passage with its best part set off; of a huge one the beginning, or the parts around it."""
    start = 0
    if best is not None and best[1] > PASSAGE_CHARACTERS:
        start = max(0, best[0] - PASSAGE_CHARACTERS // 10)
    shown = text[start : start + PASSAGE_CHARACTERS]
    if best is not None:
        best = (best[0] - start, min(best[1] - start, len(shown)))
    before = "…\n" if start else ""
    after = "\n…" if start + len(shown) < len(text) else ""
    return f"{before}{highlight(shown, terms, best)}{after}"


def _column(
    name: str, kicker: str, title: str, note: str, items: Sequence[str], rest: str = ""
) -> str:
    body = (
        f'<ol class="tsr-list">{"".join(items)}</ol>{rest}'
        if items
        else '<p class="tsr-empty">No passage was found. Try other words, or another first '
        "stage under Options.</p>"
    )
    return (
        f'<section class="tsr-column" data-stage="{name}" aria-label="{kicker}: {title}">'
        f'<div class="tsr-column-head"><h2><span class="tsr-kicker">{kicker}</span> {title}</h2>'
        f'<span class="tsr-note">{escape(note)}</span></div>{body}</section>'
    )


def _destination(rank: int | None, from_rank: int, shown: int) -> str:
    if rank is None:
        return _badge(Change("out", "out", f"below the first {shown} in the final order"))
    if rank == from_rank:
        return _badge(Change("same", f"→ {rank}", "keeps its place in the final order"))
    return _badge(Change("goes", f"→ {rank}", f"becomes {rank} in the final order"))


def _badge(change: Change) -> str:
    meaning = escape(change.meaning)
    return (
        f'<span class="tsr-badge tsr-{change.kind}" title="{meaning}">'
        f'<span aria-hidden="true">{escape(change.sign)}</span>'
        f'<span class="tsr-sr">{meaning}</span></span>'
    )


def _hit_scores(hit: Hit, result: SearchResult) -> str:
    parts = []
    if hit.relevance is not None:
        percent = round(100 * hit.relevance)
        parts.append(
            f'<span class="tsr-relevance" title="relevance {hit.relevance:.4f}">'
            f'<span class="tsr-bar" aria-hidden="true"><i style="width:{percent}%"></i></span>'
            f"<b>{percent}%</b> relevance</span>"
        )
    if hit.stage2_score is not None:
        parts.append(_score("rerank score", hit.stage2_score))
    elif result.reranker is not None:
        parts.append('<span class="tsr-score">not re-ranked</span>')
    if result.blend != "none" and hit.stage2_score is not None:
        parts.append(_score("blended", hit.score))
    parts.append(_score(f"stage 1 {SCORE_NAMES[result.mode]}", hit.stage1_score))
    return "".join(parts)


def _score(name: str, value: float) -> str:
    return f'<span class="tsr-score">{escape(name)} <b>{value:.4f}</b></span>'


def _rest(candidates: Sequence[Candidate], final: dict[str, int], mode: Mode) -> str:
    if not candidates:
        return ""
    rows = []
    for candidate in candidates:
        rank = final.get(candidate.passage.id)
        goes = f'<span class="tsr-badge tsr-goes">→ {rank}</span>' if rank else ""
        title = escape(candidate.passage.title or candidate.passage.document_id)
        rows.append(
            f"<li><span>{candidate.rank}</span><span>{title}</span>{goes}"
            f"<span>{candidate.score:.4f}</span></li>"
        )
    count = "One more candidate" if len(rows) == 1 else f"{len(rows)} more candidates"
    return (
        f'<details class="tsr-rest"><summary>{count}'
        f" ({SCORE_NAMES[mode]} scores)</summary><ol>{''.join(rows)}</ol></details>"
    )
