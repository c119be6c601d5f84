"""Excerpts: of each candidate the part that fits the query best, for a second stage on a CPU.

A cross-encoder's time goes with the tokens it reads, and of a long passage a few sentences decide.
They are chosen by the words that they share with the query, the rarer among the candidates the
better: the key blocks of Li et al., "KeyBLD: Selecting Key Blocks with Local Pre-ranking for Long
Document Information Retrieval", SIGIR 2021, with sentences as blocks. Words are the collection's
own BM25 terms, so that what is right for its language (stems, scripts without blanks) is right
here, too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from retrieval._validate import without_surrogates
from retrieval.index.bm25 import Bm25Terms
from retrieval.splitting.markdown_structure import clause_starts, sentence_starts, word_starts
from retrieval.types import Bm25Info, Passage

EXCERPT_TOKENS = 64
"""Estimated tokens of an excerpt's text; title and headings come on top."""

LONGER = 2.0
"""Passages up to so many times an excerpt's length are read whole: cutting them saves little, and
costs 0.015 in nDCG@10 of TREC DL 2020's, which have 85 tokens."""

TITLE_TOKENS = 32
"""Estimated tokens of title and headings; what is longer is cut."""

CHARACTERS_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class Excerpt:
    """What is read of a passage: text, and where in `passage.text` it is.

    text: title, headings and the part, joined by a blank. start, end: offsets in `passage.text`.
    whole: whether nothing was left out.
    """

    text: str
    start: int
    end: int
    whole: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence or line: where it is, its estimated tokens, which of the query's terms it has."""

    start: int
    end: int
    tokens: float
    terms: frozenset[int]


def whole(passage: Passage) -> Excerpt:
    """All of a passage."""
    return Excerpt(passage.content, 0, len(passage.text), whole=True)


class Excerpts:
    """Chooses excerpts for the passages of one collection.

    Args:
        bm25: how its terms are made.
        tokens: of an excerpt, without title and headings, estimated.

    Example:
        >>> from retrieval.index.bm25 import bm25_info
        >>> text = "Soup is served at noon. " * 20 + "The gate closes at ten. " + "It rains. " * 30
        >>> passage = Passage("p", "times", 0, text, 0, len(text))
        >>> part, = Excerpts(bm25_info("en"), tokens=8).of("when does the gate close?", [passage])
        >>> text[part.start : part.end]
        'The gate closes at ten. It rains.'
    """

    def __init__(self, bm25: Bm25Info, tokens: int = EXCERPT_TOKENS) -> None:
        self._terms = Bm25Terms(bm25)
        self._room = tokens

    def of(self, query: str, passages: Sequence[Passage]) -> list[Excerpt]:
        """The excerpt of each passage, the candidates of one query.

        A passage that shares no word with the query is read from its beginning.
        """
        asked = self._terms.query(query)
        wanted = frozenset(asked.indices)
        heads = [self._known(" ".join((one.title, *one.headings)), wanted) for one in passages]
        pieces = [self._pieces(one.text, wanted) for one in passages]
        found: Counter[int] = Counter()
        for head, own in zip(heads, pieces, strict=True):
            found.update(head.union(*(piece.terms for piece in own)))
        count = len(passages)
        worth = {
            term: weight * math.log1p((count - found[term] + 0.5) / (found[term] + 0.5))
            for term, weight in zip(asked.indices, asked.values, strict=True)
        }
        return [self._excerpt(one, own, worth) for one, own in zip(passages, pieces, strict=True)]

    def _known(self, text: str, wanted: frozenset[int]) -> frozenset[int]:
        return wanted.intersection(self._terms.passage(without_surrogates(text)).indices)

    def _pieces(self, text: str, wanted: frozenset[int]) -> list[_Piece]:
        return [
            _Piece(start, end, tokens(text[start:end]), self._known(text[start:end], wanted))
            for start, end in cut(text, self._room)
        ]

    def _excerpt(
        self, passage: Passage, pieces: Sequence[_Piece], worth: dict[int, float]
    ) -> Excerpt:
        text = passage.text
        if sum(piece.tokens for piece in pieces) <= LONGER * self._room:
            return whole(passage)
        first, last = _best_run(pieces, worth, self._room)
        start, end = pieces[first].start, pieces[last].end
        end = start + len(text[start:end].rstrip())
        head = _cut_head(" ".join(part for part in (passage.title, *passage.headings) if part))
        return Excerpt(f"{head} {text[start:end]}".lstrip(), start, end, whole=False)


def tokens(text: str) -> float:
    """About how many tokens a model makes of a text.

    English has some four characters a token, Chinese about one; the bytes of UTF-8 tell them and
    the scripts between them apart.
    """
    if text.isascii():
        return len(text) / CHARACTERS_PER_TOKEN
    wide = (len(text.encode("utf-8", "surrogatepass")) - len(text)) / 2
    return len(text) / CHARACTERS_PER_TOKEN + wide * (1 - 1 / CHARACTERS_PER_TOKEN)


def cut(text: str, room: float) -> list[tuple[int, int]]:
    """Sentences and lines of a text, in order; those over `room` tokens are cut further.

    Further means at clauses, else at words, else anywhere.
    """
    places = {0, *sentence_starts(text, 0, len(text)), *_line_starts(text)}
    edges = [*sorted(places - {len(text)}), len(text)]
    pieces: list[tuple[int, int]] = []
    for start, end in pairwise(edges):
        if text[start:end].strip():
            pieces += _fitting(text, start, end, room)
    return pieces


def _line_starts(text: str) -> Iterator[int]:
    place = text.find("\n")
    while place >= 0:
        yield place + 1
        place = text.find("\n", place + 1)


def _fitting(text: str, start: int, end: int, room: float) -> Iterator[tuple[int, int]]:
    """The piece from `start` to `end`, in parts of at most `room` tokens."""
    while tokens(text[start:end]) > room:
        # A token has at most CHARACTERS_PER_TOKEN characters by the estimate, and at least one.
        limit = min(end - 1, start + max(1, int(room * CHARACTERS_PER_TOKEN)))
        while limit > start + 1 and tokens(text[start:limit]) > room:
            limit = start + max(1, (limit - start) * 3 // 4)
        half = start + (limit - start) // 2
        place = max(clause_starts(text, half, limit), default=0)
        place = place or max(word_starts(text, start, limit), default=0)
        place = place if start < place < end else limit
        yield start, place
        start = place
    yield start, end


def _best_run(pieces: Sequence[_Piece], worth: dict[int, float], room: float) -> tuple[int, int]:
    """The first and last piece of the run within `room` whose terms are worth most.

    Of equals it is the first one.
    """
    best, most = (0, 0), -1.0
    inside: Counter[int] = Counter()
    used, last = 0.0, -1
    for first, piece in enumerate(pieces):
        while last + 1 < len(pieces) and (last < first or used + pieces[last + 1].tokens <= room):
            last += 1
            used += pieces[last].tokens
            inside.update(pieces[last].terms)
        value = math.fsum(worth[term] for term, count in inside.items() if count)
        if value > most + 1e-9:
            best, most = (first, last), value
        used -= piece.tokens
        inside.subtract(piece.terms)
    return best


def _cut_head(head: str) -> str:
    """Title and headings, cut where they are long."""
    if tokens(head) <= TITLE_TOKENS:
        return head
    end = next(_fitting(head, 0, len(head), TITLE_TOKENS))[1]
    return head[:end].rstrip() + "…"
