"""Second stage by late interaction: every query token looks for its best match in the passage.

Method: MaxSim of Khattab and Zaharia, "ColBERT: Efficient and Effective Passage Search via
Contextualized Late Interaction over BERT", SIGIR 2020. It needs token vectors and nothing else, so
a bi-encoder's own last hidden states serve, without training and without further weights.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval._validate import check_pairs, whole_number
from retrieval.errors import ModelFault
from retrieval.types import (
    Blend,
    EncoderInfo,
    FloatArray,
    ProgressCallback,
    RerankerInfo,
    Scores,
    TokenCounter,
)

DEFAULT_BLEND: Blend = "scores"
"""Chosen on training splits; the figures are in docs/evaluation.md."""

MAX_CACHE_BYTES = 256 * 2**20
QUERY_CACHE_BYTES = 4 * 2**20
"""The last queries, float32: one whose pairs come in several calls, as within a time budget or in
the batches of a service, is encoded once."""
WORKING_BYTES = 128 * 2**20
"""Token vectors held at once beside the cache, whatever the number of pairs."""

DECIMALS = 6
"""Scores are rounded to what float32 can tell apart: equal texts tie wherever they are."""


class TokenEncoder(Protocol):
    """What late interaction needs of a bi-encoder."""

    @property
    def info(self) -> EncoderInfo:
        """Dimension, longest input and instructions."""
        ...

    @property
    def token_counter(self) -> TokenCounter:
        """Counts tokens before truncation."""
        ...

    def encode_tokens(
        self, texts: Sequence[str], kind: Literal["query", "passage"]
    ) -> list[FloatArray]:
        """For each text, float32 (tokens, dimension), each token's vector L2-normalised."""
        ...


class LateInteractionReranker:
    """Scores pairs by the mean over the query's tokens of the best cosine in the passage.

    Special tokens take part. Token vectors of passages are computed once and kept, in float16, in
    a cache of bounded size that forgets what was not used for the longest time; a passage is
    recognised by a hash of its text. May be called from several threads.

    Args:
        encoder: the bi-encoder whose last hidden states are compared.
        max_cache_bytes: size of the passages' cache; 0 keeps nothing. 256 MiB hold some 1,800
            passages of 200 tokens and 384 dimensions.
        default_blend: how its order is best joined with the first stage's.
        name: what `info.model` says; None for the encoder's name.

    Raises:
        InvalidInput: `max_cache_bytes` is negative.

    Example:
        >>> from retrieval import BiEncoder, LateInteractionReranker
        >>> reranker = LateInteractionReranker(BiEncoder("all-MiniLM-L6-v2"))
        >>> scores = reranker.score([("red fruit", "Apples are red."), ("red fruit", "It rains.")])
        >>> bool(scores.values[0] > scores.values[1])
        True
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        *,
        max_cache_bytes: int = MAX_CACHE_BYTES,
        default_blend: Blend = DEFAULT_BLEND,
        name: str | None = None,
    ) -> None:
        whole_number(
            max_cache_bytes,
            "max_cache_bytes",
            least=0,
            fix="Give a size in bytes, or 0 to keep no token vectors.",
        )
        self.encoder = encoder
        self.info = RerankerInfo(
            model=name or encoder.info.model,
            fingerprint=encoder.info.fingerprint,
            kind="late-interaction",
            max_length=encoder.info.max_length,
            default_blend=default_blend,
        )
        self._caches: dict[str, tuple[_Cache, type[np.floating]]] = {
            "passage": (_Cache(max_cache_bytes), np.float16),
            "query": (_Cache(min(max_cache_bytes, QUERY_CACHE_BYTES)), np.float32),
        }

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: ProgressCallback | None = None
    ) -> Scores:
        """MaxSim of each pair, float64 (n,) in [-1, 1], and which pairs had a text cut.

        Args:
            pairs: (query, passage) texts; queries may differ.
            progress: called with pairs done and in total.

        Raises:
            InvalidInput: an element is not a pair of str.
            ModelFault: the device failed, or gave numbers that are not finite.
        """
        check_pairs(pairs)
        values = np.empty(len(pairs), dtype=np.float64)
        truncated = np.empty(len(pairs), dtype=np.bool_)
        by_query: dict[str, list[int]] = {}
        for row, (query, _) in enumerate(pairs):
            by_query.setdefault(query, []).append(row)
        # Pairs of one query are together, so that one product serves all of its passages.
        order = [row for rows in by_query.values() for row in rows]
        done = 0
        for block in self._blocks([pairs[row] for row in order]):
            rows = np.array(order[done : done + block], dtype=np.int64)
            self._score_block(pairs, rows, values, truncated)
            done += block
            if progress is not None:
                progress(done, len(pairs))
        return Scores(values=values, truncated=truncated)

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean cosine, clipped to [0, 1]."""
        return np.clip(np.asarray(scores, dtype=np.float64), 0.0, 1.0)

    def _blocks(self, pairs: Sequence[tuple[str, str]]) -> Iterator[int]:
        """How many of the next pairs to take at once, so that their vectors fit."""
        size, used = 0, 0
        seen: set[str] = set()
        for pair in pairs:
            needed = sum(self._most_bytes(text) for text in set(pair) - seen)
            if size and used + needed > WORKING_BYTES:
                yield size
                size, used = 0, 0
                seen.clear()
                needed = sum(self._most_bytes(text) for text in set(pair))
            size += 1
            used += needed
            seen.update(pair)
        if size:
            yield size

    def _most_bytes(self, text: str) -> int:
        """What a text's float32 token vectors take at most: a token has a character or more."""
        tokens = len(text) + self.encoder.token_counter.special_tokens
        return 4 * self.encoder.info.dimension * min(tokens, self.encoder.info.max_length)

    def _score_block(
        self,
        pairs: Sequence[tuple[str, str]],
        rows: NDArray[np.int64],
        values: NDArray[np.float64],
        truncated: NDArray[np.bool_],
    ) -> None:
        by_query: dict[str, list[int]] = {}
        for row in rows:
            by_query.setdefault(pairs[row][0], []).append(int(row))
        asked = self._vectors(list(by_query), "query")
        passages = self._vectors([pairs[row][1] for row in rows], "passage")
        for query, own in by_query.items():
            # Equal texts are scored once: the same vectors in two rows of one product may differ
            # in the last bit, and equal passages must tie.
            places = {text: i for i, text in enumerate(dict.fromkeys(pairs[r][1] for r in own))}
            scores = maxsim(asked[query].vectors, [passages[text].vectors for text in places])
            values[own] = scores[[places[pairs[row][1]] for row in own]]
            truncated[own] = [asked[query].cut or passages[pairs[row][1]].cut for row in own]

    def _vectors(
        self, texts: Sequence[str], kind: Literal["query", "passage"]
    ) -> dict[str, _TokenVectors]:
        found: dict[str, _TokenVectors] = {}
        missing: dict[str, bytes] = {}
        cache, dtype = self._caches[kind]
        for text in dict.fromkeys(texts):
            key = _key(text)
            kept = cache.get(key)
            if kept is None:
                missing[text] = key
            else:
                found[text] = kept
        if missing:
            instruction = str(getattr(self.encoder.info, f"{kind}_instruction"))
            encoded = self._encode(list(missing), kind)
            for (text, key), tokens in zip(missing.items(), encoded, strict=True):
                # Rounded also where it is not kept: a score must not depend on the cache.
                rounded = tokens.astype(dtype, copy=False)
                found[text] = _TokenVectors(rounded, self._is_cut(text, len(tokens), instruction))
                cache.put(key, found[text])
        return found

    def _encode(self, texts: list[str], kind: Literal["query", "passage"]) -> list[FloatArray]:
        matrices = self.encoder.encode_tokens(texts, kind)
        for text, matrix in zip(texts, matrices, strict=True):
            # Seen before anything is kept: a damaged matrix in the cache would stay there.
            if not np.isfinite(matrix).all():
                raise ModelFault(
                    f"{self.info.model} gave token vectors that are not finite numbers for the "
                    f"{kind} {text[:60]!r}",
                    fix="Try dtype='fp32'. If that gives the same, the weights are damaged: "
                    "fetch the model again.",
                )
        return matrices

    def _is_cut(self, text: str, tokens: int, instruction: str) -> bool:
        """Whether `text` was truncated: only one that fills `max_length` can have been."""
        limit = self.encoder.info.max_length
        if tokens + 1 < limit:  # bge-m3's multi-vectors leave the first token out
            return False
        counter = self.encoder.token_counter
        return len(counter.token_offsets(instruction + text)) + counter.special_tokens > limit


def maxsim(
    query: NDArray[np.floating], passages: Sequence[NDArray[np.floating]]
) -> NDArray[np.float64]:
    """For each passage, the mean over query tokens of the largest cosine with a passage token.

    Args:
        query: (query tokens, dimension), rows L2-normalised.
        passages: each (passage tokens, dimension), rows L2-normalised; at least one row.

    Returns:
        float64 (passages,), rounded to `DECIMALS`.
    """
    values = np.empty(len(passages), dtype=np.float64)
    # One product for as many passages as keep both factors' sizes bounded.
    row_bytes = 4 * (query.shape[0] + query.shape[1])
    start = 0
    while start < len(passages):
        stop, rows = start, 0
        while stop < len(passages) and (
            stop == start or (rows + len(passages[stop])) * row_bytes <= WORKING_BYTES
        ):
            rows += len(passages[stop])
            stop += 1
        lengths = [len(passage) for passage in passages[start:stop]]
        tokens = np.concatenate(passages[start:stop], axis=0).astype(np.float32)
        cosines = tokens @ query.T
        offsets = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)]).astype(np.intp)
        best = np.maximum.reduceat(cosines, offsets, axis=0)
        values[start:stop] = best.mean(axis=1, dtype=np.float64)
        start = stop
    return np.round(values, DECIMALS)


@dataclass(frozen=True, slots=True)
class _TokenVectors:
    """A text's: (tokens, dimension), of passages float16, half of the memory; was the text cut?"""

    vectors: NDArray[np.floating]
    cut: bool


class _Cache:
    """Least recently used token vectors, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[bytes, _TokenVectors] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> _TokenVectors | None:
        with self._lock:
            entry = self._kept.get(key)
            if entry is not None:
                self._kept.move_to_end(key)
            return entry

    def put(self, key: bytes, entry: _TokenVectors) -> None:
        size = entry.vectors.nbytes
        if size > self._max_bytes:
            return
        with self._lock:
            if key in self._kept:
                return
            self._kept[key] = entry
            self._bytes += size
            while self._bytes > self._max_bytes:
                _, oldest = self._kept.popitem(last=False)
                self._bytes -= oldest.vectors.nbytes


def _key(text: str) -> bytes:
    # surrogatepass: lone surrogates are not text, but two different ones are different.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
