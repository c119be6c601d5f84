"""From scores to probabilities, and to thresholds that promise something.

Everything here works on `Judged`: the scores that one query's candidates got and which of them are
relevant. Queries, not hits, are what is drawn independently: folds and bounds go by query.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float64]"
Method: TypeAlias = Literal["isotonic", "platt"]

METHODS: tuple[Method, ...] = ("isotonic", "platt")
FOLDS = 5
BINS = 10
CONFIDENCE = 0.95
_MOST_KNOTS = 60
_STEPS = 200
_STARTS = 5
"""Thresholds that are tried for a precision, and from how many of them on."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The candidates of one query.

    scores: float64 (n,); NaN where the signal has none (the reranker did not read it).
    relevant: bool (n,).
    """

    scores: Floats
    relevant: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """A map of scores to probabilities that never falls.

    method: "isotonic" interpolates between `knots`, (score, probability), rising; "platt" is the
    sigmoid of slope × score + intercept.
    """

    method: Method
    knots: tuple[tuple[float, float], ...] = ()
    slope: float = 0.0
    intercept: float = 0.0

    def __call__(self, scores: Floats) -> Floats:
        """Probabilities float64 (n,) of scores (n,)."""
        if self.method == "platt":
            logits = np.clip(self.slope * scores + self.intercept, -700, 700)
            return np.asarray(1.0 / (1.0 + np.exp(-logits)))
        x, y = np.array(self.knots).T
        return np.asarray(np.interp(scores, x, y))


def fitted(queries: Sequence[Judged], method: Method) -> ScoreMap:
    """The map that fits the queries best.

    Methods: isotonic regression by pooling adjacent violators (Zadrozny and Elkan, KDD 2002);
    logistic regression of the score (Platt 1999).
    """
    scores, labels = pooled(queries)
    if method == "platt":
        from sklearn.linear_model import LogisticRegression

        # standardised: logits, cosines and sums of scores lie on very different scales
        mean, deviation = float(scores.mean()), float(scores.std()) or 1.0
        model = LogisticRegression(C=1e6).fit(((scores - mean) / deviation)[:, None], labels)
        slope = max(float(model.coef_[0, 0]) / deviation, 0.0)
        return ScoreMap("platt", (), slope, float(model.intercept_[0]) - slope * mean)
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, labels)
    x, y = model.X_thresholds_, model.y_thresholds_
    kept = _thinned(y)
    knots = tuple((float(a), float(b)) for a, b in zip(x[kept], y[kept], strict=True))
    return ScoreMap("isotonic", knots)


def _thinned(y: Floats) -> NDArray[np.int64]:
    """At most `_MOST_KNOTS` places, so that the probability between them moves evenly."""
    if len(y) <= _MOST_KNOTS:
        return np.arange(len(y))
    wanted = np.linspace(y[0], y[-1], _MOST_KNOTS)
    return np.unique(np.concatenate([[0], np.searchsorted(y, wanted[1:-1]), [len(y) - 1]]))


def held_out(queries: Sequence[Judged], method: Method, seed: int = 0) -> Floats:
    """The probability of every scored candidate by a map that its query's fold took no part in.

    Returns:
        float64, as many as `pooled` gives, in the same order.
    """
    order = np.random.default_rng(seed).permutation(len(queries))
    parts: list[Floats] = [np.zeros(0)] * len(queries)
    for fold in range(FOLDS):
        out = set(order[fold::FOLDS].tolist())
        chosen = fitted([one for row, one in enumerate(queries) if row not in out], method)
        for row in out:
            scores = queries[row].scores
            parts[row] = chosen(scores[~np.isnan(scores)])
    return np.concatenate(parts)


def pooled(queries: Sequence[Judged]) -> tuple[Floats, NDArray[np.int64]]:
    """Scores and labels (1 relevant, 0 not) of all candidates that have a score."""
    scores = np.concatenate([one.scores for one in queries])
    labels = np.concatenate([one.relevant for one in queries])
    there = ~np.isnan(scores)
    return scores[there], labels[there].astype(np.int64)


def brier(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """The mean squared error of probabilities (Brier 1950); 0 is perfect."""
    return float(np.mean((probabilities - labels) ** 2))


@dataclass(frozen=True, slots=True)
class Bin:
    """Candidates of similar probability: the mean of it, and the share that is relevant."""

    count: int
    predicted: float
    observed: float


def reliability(probabilities: Floats, labels: NDArray[np.int64], bins: int = BINS) -> list[Bin]:
    """Bins of equal width along the probability, without empty ones, for a reliability plot
    (DeGroot and Fienberg 1983)."""
    place = np.minimum((probabilities * bins).astype(int), bins - 1)
    found = []
    for number in range(bins):
        inside = place == number
        if inside.any():
            mean, share = float(probabilities[inside].mean()), float(labels[inside].mean())
            found.append(Bin(int(inside.sum()), mean, share))
    return found


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """The mean distance of predicted and observed, weighed by size (Naeini et al., AAAI 2015)."""
    total = sum(one.count for one in bins)
    return sum(one.count * abs(one.predicted - one.observed) for one in bins) / total


def recall_threshold(queries: Sequence[Judged], level: float) -> float | None:
    """The largest score t so that hits of at least t hold, in the mean over queries like these, at
    least `level` of the relevant candidates; None where so few queries cannot promise it.

    Method: conformal risk control (Angelopoulos, Bates, Fisch, Lei and Schuster, ICLR 2024,
    arXiv 2208.02814; for retrieval arXiv 2410.02914) with a query's miss rate as the loss: the
    largest t with n/(n+1) × (mean miss rate at t) + 1/(n+1) ≤ 1 - level. Holds in expectation
    over the draw of these queries and the next, if they are exchangeable. Queries without a
    relevant candidate have nothing to miss and take no part; a relevant candidate without a
    score is missed at every threshold.
    """
    losing = [one for one in queries if one.relevant.any()]
    n = len(losing)
    if n == 0:
        return None
    scores = np.concatenate([one.scores[one.relevant] for one in losing])
    shares = np.concatenate([np.full(int(k), 1.0 / k) for k in (q.relevant.sum() for q in losing)])
    lost = float(shares[np.isnan(scores)].sum())
    there = ~np.isnan(scores)
    scores, shares = scores[there], shares[there]
    order = np.argsort(scores, kind="stable")
    scores, shares = scores[order], shares[order]
    # missed at t = scores[j]: those that are lower, not those that are equal
    first = np.searchsorted(scores, scores, side="left")
    missed = np.concatenate([[0.0], np.cumsum(shares)])[first] + lost
    allowed = (missed + 1.0) / (n + 1) <= 1.0 - level + 1e-12
    return float(scores[allowed][-1]) if allowed.any() else None


def precision_threshold(queries: Sequence[Judged], level: float) -> float | None:
    """The smallest score t so that of the hits of at least t at least `level` are relevant, with
    95% confidence; None where so few queries cannot show it.

    Method: the one-sided Clopper–Pearson bound at the effective number of hits (Korn and Graubard
    1998), since hits of one query are no independent draws. Thresholds are tried from strict to
    lax until the first that fails, from several beginnings that share the error among them, which
    keeps the confidence (fixed sequence testing with multiple starts; Angelopoulos et al., Learn
    then Test, arXiv 2110.01052).
    """
    scores, labels = pooled(queries)
    owners = np.concatenate(
        [np.full(int((~np.isnan(q.scores)).sum()), row) for row, q in enumerate(queries)]
    )
    order = np.argsort(-scores, kind="stable")
    scores, labels, owners = scores[order], labels[order], owners[order]
    confidence = 1 - (1 - CONFIDENCE) / _STARTS
    least = math.ceil(math.log(1 - confidence) / math.log(level))
    if least > len(scores):
        return None
    places = np.unique(np.geomspace(least, len(scores), _STEPS).astype(int))
    best: float | None = None
    passed = -1  # a later beginning within what passed would pass the same ones
    for start in range(0, len(places), -(-len(places) // _STARTS)):
        for step in range(max(start, passed + 1), len(places)):
            threshold = scores[places[step] - 1]
            end = int(np.searchsorted(-scores, -threshold, side="right"))  # ties belong to it
            if _precision_bound(labels[:end], owners[:end], confidence) < level:
                break
            best, passed = float(threshold), step
    return best


def _precision_bound(
    labels: NDArray[np.int64], owners: NDArray[np.int64], confidence: float
) -> float:
    """What the precision is at least, with that confidence."""
    from scipy.stats import beta

    n, precision = len(labels), float(labels.mean())
    _, group = np.unique(owners, return_inverse=True)
    clusters = int(group.max()) + 1
    effective = float(min(n, clusters))
    if 0 < precision < 1 and clusters > 1:
        excess = np.bincount(group, weights=labels - precision)
        variance = clusters / (clusters - 1) * float(excess @ excess) / n**2
        effective = min(n, precision * (1 - precision) / variance) if variance > 0 else float(n)
    hits = precision * effective
    if hits <= 0:
        return 0.0
    return float(beta.ppf(1 - confidence, hits, effective - hits + 1))
