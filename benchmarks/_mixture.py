"""Made vectors and words that lie as real ones do.

Vectors are drawn from a mixture of 1,000 Gaussians on the sphere, of unequal weights, rank ** -0.5.
Centres have variances falling as j ** -1.4 over the 384 directions, so that clusters lie near each
other as topics do. A point is its centre plus noise as long as the centre on average, which lies in
64 directions of the cluster's own with variances falling as 1/sqrt(j), and for a hundredth of its
variance in all 384. `Made.facts` tells how far neighbours are and the local dimension (by maximum
likelihood, Levina and Bickel 2004), to be held against those of real passages: among 25,000, 1st
and 100th neighbour at cosines of 0.65 and 0.37, dimension 18; among as many real passages with the
starter's vectors 0.65, 0.33 and 22.

Texts are 40 terms on average (log-normal) from a Zipf-Mandelbrot law, 1 / (rank + 50), over 200,000
terms, which is how words lie once stop words are gone. Queries are other points of the same
mixture, with 6 terms of a passage.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DIMENSION = 384
CLUSTERS, DIRECTIONS, RESIDUAL = 1_000, 64, 0.1
TERMS, SHIFT, MEAN_TERMS = 200_000, 50.0, 40
QUERY_TERMS = 6

FloatArray = NDArray[np.float32]


class Mixture:
    """Draws points of the mixture, the same ones for the same block."""

    def __init__(self) -> None:
        random = np.random.default_rng(7)
        falling = np.arange(1, DIMENSION + 1) ** -0.7
        self._centres = _unit(random.standard_normal((CLUSTERS, DIMENSION)) * falling)
        self._weights = np.arange(1, CLUSTERS + 1) ** -0.5
        self._weights /= self._weights.sum()
        basis, _ = np.linalg.qr(random.standard_normal((DIMENSION, DIMENSION)))
        self._basis = basis.T
        self._own = np.array([random.permutation(DIMENSION)[:DIRECTIONS] for _ in range(CLUSTERS)])
        spread = np.arange(1, DIRECTIONS + 1) ** -0.25
        self._spread = spread / np.linalg.norm(spread)

    def draw(self, block: int, count: int) -> FloatArray:
        """float32 (count, dimension), L2-normalised."""
        random = np.random.default_rng((11, block))
        cluster = random.choice(CLUSTERS, size=count, p=self._weights)
        noise = np.zeros((count, DIMENSION))
        inner = random.standard_normal((count, DIRECTIONS)) * self._spread
        np.put_along_axis(noise, self._own[cluster], inner, axis=1)
        points = self._centres[cluster] + noise @ self._basis
        points += random.standard_normal((count, DIMENSION)) * (RESIDUAL / DIMENSION**0.5)
        return _unit(points).astype(np.float32)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def zipf_texts(block: int, count: int) -> list[str]:
    """`count` made texts, the same ones for the same block."""
    random = np.random.default_rng((13, block))
    lengths = np.clip(random.lognormal(np.log(MEAN_TERMS) - 0.125, 0.5, count), 4, 250).astype(int)
    terms = _terms(random, int(lengths.sum()))
    ends = np.cumsum(lengths)
    parts = zip(ends - lengths, ends, strict=True)
    return [" ".join(f"w{term}" for term in terms[start:end].tolist()) for start, end in parts]


def _terms(random: np.random.Generator, count: int) -> NDArray[np.int64]:
    # the inverse of the continuous law: term ranks by shares of log((rank + shift) / shift)
    top = np.log((TERMS + SHIFT) / SHIFT)
    ranks: NDArray[np.int64] = (SHIFT * np.expm1(random.random(count) * top)).astype(np.int64)
    return ranks


def asked_words(size: int, queries: int) -> list[str]:
    """Some words of one of the first `size` texts each."""
    random = np.random.default_rng(17)
    words = []
    texts = zipf_texts(0, size)
    for number in random.integers(len(texts), size=queries):
        own = texts[int(number)].split()
        chosen = random.permutation(len(own))[:QUERY_TERMS]
        words.append(" ".join(own[int(place)] for place in chosen))
    return words
