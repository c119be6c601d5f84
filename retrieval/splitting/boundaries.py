"""The boundaries of passages in one long document.

Greedy and linear: each passage is filled as far as its budget of tokens reaches, and ends at the
strongest boundary that leaves it well enough filled.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from retrieval._validate import VISIBLE
from retrieval.splitting.markdown_structure import (
    Structure,
    clause_starts,
    find_structure,
    sentence_starts,
    word_starts,
)
from retrieval.types import TokenCounter

_TOKENIZER_WINDOW = 64 * 1024
"""Characters handed to the tokeniser at once: its memory does not grow with the document."""
_WIDE_TOKEN = 100
"""A token of more characters is a word that the vocabulary does not cover ([UNK])."""
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Slice:
    """A passage to be: its offsets and the headings above it."""

    start: int
    end: int
    headings: tuple[str, ...] = ()


@dataclass(slots=True)
class Division:
    """One long document on its way into passages. `room` is in tokens, special ones not counted."""

    text: str
    title: str
    counter: TokenCounter
    room: int
    overlap: int
    structure: Structure = field(init=False)
    tokens: NDArray[np.int64] = field(init=False)
    heading_starts: list[int] = field(init=False)
    heading_paths: list[tuple[str, ...]] = field(init=False)
    fence_starts: list[int] = field(init=False)
    table_starts: list[int] = field(init=False)
    prefixes: dict[tuple[str, ...], tuple[tuple[str, ...], int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.structure = find_structure(self.text)
        self.tokens = _token_starts(self.text, self.counter)
        self.heading_starts = [heading.start for heading in self.structure.headings]
        self.heading_paths = list(_paths(self.structure))
        self.fence_starts = [start for start, _ in self.structure.fences]
        self.table_starts = [table.start for table in self.structure.tables]

    def slices(self) -> Iterator[Slice]:
        """Passages in order. `fresh` is where text not yet in any passage begins."""
        start = fresh = self._next_text(0)
        while fresh < len(self.text):
            headings, budget = self._budget(start)
            start, cut = self._choose(start, fresh, budget)
            part = self._verified(start, fresh, cut, headings, budget)
            yield part
            following = self._next_text(part.end)
            start, fresh = self._overlap_start(part.start, following, budget), following

    def _verified(
        self, start: int, fresh: int, cut: int, headings: tuple[str, ...], budget: int
    ) -> Slice:
        """A passage whose tokens, counted as the encoder will, are no more than allowed.

        Counts within the whole text and alone may differ at the edges (in SentencePiece, and
        where a word was cut), so the passage itself is counted and shortened until it fits.
        """
        while True:
            end = end_of_text(self.text, start, cut)
            content = " ".join([*filter(None, (self.title, *headings)), self.text[start:end]])
            excess = count_tokens(self.counter, content) - self.room
            if excess <= 0 or (budget <= 1 and end - start <= 1):
                return Slice(start, end, headings)
            if start < fresh:
                # What is repeated is given up first.
                headings, budget = self._budget(fresh)
                start, cut = self._choose(fresh, fresh, budget)
                continue
            budget = max(1, min(budget, self._between(start, end)) - excess)
            _, shorter = self._choose(start, fresh, budget)
            # Each round ends earlier; at one character the text has its way.
            cut = shorter if shorter < end else max(fresh + 1, (fresh + end) // 2)

    def _choose(self, start: int, fresh: int, budget: int) -> tuple[int, int]:
        """Where the passage from `start` ends; its start moves up where that keeps code whole."""
        limit = self._limit(start, fresh, budget)
        heading = self._heading_cut(start, fresh, limit, budget)
        if heading is not None:
            return start, heading
        if limit >= len(self.text):
            return start, len(self.text)
        cut = self._best_cut(start, fresh, limit, budget)
        fence = self._fence_around(cut)
        if fence is None or self._between(*fence) > budget:
            return start, cut
        if fence[0] > fresh:
            return start, fence[0]
        if start < fresh:
            return self._choose(fresh, fresh, budget)
        return start, cut

    def _best_cut(self, start: int, fresh: int, limit: int, budget: int) -> int:
        # A boundary counts only where the passage is filled well enough: weaker ones further on
        # are better than stronger ones that leave a fragment.
        half = max(fresh, self._limit(start, fresh, budget // 2))
        quarter = max(fresh, self._limit(start, fresh, budget // 4))
        block = _last(self.structure.blocks, half, limit)
        if block is not None:
            return block
        sentences = sentence_starts(self.text, quarter, limit)
        sentence = max(sentences, default=None)
        item = _last(self.structure.items, quarter, limit)
        found = max((p for p in (sentence, item) if p is not None), default=None)
        if found is None:
            found = _last(self.structure.lines, quarter, limit)
        if found is None:
            found = max(clause_starts(self.text, half, limit), default=None)
        if found is None:
            found = max(word_starts(self.text, fresh, limit), default=None)
        return _whole_character(self.text, fresh, limit) if found is None else found

    def _heading_cut(self, start: int, fresh: int, limit: int, budget: int) -> int | None:
        """The first heading that finds the passage at least a quarter full."""
        sections = self.structure.sections
        full_enough = max(fresh + 1, self._limit(start, fresh, budget // 4))
        index = bisect_left(sections, full_enough)
        return sections[index] if index < len(sections) and sections[index] <= limit else None

    def _overlap_start(self, previous: int, fresh: int, budget: int) -> int:
        """Where the next passage begins, so that it repeats the end of the one before."""
        if self.overlap == 0 or fresh >= len(self.text):
            return fresh
        at = bisect_left(self.heading_starts, fresh)
        if at < len(self.heading_starts) and self.heading_starts[at] == fresh:
            return fresh
        here = int(np.searchsorted(self.tokens, fresh))
        back = max(0, here - min(self.overlap, budget // 2))
        if back >= here:
            return fresh
        low = max(int(self.tokens[back]), previous + 1)
        if at > 0:
            low = max(low, self.structure.headings[at - 1].end)
        low = self._next_text(low)
        candidates: list[Iterable[int]] = [
            _between_of(self.structure.blocks, low, fresh),
            _between_of(self.structure.items, low, fresh),
            sentence_starts(self.text, max(previous, low - 32), fresh),
        ]
        weaker = [
            clause_starts(self.text, max(previous, low - 8), fresh),
            word_starts(self.text, max(previous, low - 8), fresh),
        ]
        strong = [p for found in candidates for p in found if low <= p < fresh]
        for found in [strong] if strong else weaker:
            start = min((p for p in found if low <= p < fresh), default=None)
            if start is not None:
                return fresh if self._fence_around(start, closed=True) else start
        start = _whole_character(self.text, previous + 1, low)
        return start if previous < start < fresh and not self._fence_around(start) else fresh

    # --- measuring ---

    def _budget(self, start: int) -> tuple[tuple[str, ...], int]:
        """The headings above `start` that are kept, the head of a table among them, and the
        tokens they leave for the text."""
        index = bisect_right(self.heading_starts, start) - 1
        path: tuple[str, ...] = ()
        if index >= 0:
            own = self.heading_starts[index] == start
            path = self.heading_paths[index][:-1] if own else self.heading_paths[index]
        if path and path[0] == self.title:
            path = path[1:]
        path += self._table_head(start)
        if path not in self.prefixes:
            kept = path
            while True:
                used = count_tokens(self.counter, " ".join(filter(None, (self.title, *kept))))
                if used <= self.room // 2 or not kept:
                    break
                kept = kept[1:]
            self.prefixes[path] = kept, max(1, self.room - used)
        return self.prefixes[path]

    def _table_head(self, start: int) -> tuple[str, ...]:
        """What names the columns of the rows from `start` on; none outside of a table."""
        index = bisect_right(self.table_starts, start) - 1
        if index < 0 or start >= self.structure.tables[index].end:
            return ()
        return (self.structure.tables[index].head,)

    def _between(self, start: int, end: int) -> int:
        low, high = np.searchsorted(self.tokens, [start, end])
        return int(high - low)

    def _limit(self, start: int, fresh: int, budget: int) -> int:
        """The farthest end, at least a character beyond `fresh`, that keeps to the budget."""
        index = int(np.searchsorted(self.tokens, start)) + budget
        if index >= len(self.tokens):
            return len(self.text)
        return max(int(self.tokens[index]), fresh + 1)

    def _fence_around(self, position: int, *, closed: bool = False) -> tuple[int, int] | None:
        """The code fence around `position`; `closed` counts its start as inside."""
        index = bisect_right(self.fence_starts, position) - 1
        if index < 0:
            return None
        start, end = self.structure.fences[index]
        inside = start <= position if closed else start < position
        return (start, end) if inside and position < end else None

    def _next_text(self, position: int) -> int:
        found = VISIBLE.search(self.text, position)
        return len(self.text) if found is None else found.start()


def _paths(structure: Structure) -> Iterator[tuple[str, ...]]:
    """For each heading the path of headings down to it."""
    stack: list[tuple[int, str]] = []
    for heading in structure.headings:
        while stack and stack[-1][0] >= heading.level:
            stack.pop()
        stack.append((heading.level, heading.text))
        yield tuple(text for _, text in stack)


def _token_starts(text: str, counter: TokenCounter) -> NDArray[np.int64]:
    """Where tokens begin, rising. A token too wide to be one is counted by its characters."""
    parts: list[NDArray[np.int64]] = []
    position = 0
    while position < len(text):
        end = position + _TOKENIZER_WINDOW
        if end < len(text):
            half = position + _TOKENIZER_WINDOW // 2
            blank = max(text.rfind("\n", half, end), text.rfind(" ", half, end))
            end = blank + 1 if blank >= 0 else end
        offsets = counter.token_offsets(text[position:end]).reshape(-1, 2)
        starts = offsets[:, 0] + position
        for start, stop in offsets[offsets[:, 1] - offsets[:, 0] > _WIDE_TOKEN] + position:
            extra = np.arange(start + _CHARACTERS_PER_TOKEN, stop, _CHARACTERS_PER_TOKEN)
            parts.append(extra.astype(np.int64))
        parts.append(starts)
        position = end
    return np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)


def count_tokens(counter: TokenCounter, text: str) -> int:
    """Tokens of a text, special tokens not counted."""
    return len(counter.token_offsets(text)) if text else 0


def end_of_text(text: str, start: int, end: int) -> int:
    """`end`, moved back over blank space."""
    return start + len(text[start:end].rstrip())


def _last(boundaries: Sequence[int], low: int, high: int) -> int | None:
    """The last boundary in (low, high]."""
    index = bisect_right(boundaries, high) - 1
    return boundaries[index] if index >= 0 and boundaries[index] > low else None


def _between_of(boundaries: Sequence[int], low: int, high: int) -> Sequence[int]:
    return boundaries[bisect_left(boundaries, low) : bisect_left(boundaries, high)]


def _whole_character(text: str, low: int, position: int) -> int:
    """`position`, moved back where it would part a letter from its accents or joined emoji."""
    back = position
    while (
        back > low + 1
        and position - back < 16
        and back < len(text)
        and (
            unicodedata.combining(text[back])
            or "\u200d" in text[back - 1 : back + 1]
            or text[back] in "\ufe0e\ufe0f"
        )
    ):
        back -= 1
    return back if position - back < 16 else position
