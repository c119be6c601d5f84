"""A reranker whose callers share batches, with a cache of scores."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.batching.batcher import Batcher
from app.batching.cache import ByteCache, CachedBatcher, digest
from app.batching.deadline import Control, current
from app.batching.tokens import pair_tokens
from app.types import Observer
from retrieval.errors import InvalidInput
from retrieval.types import ProgressCallback, Reranker, RerankerInfo, Scores

SCORE_BYTES = 200
"""What a score takes: the object, its numbers and its span."""

TYPICAL_PAIR = 200
"""Estimated tokens of a pair before any was seen."""

Pair: TypeAlias = tuple[str, str]
_unnamed = itertools.count()


@dataclass(frozen=True, slots=True)
class Score:
    """What the reranker says of one pair; tokens and span None where it does not say."""

    value: float
    truncated: bool
    tokens: int | None
    span: tuple[int, int] | None


ScoreCache: TypeAlias = ByteCache[Score]


def score_cache(max_bytes: int, observer: Observer | None = None) -> ScoreCache:
    """A cache of scores; may be shared by several rerankers."""
    return ByteCache("scores", max_bytes, lambda _: SCORE_BYTES, observer=observer)


class BatchedReranker:
    """Implements `retrieval.types.Reranker` over a batcher; scores are the wrapped reranker's.

    Args:
        reranker: the real one; must be usable from the batcher's thread.
        name: of the batcher.
        budget: estimated tokens in a batch.
        window_ms, joined: see `Batcher`.
        cache: where scores are kept; None keeps none.
        settings: what changes scores beside the weights and the longest input (long_passages,
            window_overlap, dtype). Rerankers of the same weights and settings share what a cache
            holds; None shares nothing with any other.
        observer: gets the events of the batcher.
    """

    def __init__(
        self,
        reranker: Reranker,
        *,
        name: str = "reranker",
        budget: int = 4096,
        window_ms: float = 1.0,
        joined: bool = True,
        cache: ScoreCache | None = None,
        settings: Mapping[str, object] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.inner = reranker
        info = reranker.info
        own = f"unnamed {next(_unnamed)}" if settings is None else repr(sorted(settings.items()))
        self._identity = digest(
            type(reranker).__name__, info.fingerprint, info.kind, str(info.max_length), own
        )
        self._mean_tokens = float(TYPICAL_PAIR)
        limit = info.max_length
        self.batcher: Batcher[Pair, Score] = Batcher(
            name,
            self._compute,
            cost=lambda pair: pair_tokens(pair[0], pair[1], limit),
            budget=budget,
            window_ms=window_ms,
            joined=joined,
            observer=observer,
        )
        self._cached = CachedBatcher(self.batcher, cache, self._keys)

    @property
    def info(self) -> RerankerInfo:
        """The wrapped reranker's."""
        return self.inner.info

    def score(self, pairs: Sequence[Pair], *, progress: ProgressCallback | None = None) -> Scores:
        """As the wrapped reranker's. Raises also what `Batcher.run` does."""
        if not _are_pairs(pairs):  # the wrapped reranker answers or refuses
            return self.inner.score(pairs, progress=progress)
        try:
            return _joined(pairs, self._cached.values(pairs, progress))
        except InvalidInput:  # numbered by its batch; by itself, this call's pairs are numbered
            return self.inner.score(pairs, progress=progress)

    async def score_async(self, pairs: Sequence[Pair], control: Control | None = None) -> Scores:
        """`score` on the event loop: holds no thread while it waits.

        Args:
            pairs: (query, passage) texts.
            control: of the request; None for `current()`.

        Raises: as `Batcher.run_async`.
        """
        if _are_pairs(pairs):
            try:
                values = await self._cached.values_async(pairs, control or current())
                return _joined(pairs, values)
            except InvalidInput:
                pass
        return await asyncio.to_thread(self.inner.score, pairs)

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The wrapped reranker's."""
        return self.inner.relevance(scores)

    def tokens(self, pairs: Sequence[Pair]) -> int:
        """Estimated tokens of pairs, as `Admission.enter` takes them."""
        return self.batcher.tokens(pairs)

    def likely_tokens(self, pairs: int) -> int:
        """Estimated tokens of this number of pairs that are not known yet, from recent ones."""
        return round(pairs * self._mean_tokens)

    def close(self) -> None:
        """Finish what was accepted, end the batcher, and close the wrapped reranker."""
        self.batcher.close()
        close = getattr(self.inner, "close", None)
        if close is not None:
            close()

    # --- internal

    def _keys(self, pairs: Sequence[Pair]) -> list[bytes]:
        return [digest(self._identity, query, passage) for query, passage in pairs]

    def _compute(self, pairs: Sequence[Pair]) -> list[Score]:
        mean = self.batcher.tokens(pairs) / len(pairs)
        self._mean_tokens += 0.1 * (mean - self._mean_tokens)
        scores = self.inner.score(pairs)
        tokens, spans = scores.tokens, scores.spans
        return [
            Score(
                float(scores.values[index]),
                bool(scores.truncated[index]),
                None if tokens is None else int(tokens[index]),
                None if spans is None else (int(spans[index][0]), int(spans[index][1])),
            )
            for index in range(len(pairs))
        ]


def _are_pairs(pairs: object) -> bool:
    return (
        isinstance(pairs, list | tuple)
        and len(pairs) > 0
        and all(
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and isinstance(pair[1], str)
            for pair in pairs
        )
    )


def _joined(pairs: Sequence[Pair], scores: Sequence[Score]) -> Scores:
    tokens = [one.tokens for one in scores if one.tokens is not None]
    spans = None
    if any(one.span is not None for one in scores):
        # A pair whose span was not given was read whole.
        whole = ((0, len(passage)) for _, passage in pairs)
        spans = np.array(
            [one.span or span for one, span in zip(scores, whole, strict=True)], dtype=np.int64
        ).reshape(-1, 2)
    return Scores(
        values=np.array([one.value for one in scores], dtype=np.float64),
        truncated=np.array([one.truncated for one in scores], dtype=np.bool_),
        tokens=np.array(tokens, dtype=np.int64) if len(tokens) == len(scores) else None,
        spans=spans,
    )
