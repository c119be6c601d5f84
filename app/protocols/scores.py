"""A score for each hit, from 0 to 1 and falling along the results, for formats with one score.

Clients of these formats cut results off at a score and merge results of several sources by it, so
it has to agree with the order of the results.
"""

from __future__ import annotations

from collections.abc import Sequence

from retrieval import Hit


def unit_scores(hits: Sequence[Hit]) -> list[float]:
    """A score in [0, 1] of each hit, never rising along them.

    - With a reranker, and for vectors alone: `Hit.relevance`, as it is. Where the final order
      blends in the first stage's, a passage may come before a more relevant one: such
      neighbours share their mean (the nearest falling sequence by least squares).
    - Hits that the reranker did not read, after those it did: the lowest relevance that was
      read, times s / (1 + s) of the first stage's score s.
    - Without any relevance (hybrid, BM25 or term weights alone): s / (1 + s) of `Hit.score`.
      It keeps the order and does not say how relevant a hit is: a threshold on it has to be
      found on the user's own data.

    A negative s counts as 0.
    """
    read = [hit.relevance for hit in hits if hit.relevance is not None]
    floor = min(read, default=1.0)
    return _falling(
        [floor * _squashed(hit.score) if hit.relevance is None else hit.relevance for hit in hits]
    )


def _squashed(score: float) -> float:
    positive = max(score, 0.0)
    return positive / (1.0 + positive)


def _falling(values: Sequence[float]) -> list[float]:
    """The nearest sequence that never rises (isotonic regression by pooling neighbours)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, size = min(max(value, 0.0), 1.0), 1
        while pools and pools[-1][0] < mean:
            before, members = pools.pop()
            mean = (before * members + mean * size) / (members + size)
            size += members
        pools.append((mean, size))
    return [mean for mean, size in pools for _ in range(size)]
