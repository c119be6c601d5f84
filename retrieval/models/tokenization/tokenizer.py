"""Text → token ids, the same for encoders, cross-encoders and late interaction.

The tokeniser is the model folder's own fast one. Special tokens are put around the text here, after
truncation, so that a cut text keeps its final `[SEP]` or `</s>`, and so that each text is read
once: its full length is known without a second pass, and truncation can be reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval._validate import check_pairs, check_texts, without_surrogates
from retrieval.errors import InvalidInput
from retrieval.models import cache_dir as cache
from retrieval.models.engines.base import TokenBatch
from retrieval.models.model_folder import read_folder
from retrieval.models.tokenization.cache import TokenCache
from retrieval.models.tokenization.cutting import cut_text
from retrieval.models.tokenization.files import load_backend
from retrieval.models.tokenization.token_batch import (
    FIRST,
    SECOND,
    PairIds,
    Slices,
    Template,
    Tokenized,
    joined,
    lay_out,
)

__all__ = ["PairIds", "Tokenized", "Tokenizer", "cuts"]

SLICE = 512
"""Texts handed to the Rust side at once: Ctrl-C is noticed and memory freed between slices."""

SLICE_CHARS = 2**20
"""Characters likewise: the Rust side keeps some 100 bytes per token until a slice is done."""


class Tokenizer:
    """The fast tokeniser of a model folder, cut to `max_length` tokens.

    Args:
        path: a model folder with the tokeniser's files.
        max_length: the longest input in tokens, special tokens included.
        cache_dir: where the tokeniser is kept for a quick start; None for the user's cache folder.

    Raises:
        ModelNotFound: the folder has no tokeniser, or is not a model folder.
        InvalidInput: `max_length` is below 8 or above what the model has positions for.
    """

    def __init__(self, path: Path, max_length: int, *, cache_dir: Path | None = None) -> None:
        path = Path(path)
        limit = self._positions = read_folder(path).position_limit
        if max_length < 8 or (limit is not None and max_length > limit):
            raise InvalidInput(
                f"max_length={max_length} was given for the model in {path}, "
                + (f"which reads 8 to {limit} tokens" if limit else "expected at least 8 tokens"),
                fix="Choose a max_length in that range, or leave it out for the model's own.",
            )
        self.max_length = max_length
        self._backend, self.pad_id, self._with_types = load_backend(
            path, cache.default_cache_dir() if cache_dir is None else cache_dir
        )
        self._single = self._learn_template("a", None)
        self._pair = self._learn_template("a", "b")
        self._prefix_lengths: dict[str, int] = {}

    @property
    def special_tokens(self) -> int:
        """How many special tokens are put around one text."""
        return self._single.size

    @property
    def pair_room(self) -> int:
        """How many tokens `max_length` leaves for the query and the passage of a pair."""
        return self.max_length - self._pair.size

    def encode(
        self, texts: Sequence[str], prefix: str = "", *, suffix: str = "", examples: str = ""
    ) -> Tokenized:
        """Token ids of each text, with `prefix` put before it verbatim.

        Args:
            texts: what is cut where prefix, text and suffix are longer than `max_length`.
            prefix: an instruction.
            suffix: put behind each text, and never cut.
            examples: put before the prefix, on top of `max_length`, and never cut.

        Raises:
            InvalidInput: an element is not a str, prefix and suffix alone fill `max_length`, or
                examples leave no positions for it.
        """
        check_texts(texts)
        room = self.max_length - self._single.size
        if suffix or examples:
            room -= self._prefix_length(suffix)
            self._check_examples(examples)
        if prefix and self._prefix_length(prefix) >= room:
            raise InvalidInput(
                f"the instruction {prefix[:60]!r} has {self._prefix_length(prefix)} tokens, "
                f"but max_length={self.max_length} leaves {room} for it and the text together",
                fix="Give a shorter instruction or a larger max_length.",
            )
        full: list[int] = []
        kept: list[NDArray[np.int32]] = []
        if suffix or examples:
            # Read as one string, as they are trained: tokens may reach over the text's ends.
            cut = [cut_text(self._backend, without_surrogates(prefix + t), room) for t in texts]
            whole = self._bare_ids([examples + one.text + suffix for one in cut])
            for ids, one in zip(whole, cut, strict=True):
                full.append(len(ids) + one.missing + self._single.size)
                kept.append(_int32(ids))
        else:
            for ids in self._bare_ids(texts, prefix):
                full.append(len(ids) + self._single.size)
                kept.append(_int32(ids[:room]))
        pool, slices = joined(kept)
        return lay_out(
            self._single,
            pool,
            slices,
            full_lengths=np.asarray(full, dtype=np.int64),
            pad_id=self.pad_id,
            with_types=self._with_types,
        )

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], *, cache: TokenCache | None = None
    ) -> Tokenized:
        """Token ids of (query, passage) pairs, cut so that the query survives.

        The query keeps at most three quarters of `max_length` and always leaves the passage a
        token; then only the passage is cut. This is what FlagReranker does (`only_second`).
        A text that occurs in many pairs is read once.

        Args:
            pairs: (query, passage) texts.
            cache: where passages' ids are looked up and kept.

        Raises:
            InvalidInput: an element is not a pair of str.
        """
        check_pairs(pairs)
        return self.join_pairs(self.read_pairs(pairs, cache=cache))

    def read_pairs(
        self, pairs: Sequence[tuple[str, str]], *, cache: TokenCache | None = None
    ) -> PairIds:
        """The bare ids of checked pairs, and what room `encode_pairs` would give them."""
        queries, query_of = _unique([query for query, _ in pairs])
        passages, passage_of = _unique([passage for _, passage in pairs])
        query_ids = self.bare_ids(queries)
        if cache is None:
            passage_ids = self.bare_ids(passages)
        else:
            passage_ids = cache.ids(passages, self.bare_ids)
        pool, slices = joined([*query_ids, *passage_ids])
        firsts = np.asarray(query_of, dtype=np.int64)
        seconds = np.asarray(passage_of, dtype=np.int64) + len(queries)
        query_lengths, passage_lengths = slices.lengths[firsts], slices.lengths[seconds]
        query_room = min(self.max_length * 3 // 4, self.pair_room - 1)
        return PairIds(
            pool=pool,
            queries=Slices(slices.starts[firsts], query_lengths),
            passages=Slices(slices.starts[seconds], passage_lengths),
            query_room=query_room,
            room=self.pair_room - np.minimum(query_lengths, query_room),
            full_lengths=query_lengths + passage_lengths + self._pair.size,
        )

    def join_pairs(
        self,
        ids: PairIds,
        rows: NDArray[np.int64] | None = None,
        passages: Slices | None = None,
    ) -> Tokenized:
        """The pairs with their special tokens, as much of each passage as fits from its start.

        Args:
            ids: from `read_pairs`.
            rows: int64 (m,), the pair of each row; None for one row a pair, in order.
            passages: int64 (m,), each row's part of its passage: tokens from the passage's start
                and how many, which must fit; None for as many as fit, from the start.
        """
        if rows is None:
            rows = np.arange(len(ids.room), dtype=np.int64)
        starts, lengths = ids.passages.starts[rows], ids.passages.lengths[rows]
        if passages is None:
            second = Slices(starts, np.minimum(lengths, ids.room[rows]))
        else:
            second = Slices(starts + passages.starts, passages.lengths)
        kept = np.minimum(ids.queries.lengths[rows], ids.query_room)
        return lay_out(
            self._pair,
            ids.pool,
            Slices(ids.queries.starts[rows], kept),
            second,
            full_lengths=ids.full_lengths[rows],
            pad_id=self.pad_id,
            with_types=self._with_types,
        )

    def bare_ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """For each text, int32 (tokens,), without special tokens or truncation."""
        return [_int32(ids) for ids in self._bare_ids(texts)]

    def token_offsets(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of the text's tokens, without special tokens or truncation."""
        check_texts([text])
        return self.token_places(text)[0]

    def token_places(self, text: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Of the text's bare tokens: character offsets (n, 2), and which start a word (n,).

        A word is what the tokeniser never joins with what is beside it.
        """
        encoding = self._backend.encode(without_surrogates(text), add_special_tokens=False)
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        words = np.asarray(
            [-1 if word is None else word for word in encoding.word_ids], dtype=np.int64
        )
        starts = np.ones(len(words), dtype=np.bool_)
        starts[1:] = words[1:] != words[:-1]
        return offsets, starts

    def pad(self, indices: NDArray[np.int64], tokenized: Tokenized) -> TokenBatch:
        """The rows `indices` as one batch, padded on the right to the longest of them."""
        lengths = tokenized.offsets[indices + 1] - tokenized.offsets[indices]
        columns = np.arange(int(lengths.max()))
        mask = columns[None, :] < lengths[:, None]
        source = (tokenized.offsets[indices][:, None] + columns[None, :])[mask]
        input_ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        input_ids[mask] = tokenized.ids[source]
        type_ids = None
        if tokenized.type_ids is not None:
            type_ids = np.zeros(mask.shape, dtype=np.int64)
            type_ids[mask] = tokenized.type_ids[source]
        return TokenBatch(input_ids, mask.astype(np.int64), type_ids)

    def _bare_ids(self, texts: Sequence[str], prefix: str = "") -> Iterator[list[int]]:
        for start, stop in cuts([len(prefix) + len(text) for text in texts], SLICE, SLICE_CHARS):
            batch = [without_surrogates(prefix + text) for text in texts[start:stop]]
            for encoding in self._backend.encode_batch_fast(batch, add_special_tokens=False):
                yield encoding.ids

    def _prefix_length(self, prefix: str) -> int:
        if prefix not in self._prefix_lengths:
            self._prefix_lengths[prefix] = len(next(self._bare_ids([prefix])))
        return self._prefix_lengths[prefix]

    def _check_examples(self, examples: str) -> None:
        used = self._prefix_length(examples)
        if self._positions is not None and used + self.max_length > self._positions:
            raise InvalidInput(
                f"the examples have {used} tokens, and max_length={self.max_length} beside them "
                f"is more than the model reads, {self._positions}",
                fix="Give fewer examples, or a smaller max_length.",
            )

    def _learn_template(self, first: str, second: str | None) -> Template:
        encoding = self._backend.encode(first, second)
        ids: list[int] = []
        kinds: list[int] = []
        for token, kind, sequence in zip(
            encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True
        ):
            place = token if sequence is None else (FIRST, SECOND)[sequence]
            if sequence is None or not ids or ids[-1] != place:
                ids.append(place)
                kinds.append(kind)
        return Template(tuple(ids), tuple(kinds))


def cuts(sizes: Sequence[int], most: int, total: int) -> Iterator[tuple[int, int]]:
    """Ranges over `sizes`, each of at most `most` items that sum to at most `total`.

    An item larger than that forms its own range.
    """
    start, used = 0, 0
    for place, size in enumerate(sizes):
        if place > start and (place - start == most or used + size > total):
            yield start, place
            start, used = place, 0
        used += size
    if start < len(sizes):
        yield start, len(sizes)


def _int32(ids: list[int]) -> NDArray[np.int32]:
    return np.asarray(ids, dtype=np.int32)


def _unique(texts: list[str]) -> tuple[list[str], list[int]]:
    places: dict[str, int] = {}
    indices = [places.setdefault(text, len(places)) for text in texts]
    return list(places), indices
