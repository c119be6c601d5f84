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
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import InvalidInput, ModelFault
from retrieval.models.tokenization import check_pairs
from retrieval.types import (
    Blend,
    EncoderInfo,
    FloatArray,
    ProgressCallback,
    RerankerInfo,
    Scores,
    TokenCounter,
)

DEFAULT_BLEND: Blend = "rrf"
"""Chosen by benchmarks/starter_blend.py on training splits; the figures stand in the docs."""

MAX_CACHE_BYTES = 256 * 2**20
WORKING_BYTES = 64 * 2**20
"""Token vectors held at once beside the cache, whatever the number of pairs."""

Matrix: TypeAlias = NDArray[np.float16]
"""Token vectors of a passage (tokens, dimension). Half the memory of float32; scores move by less
than 1e-4, and nDCG@10 not at all."""


class TokenEncoder(Protocol):
    """What late interaction needs of a bi-encoder."""

    @property
    def info(self) -> EncoderInfo: ...

    @property
    def token_counter(self) -> TokenCounter: ...

    def encode_tokens(
        self, texts: Sequence[str], kind: Literal["query", "passage"]
    ) -> list[FloatArray]:
        """Of each text float32 (tokens, dimension), each token's vector L2-normalised."""
        ...


class LateInteractionReranker:
    """Scores pairs by the mean over the query's tokens of the best cosine in the passage.

    Special tokens take part. Token vectors of passages are computed once and kept, in float16, in
    a cache of bounded size that forgets what was not used for the longest time; a passage is told
    by a hash of its text. May be called from several threads.

    Args:
        encoder: the bi-encoder whose last hidden states are compared.
        max_cache_bytes: size of the cache; 0 keeps nothing. 256 MiB hold some 1,800 passages of
            200 tokens and 384 dimensions.
        default_blend: how its order works best with the first stage's.
        name: what `info.model` says; None for the encoder's name.

    Raises:
        InvalidInput: `max_cache_bytes` is negative.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        *,
        max_cache_bytes: int = MAX_CACHE_BYTES,
        default_blend: Blend = DEFAULT_BLEND,
        name: str | None = None,
    ) -> None:
        if max_cache_bytes < 0:
            raise InvalidInput(
                f"max_cache_bytes={max_cache_bytes} was given, expected at least 0",
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
        self._cache = _MatrixCache(max_cache_bytes)

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: ProgressCallback | None = None
    ) -> Scores:
        """MaxSim of each pair, float64 (n,) in [-1, 1], and which pairs had a text cut.

        Args:
            pairs: (query, passage) texts; queries may differ.
            progress: called with pairs done and in total.

        Raises:
            InvalidInput: an element is not a pair of str.
            ModelFault: the device failed, or gave a score that is not a finite number.
        """
        check_pairs(pairs)
        values = np.empty(len(pairs), dtype=np.float64)
        truncated = np.empty(len(pairs), dtype=np.bool_)
        by_query: dict[str, list[int]] = {}
        for row, (query, _) in enumerate(pairs):
            by_query.setdefault(query, []).append(row)
        # Pairs of one query stand together, so that one product serves all of its passages.
        order = [row for rows in by_query.values() for row in rows]
        done = 0
        for block in self._blocks([pairs[row] for row in order]):
            rows = np.array(order[done : done + block], dtype=np.int64)
            self._score_block(pairs, rows, values, truncated)
            done += block
            if progress is not None:
                progress(done, len(pairs))
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise ModelFault(
                f"{self.info.model} gave token vectors that are not finite numbers for "
                f"{len(bad)} of {len(pairs)} pairs",
                fix="Try dtype='fp32'. If that gives the same, the weights are damaged: "
                "fetch the model again.",
            )
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
        """An upper bound of a text's float32 token vectors: a token has at least one byte."""
        tokens = 4 * len(text) + self.encoder.token_counter.special_tokens
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
        queries = list(by_query)
        query_tokens = self.encoder.encode_tokens(queries, "query")
        matrices = self._passage_matrices([pairs[row][1] for row in rows])
        long_passages = {
            text: self._is_cut(text, len(matrix), self.encoder.info.passage_instruction)
            for text, matrix in matrices.items()
        }
        for query, tokens in zip(queries, query_tokens, strict=True):
            own = by_query[query]
            texts = [pairs[row][1] for row in own]
            values[own] = maxsim(tokens, [matrices[text] for text in texts])
            query_cut = self._is_cut(query, len(tokens), self.encoder.info.query_instruction)
            truncated[own] = [query_cut or long_passages[text] for text in texts]

    def _passage_matrices(self, texts: Sequence[str]) -> dict[str, Matrix]:
        found: dict[str, Matrix] = {}
        missing: dict[str, bytes] = {}
        for text in dict.fromkeys(texts):
            key = _key(text)
            matrix = self._cache.get(key)
            if matrix is None:
                missing[text] = key
            else:
                found[text] = matrix
        if missing:
            # Rounded also where it is not kept: a score must not depend on what is in the cache.
            for (text, key), tokens in zip(
                missing.items(),
                self.encoder.encode_tokens(list(missing), "passage"),
                strict=True,
            ):
                matrix = tokens.astype(np.float16)
                found[text] = matrix
                self._cache.put(key, matrix)
        return found

    def _is_cut(self, text: str, tokens: int, instruction: str) -> bool:
        """Whether `text` was truncated: only one that fills `max_length` can have been."""
        limit = self.encoder.info.max_length
        if tokens < limit:
            return False
        counter = self.encoder.token_counter
        return len(counter.token_offsets(instruction + text)) + counter.special_tokens > limit


def maxsim(query: FloatArray, passages: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """For each passage, the mean over query tokens of the largest cosine with a passage token.

    Args:
        query: (query tokens, dimension), rows L2-normalised.
        passages: each (passage tokens, dimension), rows L2-normalised; at least one row.

    Returns:
        float64 (passages,).
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
    return values


class _MatrixCache:
    """Least recently used matrices, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._matrices: OrderedDict[bytes, Matrix] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> Matrix | None:
        with self._lock:
            matrix = self._matrices.get(key)
            if matrix is not None:
                self._matrices.move_to_end(key)
            return matrix

    def put(self, key: bytes, matrix: Matrix) -> None:
        if matrix.nbytes > self._max_bytes:
            return
        with self._lock:
            if key in self._matrices:
                return
            self._matrices[key] = matrix
            self._bytes += matrix.nbytes
            while self._bytes > self._max_bytes:
                _, oldest = self._matrices.popitem(last=False)
                self._bytes -= oldest.nbytes


def _key(text: str) -> bytes:
    # surrogatepass: lone surrogates are not text, but two different ones are different.
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
