"""A reranker whose callers share batches, with the scores of pairs that were read before."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.batching.batcher import Lane
from app.batching.cache import ByteCache, digest
from app.batching.deadline import Control, current
from app.batching.futures import result_of
from app.batching.token_estimates import pair_tokens
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
    """Implements `retrieval.types.Reranker` over a lane; scores are the wrapped reranker's.

    Args:
        reranker: the real one; must be usable from the lane's thread.
        name: of the lane; None takes "reranker".
        budget: estimated tokens in a batch.
        window_ms, joined: see `Lane`.
        cache: where scores are kept; None keeps none.
        settings: what changes scores beside the weights and the longest input (long_passages,
            window_overlap, dtype). Rerankers of the same weights and settings share what a cache
            holds; None shares nothing with any other.
        observer: is told what the lane does.
    """

    def __init__(
        self,
        reranker: Reranker,
        *,
        name: str | None = None,
        budget: int = 4096,
        window_ms: float = 1.0,
        joined: bool = True,
        cache: ScoreCache | None = None,
        settings: Mapping[str, object] | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.inner = reranker
        self.cache = cache
        info = reranker.info
        said = f"unnamed {next(_unnamed)}" if settings is None else repr(sorted(settings.items()))
        self._about = digest(
            type(reranker).__name__, info.fingerprint, info.kind, str(info.max_length), said
        )
        self._mean_cost = float(TYPICAL_PAIR)
        limit = info.max_length
        self.lane: Lane[Pair, Score] = Lane(
            name or "reranker",
            self._run,
            cost=lambda pair: pair_tokens(pair[0], pair[1], limit),
            budget=budget,
            window_ms=window_ms,
            joined=joined,
            observer=observer,
        )

    @property
    def info(self) -> RerankerInfo:
        """The wrapped reranker's."""
        return self.inner.info

    def score(self, pairs: Sequence[Pair], *, progress: ProgressCallback | None = None) -> Scores:
        """As the wrapped reranker's. Raises also what `Lane.run_now` does."""
        if not _are_pairs(pairs):
            return self.inner.score(pairs, progress=progress)
        keys, rows, missing = self._look_up(pairs)
        if not missing:
            if progress is not None:
                progress(len(pairs), len(pairs))
            return _scores(pairs, rows)
        known, total = len(pairs) - len(missing), len(pairs)

        def report(done: int, _: int) -> None:
            assert progress is not None
            progress(known + done, total)

        items = [pairs[index] for index in missing]
        try:
            computed = self.lane.run_now(items, progress=None if progress is None else report)
        except InvalidInput:  # raised again with this call's own numbering of pairs
            return self.inner.score(pairs, progress=progress)
        self._keep(keys, rows, missing, computed)
        return _scores(pairs, rows)

    async def ascore(self, pairs: Sequence[Pair], control: Control | None = None) -> Scores:
        """`score` for the event loop: holds no thread while it waits.

        Args:
            pairs: (query, passage) texts.
            control: of the request; None for `control.current()`.

        Raises: as `Lane.run_now`; a cancelled task takes its pairs out of the queue.
        """
        control = control or current()
        if not _are_pairs(pairs):
            return await asyncio.to_thread(self.inner.score, pairs)
        keys, rows, missing = self._look_up(pairs)
        if missing:
            items = [pairs[index] for index in missing]
            try:
                computed = await result_of(self.lane.submit(items, control), control)
            except InvalidInput:
                return await asyncio.to_thread(self.inner.score, pairs)
            self._keep(keys, rows, missing, computed)
        return _scores(pairs, rows)

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """The wrapped reranker's."""
        return self.inner.relevance(scores)

    def cost(self, pairs: Sequence[Pair]) -> int:
        """Estimated tokens of pairs, as `Admission.enter` takes them."""
        return self.lane.cost(pairs)

    def likely_cost(self, pairs: int) -> int:
        """Estimated tokens of so many pairs that are not known yet, from those seen lately."""
        return round(pairs * self._mean_cost)

    def close(self) -> None:
        """Finish what was accepted, end the lane, and close the wrapped reranker."""
        self.lane.close()
        close = getattr(self.inner, "close", None)
        if close is not None:
            close()

    # --- inside -----------------------------------------------------------------------------

    def _look_up(self, pairs: Sequence[Pair]) -> tuple[list[bytes], list[Score | None], list[int]]:
        """Keys and scores of the pairs, and which of them are missing."""
        if self.cache is None or not pairs:
            return [], [None] * len(pairs), list(range(len(pairs)))
        keys = [digest(self._about, query, passage) for query, passage in pairs]
        rows = self.cache.get(keys)
        return keys, rows, [index for index, row in enumerate(rows) if row is None]

    def _keep(
        self,
        keys: list[bytes],
        rows: list[Score | None],
        missing: list[int],
        computed: list[Score],
    ) -> None:
        for index, row in zip(missing, computed, strict=True):
            rows[index] = row
        if keys and self.cache is not None:
            self.cache.put((keys[index], row) for index, row in zip(missing, computed, strict=True))

    def _run(self, items: Sequence[Pair]) -> list[Score]:
        mean = self.lane.cost(items) / len(items)
        self._mean_cost += 0.1 * (mean - self._mean_cost)
        scores = self.inner.score(items)
        tokens, spans = scores.tokens, scores.spans
        return [
            Score(
                float(scores.values[index]),
                bool(scores.truncated[index]),
                None if tokens is None else int(tokens[index]),
                None if spans is None else (int(spans[index][0]), int(spans[index][1])),
            )
            for index in range(len(items))
        ]


def _are_pairs(pairs: object) -> bool:
    """Whether they are pairs; what else is given, the wrapped reranker answers or refuses."""
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


def _scores(pairs: Sequence[Pair], rows: Sequence[Score | None]) -> Scores:
    own = [row for row in rows if row is not None]
    assert len(own) == len(pairs)
    tokens = [row.tokens for row in own if row.tokens is not None]
    spans = None
    if any(row.span is not None for row in own):
        # A pair whose span was not given was read whole.
        spans = np.array(
            [row.span or (0, len(pair[1])) for row, pair in zip(own, pairs, strict=True)],
            dtype=np.int64,
        ).reshape(-1, 2)
    return Scores(
        values=np.array([row.value for row in own], dtype=np.float64),
        truncated=np.array([row.truncated for row in own], dtype=np.bool_),
        tokens=np.array(tokens, dtype=np.int64) if len(tokens) == len(own) else None,
        spans=spans,
    )
