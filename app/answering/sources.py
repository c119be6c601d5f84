"""The sources in a prompt: passages, numbered, within a budget of tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.answering.token_estimates import estimate_tokens
from retrieval.types import Hit, Passage

# A piece shorter than this says too little to be a separate source.
_LEAST_TOKENS = 24

SEPARATOR = " › "
"""Stands between title and headings."""

_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*(?=\s)|[。！？]["”’」』）]*|\n{2,}""")


@dataclass(frozen=True, slots=True)
class Source:
    """A stretch of one document: a passage, or several adjacent ones.

    n: what the answer cites it by, from 1 in rank order. hit: the best of its hits.
    passage_ids: of all its passages, in the document's order. text: as stored; where blank lines
    lay between two passages, newlines. start, end: offsets in the document, in characters.
    shortened: whether it was cut at the end to fit.
    """

    n: int
    hit: Hit
    passage_ids: tuple[str, ...]
    text: str
    start: int
    end: int
    positions: tuple[int, ...]
    shortened: bool = False

    @property
    def passage(self) -> Passage:
        """The passage of its best hit, which gives it document, title and source."""
        return self.hit.passage


def choose_sources(
    hits: Sequence[Hit], budget: int, *, overhead: int
) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """Sources in rank order, as many as fit, and notices of what was cut or left out.

    Neighbours of a hit come with it, where they fit. Side by side passages become one source,
    their overlaps taken once. The first passage that does not fit is cut at the end of a sentence
    and is the last.

    Args:
        hits: best first.
        budget: tokens for all sources, as `estimate_tokens` counts.
        overhead: tokens that a source costs beside its title, source and text.
    """
    chosen: list[Source] = []
    notices: list[str] = []
    for at, hit in enumerate(hits):
        if any(hit.passage.id in source.passage_ids for source in chosen):
            continue
        grown = _with(chosen, [_source(hit, p) for p in (*hit.before, hit.passage, *hit.after)])
        if _cost(grown, overhead) > budget and (hit.before or hit.after):
            grown = _with(chosen, [_source(hit, hit.passage)])
        if _cost(grown, overhead) <= budget:
            chosen = grown
            continue
        cut = _cut(_source(hit, hit.passage), budget - _cost(chosen, overhead), overhead)
        if cut is not None:
            chosen.append(cut)
            notices.append(
                f"The passage of rank {hit.rank} was cut after {len(cut.text):,} of "
                f"{len(hit.passage.text):,} characters, to fit what the language model reads."
            )
        left = len(hits) - at - (cut is not None)
        if left:
            notices.append(
                f"{left} of {len(hits)} hits were left out, to fit what the language model reads."
            )
        break
    return tuple(replace(source, n=n) for n, source in enumerate(chosen, start=1)), tuple(notices)


def source_tokens(source: Source) -> int:
    """Tokens of a source's title, headings, origin and text."""
    passage = source.passage
    return sum(
        estimate_tokens(text)
        for text in (passage.title, *passage.headings, passage.source, source.text)
    ) + len(passage.headings) * estimate_tokens(SEPARATOR)


def _cost(sources: Sequence[Source], overhead: int) -> int:
    return sum(source_tokens(source) + overhead for source in sources)


def _source(hit: Hit, passage: Passage) -> Source:
    return Source(
        n=0,
        hit=hit,
        passage_ids=(passage.id,),
        text=passage.text,
        start=passage.start,
        end=passage.end,
        positions=(passage.position,),
    )


def _with(chosen: Sequence[Source], more: Sequence[Source]) -> list[Source]:
    """The sources with further ones, each joined to those it is adjacent to."""
    sources = list(chosen)
    for new in more:
        if any(new.passage_ids[0] in source.passage_ids for source in sources):
            continue
        beside = [i for i, source in enumerate(sources) if _side_by_side(source, new)]
        if not beside:
            sources.append(new)
            continue
        joined = new
        for i in reversed(beside):  # it may close the gap between two
            joined = _joined(sources.pop(i), joined)
        sources.insert(beside[0], joined)
    return sources


def _side_by_side(one: Source, other: Source) -> bool:
    a, b = one.passage, other.passage
    if (a.document_id, a.document_hash) != (b.document_id, b.document_hash):
        return False
    return (
        one.positions[-1] + 1 == other.positions[0] or other.positions[-1] + 1 == one.positions[0]
    )


def _joined(one: Source, other: Source) -> Source:
    first, second = (one, other) if one.positions < other.positions else (other, one)
    gap = second.start - first.end
    # the text between two passages of a document is blank
    text = first.text + ("\n" * min(gap, 2) + second.text if gap > 0 else second.text[-gap:])
    best = min(one.hit, other.hit, key=lambda hit: hit.rank)
    return replace(
        one,
        hit=best,
        passage_ids=first.passage_ids + second.passage_ids,
        text=text,
        start=first.start,
        end=max(first.end, second.end),
        positions=first.positions + second.positions,
    )


def _cut(source: Source, budget: int, overhead: int) -> Source | None:
    """The source up to the last end of a sentence that fits; None where nothing worth it does."""
    room = budget - overhead - (source_tokens(source) - estimate_tokens(source.text))
    fits = None
    for end in _SENTENCE_END.finditer(source.text):
        if estimate_tokens(source.text[: end.end()]) > room:
            break
        fits = end.end()
    if fits is None or estimate_tokens(source.text[:fits]) < _LEAST_TOKENS:
        return None
    text = source.text[:fits].rstrip()
    return replace(source, text=text, end=source.start + len(text), shortened=True)
