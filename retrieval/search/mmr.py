"""Maximal marginal relevance: an order of hits with less repetition."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.types import FloatArray, Hit

DECIMALS = 6
"""Cosines are rounded to what float32 can tell apart: equal passages tie wherever they are."""


def diverse(
    hits: Sequence[Hit], vectors: Mapping[str, FloatArray], diversity: float
) -> Iterator[Hit]:
    """Hits by maximal marginal relevance, one at a time; each costs one product with all vectors.

    The first is the one with the highest score, and the next always the one with the largest

        (1 - diversity) · relevance - diversity · (largest cosine with one that was taken before)

    and the smaller id where that is equal. Relevance is the hit's `score`, mapped so that the
    lowest of these hits has 0 and the highest 1: logits have no bounds and sums of RRF lie within
    a few hundredths of each other, and neither could be weighed against a cosine as it is.

    Method: Carbonell and Goldstein, "The Use of MMR, Diversity-Based Reranking for Reordering
    Documents and Producing Summaries", SIGIR 1998; their λ is 1 - diversity.

    Args:
        hits: in any order.
        vectors: of their passages by id, of any length; one that is missing is like no other.
        diversity: from 0 (by score alone) to 1 (after the first, by difference alone).
    """
    # in the order of ids, the first of equal values is the one that is wanted
    left = sorted(hits, key=lambda hit: hit.passage.id)
    if not left:
        return
    relevance = _scaled([hit.score for hit in left])
    units = _units(left, vectors)
    closest = np.zeros(len(left))
    taken = np.zeros(len(left), dtype=np.bool_)
    for place in range(len(left)):
        value = (1.0 - diversity) * relevance - diversity * closest if place else relevance.copy()
        value[taken] = -np.inf
        best = int(np.argmax(value))
        taken[best] = True
        yield left[best]
        cosines = np.round(units @ units[best], DECIMALS)
        closest = cosines if place == 0 else np.maximum(closest, cosines)


def _scaled(scores: Sequence[float]) -> NDArray[np.float64]:
    values = np.array(scores, dtype=np.float64)
    spread = values.max() - values.min()
    scaled: NDArray[np.float64] = (values - values.min()) / spread if spread > 0 else values * 0.0
    return scaled


def _units(hits: Sequence[Hit], vectors: Mapping[str, FloatArray]) -> NDArray[np.float64]:
    """Vectors (n, dimension) of length 1, or 0 where there is none."""
    width = max((len(vector) for vector in vectors.values()), default=1)
    rows = np.zeros((len(hits), width))
    for row, hit in enumerate(hits):
        vector = vectors.get(hit.passage.id)
        if vector is not None:
            rows[row] = vector
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units: NDArray[np.float64] = rows / np.where(lengths > 0, lengths, 1.0)
    return units
