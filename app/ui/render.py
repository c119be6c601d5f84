"""The page's head, the summary above the columns, and messages, as HTML.

Pure functions; every text from outside goes through `escape`. Times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.types import Facts
from app.ui.text import duration, escape
from retrieval.types import SearchResult, Timings


def header(title: str, facts: Facts) -> str:
    """The page's head: title, what is searched, with which models, and standing notices."""
    shown = []
    if facts.collection:
        shown.append(f"Collection <b>{escape(facts.collection)}</b>")
    if facts.passages is not None:
        shown.append(f"<b>{facts.passages:,}</b> passages")
    if facts.encoder:
        shown.append(f"Encoder <b>{escape(facts.encoder)}</b>")
        shown.append(f"Reranker <b>{escape(facts.reranker or 'none')}</b>")
    line = "".join(f"<li>{fact}</li>" for fact in shown)
    return (
        f'<header class="tsr-head"><h1>{escape(title)}</h1>'
        f'<ul class="tsr-facts">{line}</ul>{_notices(facts.notices)}</header>'
    )


def summary(result: SearchResult, *, notices: Sequence[str] | None = None) -> str:
    """How long each stage took, which models answered, and notices (default: the result's)."""
    notices = result.notices if notices is None else notices
    models = f"Encoder <b>{escape(result.encoder)}</b>"
    if result.reranker:
        models += f" · Reranker <b>{escape(result.reranker)}</b>"
    found = f"{len(result.hits)} of {len(result.candidates)} candidates shown"
    if 0 < result.reranked < len(result.candidates):
        found += f", {result.reranked} re-ranked"
    return (
        '<section class="tsr-summary" aria-label="How the answer was found">'
        f"{_timings(result.timings)}"
        f'<p class="tsr-models">{models} · {found}</p>'
        f"{_notices(notices)}</section>"
    )


def message(problem: str, fix: str = "", *, kind: str = "problem") -> str:
    """A sentence instead of results: what is the matter and what to do next."""
    advice = f"<p>{escape(fix)}</p>" if fix else ""
    text = problem[:1].upper() + problem[1:]
    stop = "" if text.endswith((".", "!", "?", "…")) else "."
    return (
        f'<div class="tsr-message tsr-{escape(kind)}" role="alert">'
        f"<p><b>{escape(text)}{stop}</b></p>{advice}</div>"
    )


def searching(query: str) -> str:
    """Shown while a search runs."""
    short = query if len(query) <= 120 else query[:119] + "…"
    return (
        '<div class="tsr-searching"><span class="tsr-pulse" aria-hidden="true"></span>'
        f"<p>Searching for “{escape(short)}” …</p></div>"
    )


def _timings(timings: Timings) -> str:
    stages = (
        ("encode", "Encode query", timings.encode_ms),
        ("retrieve", "Retrieve", timings.retrieve_ms),
        ("rerank", "Re-rank", timings.rerank_ms),
    )
    whole = sum(ms for _, _, ms in stages) or 1.0
    bar = "".join(
        f'<i class="tsr-{name}" style="flex-grow:{max(ms / whole, 0.004):.4f}"></i>'
        for name, _, ms in stages
        if ms > 0
    )
    terms = "".join(
        f'<div><dt class="tsr-{name}">{label}</dt><dd data-ms="{name}">{duration(ms)}</dd></div>'
        for name, label, ms in (*stages, ("total", "Total", timings.total_ms))
    )
    return (
        f'<div class="tsr-time"><div class="tsr-timebar" aria-hidden="true">{bar}</div>'
        f"<dl>{terms}</dl></div>"
    )


def _notices(notices: Sequence[str]) -> str:
    if not notices:
        return ""
    items = "".join(f"<li>{escape(notice)}</li>" for notice in notices)
    return f'<ul class="tsr-notices" aria-label="Notices">{items}</ul>'
