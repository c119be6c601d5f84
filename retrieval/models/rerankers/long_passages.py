"""Long passages by windows: a passage that does not fit beside the query is read in parts.

A passage's score is that of its best part: MaxP of Dai and Callan, "Deeper Text Understanding for
IR with Contextual Neural Language Modeling", SIGIR 2019, with windows of tokens. The part also
shows where in a long passage the answer is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retrieval.models.tokenization.token_batch import PairIds, Slices

LongPassages: TypeAlias = Literal["truncate", "windows", "error"]
"""What becomes of a passage that does not fit: cut, read by windows, or refused."""


class TokenPlaces(Protocol):
    """What cutting a text needs of its tokeniser."""

    def token_places(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Of the bare tokens: character offsets (n, 2), and which start a word (n,)."""
        ...


@dataclass(frozen=True, slots=True)
class Windows:
    """The parts by which n pairs are read: m >= n rows, a pair's own beside each other.

    firsts: int64 (n,), each pair's first row. rows: int64 (m,), the pair of each row. passages:
    each row's tokens, from its passage's start. spans: int64 (m, 2), their character offsets.
    """

    firsts: NDArray[np.int64]
    rows: NDArray[np.int64]
    passages: Slices
    spans: NDArray[np.int64]

    def best(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """int64 (n,): of the rows of each pair the one with the largest value, the first of equals.

        Where a value is NaN, it is one of those, for the caller to find.
        """
        if not len(self.firsts):
            return np.zeros(0, dtype=np.int64)
        ranked = np.where(np.isnan(values), np.inf, values)
        largest = np.maximum.reduceat(ranked, self.firsts)
        places = np.where(ranked == largest[self.rows], np.arange(len(values)), len(values))
        best: NDArray[np.int64] = np.minimum.reduceat(places, self.firsts)
        return best


def most_overlap(room: int) -> int:
    """The largest overlap of windows of `room` tokens: three quarters, so that each brings news."""
    return room * 3 // 4


def cut_windows(
    tokens: int, room: int, overlap: int, starts_word: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Ranges (k, 2) of tokens that cover a text, each of at most `room` tokens.

    Two neighbours share at least `overlap` tokens, at most `most_overlap(room)` are asked for. A
    window ends, and the next one starts, between two words where one ends within a sixteenth of
    the room; the last is aligned to the end.

    Args:
        tokens: how many there are to cover.
        room: tokens in a window, at least 1.
        overlap: tokens that two neighbours share.
        starts_word: bool (tokens,), which tokens start a word; None to cut anywhere.
    """
    if tokens <= room:
        return np.array([[0, tokens]], dtype=np.int64)
    overlap = min(overlap, most_overlap(room))
    slack = room // 16
    places = np.arange(tokens)
    if starts_word is None:
        before = after = places
    else:
        # The nearest start of a word at or before each token, and at or after it.
        before = np.maximum.accumulate(np.where(starts_word, places, 0))
        after = np.minimum.accumulate(np.where(starts_word, places, tokens)[::-1])[::-1]

    def back(place: int) -> int:
        word = int(before[place])
        return word if place - word <= slack else place

    windows: list[tuple[int, int]] = []
    start = 0
    while start + room < tokens:
        end = back(start + room)
        windows.append((start, end))
        start = back(end - overlap)
    last = tokens - room
    if after[last] <= min(start, last + slack):
        last = int(after[last])
    windows.append((last, tokens))
    return np.array(windows, dtype=np.int64)


def window_pairs(
    tokenizer: TokenPlaces, pairs: Sequence[tuple[str, str]], ids: PairIds, overlap: int
) -> Windows:
    """How to read these pairs: one row where the passage fits, else windows over it.

    Args:
        tokenizer: the one that read the pairs.
        pairs: (query, passage) texts.
        ids: their token ids.
        overlap: tokens that two neighbouring windows share.
    """
    count = len(pairs)
    sizes = np.ones(count, dtype=np.int64)
    ranges: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
    by_passage: dict[str, list[int]] = {}
    for index in np.flatnonzero(ids.passage_cut).tolist():
        by_passage.setdefault(pairs[index][1], []).append(index)
    for text, own in by_passage.items():
        offsets, starts_word = tokenizer.token_places(text)
        by_room: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        for index in own:
            room = int(ids.room[index])
            if room not in by_room:
                cut = cut_windows(len(offsets), room, overlap, starts_word)
                by_room[room] = (cut, _spans(offsets, cut))
            ranges[index] = by_room[room]
            sizes[index] = len(ranges[index][0])
    firsts = np.cumsum(sizes) - sizes
    rows = np.repeat(np.arange(count, dtype=np.int64), sizes)
    starts = np.zeros(len(rows), dtype=np.int64)
    lengths = ids.passages.lengths[rows]
    spans = np.zeros((len(rows), 2), dtype=np.int64)
    spans[:, 1] = np.fromiter((len(text) for _, text in pairs), np.int64, count)[rows]
    for index, (cut, own_spans) in ranges.items():
        own_rows = slice(int(firsts[index]), int(firsts[index]) + len(cut))
        starts[own_rows] = cut[:, 0]
        lengths[own_rows] = cut[:, 1] - cut[:, 0]
        spans[own_rows] = own_spans
    return Windows(firsts, rows, Slices(starts, lengths), spans)


def _spans(offsets: NDArray[np.int64], cut: NDArray[np.int64]) -> NDArray[np.int64]:
    """Character offsets (k, 2) of ranges (k, 2) of tokens, whatever the order of their offsets."""
    spans = np.empty_like(cut)
    for row, (start, stop) in enumerate(cut.tolist()):
        spans[row] = offsets[start:stop, 0].min(), offsets[start:stop, 1].max()
    return spans
