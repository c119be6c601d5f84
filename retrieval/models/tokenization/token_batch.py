"""Token ids laid out flat: special tokens put around texts and pairs, without a step per token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FIRST, SECOND = -1, -2
"""Where the text, or the two texts of a pair, are in a `Template`."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Token ids of n texts or pairs, flat, special tokens included.

    ids: int32 (total,), row i is `ids[offsets[i]:offsets[i + 1]]`. offsets: int64 (n + 1,).
    type_ids: int8 (total,), or None where all are zero. full_lengths: int64 (n,), tokens before
    truncation, special tokens included. truncated: bool (n,).
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]
    type_ids: NDArray[np.int8] | None
    full_lengths: NDArray[np.int64]
    truncated: NDArray[np.bool_]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (n,): tokens after truncation, special tokens included."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> NDArray[np.int32]:
        """int32 (length,): the ids of one text."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True, slots=True)
class Template:
    """The special tokens around one text or a pair: ids in order, with `FIRST` and `SECOND`.

    kinds: the type id of each place.
    """

    ids: tuple[int, ...]
    kinds: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many special tokens there are."""
        return sum(token not in (FIRST, SECOND) for token in self.ids)


@dataclass(frozen=True, slots=True)
class Slices:
    """Of n texts, where the tokens to use start in a pool and how many they are: int64 (n,)."""

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PairIds:
    """The bare token ids of n pairs, each text once, and how much of them fits.

    pool: int32, the ids of all texts. queries, passages: each pair's tokens in it, uncut.
    query_room: tokens a query may keep. room: int64 (n,), tokens left for each passage beside what
    is kept of its query. full_lengths: int64 (n,), tokens of each pair, special tokens included.
    """

    pool: NDArray[np.int32]
    queries: Slices
    passages: Slices
    query_room: int
    room: NDArray[np.int64]
    full_lengths: NDArray[np.int64]

    @property
    def query_cut(self) -> NDArray[np.bool_]:
        """bool (n,): whether the query has more tokens than it may keep."""
        return self.queries.lengths > self.query_room

    @property
    def passage_cut(self) -> NDArray[np.bool_]:
        """bool (n,): whether the passage has more tokens than are left for it."""
        return self.passages.lengths > self.room


def joined(texts: Sequence[NDArray[np.int32]]) -> tuple[NDArray[np.int32], Slices]:
    """The texts' ids one after the other, int32 (total,), and where each of them is."""
    lengths = np.fromiter((len(ids) for ids in texts), dtype=np.int64, count=len(texts))
    pool = np.concatenate(texts) if texts else np.zeros(0, dtype=np.int32)
    return pool, Slices(np.cumsum(lengths) - lengths, lengths)


def lay_out(
    template: Template,
    pool: NDArray[np.int32],
    first: Slices,
    second: Slices | None = None,
    *,
    full_lengths: NDArray[np.int64],
    pad_id: int,
    with_types: bool,
) -> Tokenized:
    """Rows of ids: the template with its texts filled in from the pool.

    Args:
        template: of one text, or of a pair where `second` is given.
        pool: int32, bare token ids.
        first, second: the tokens of each row's texts, already cut to fit.
        full_lengths: int64 (n,), the rows' tokens before they were cut.
        pad_id: the token of a row that would have none.
        with_types: whether the model takes type ids.
    """
    rows, head = len(first.starts), len(template.ids) + 1
    # The pool is preceded by the special tokens, each in its place of the template, and padding.
    source = np.concatenate([np.asarray([*template.ids, pad_id], dtype=np.int32), pool])
    starts = np.empty((rows, head), dtype=np.int64)
    lengths = np.empty((rows, head), dtype=np.int64)
    for place, token in enumerate(template.ids):
        text = first if token == FIRST else second if token == SECOND else None
        starts[:, place] = place if text is None else text.starts + head
        lengths[:, place] = 1 if text is None else text.lengths
    # A tokeniser without special tokens makes nothing of an empty text, but a model needs a
    # position to look at: one padding token gives such texts one stable vector.
    starts[:, -1] = head - 1
    lengths[:, -1] = lengths[:, :-1].sum(axis=1) == 0
    offsets = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(lengths.sum(axis=1), out=offsets[1:])
    flat_lengths = lengths.ravel()
    before = np.cumsum(flat_lengths) - flat_lengths
    index = np.repeat(starts.ravel() - before, flat_lengths)
    index += np.arange(len(index))
    types: NDArray[np.int8] | None = None
    if with_types and any(template.kinds):
        kinds = np.asarray([*template.kinds, 0], dtype=np.int8)
        types = np.repeat(np.tile(kinds, rows), flat_lengths)
    full = np.maximum(full_lengths, np.diff(offsets))
    return Tokenized(
        ids=source[index],
        offsets=offsets,
        type_ids=types,
        full_lengths=full,
        truncated=full > np.diff(offsets),
    )
