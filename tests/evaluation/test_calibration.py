"""Probabilities and thresholds from judged scores: they hold what they promise, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.evaluation.calibration import (
    METHODS,
    Judged,
    Method,
    brier,
    expected_calibration_error,
    fitted,
    held_out,
    pooled,
    precision_threshold,
    recall_threshold,
    reliability,
)


def drawn(count: int, seed: int, *, apart: float = 6.0) -> list[Judged]:
    """Queries whose relevant candidates score higher, some queries easier than others."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        shift = random.normal(0, 0.7)
        relevant = np.arange(30) < random.integers(1, 4)
        scores = random.normal(shift, 1.5, 30) + np.where(relevant, apart / 2, -apart / 2)
        made.append(Judged(scores, relevant))
    return made


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_are_calibrated_and_keep_the_order(method: Method) -> None:
    learned, fresh = drawn(200, 1), drawn(400, 2)
    chosen = fitted(learned, method)
    scores, labels = pooled(fresh)
    guess = chosen(scores)
    assert np.all(np.diff(chosen(np.sort(scores))) >= 0)
    assert expected_calibration_error(reliability(guess, labels)) < 0.02
    assert brier(guess, labels) < brier(1 / (1 + np.exp(-scores)), labels)


@pytest.mark.parametrize("method", METHODS)
def test_held_out_probabilities_come_in_the_order_of_pooled(method: Method) -> None:
    queries = drawn(60, 3)
    guess = held_out(queries, method)
    scores, _ = pooled(queries)
    assert np.corrcoef(guess, fitted(queries, method)(scores))[0, 1] > 0.99
    assert np.array_equal(guess, held_out(queries, method))


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_the_mean_recall_is_what_was_asked_for(level: float) -> None:
    kept = []
    for seed in range(300):
        threshold = recall_threshold(drawn(80, seed), level)
        assert threshold is not None
        fresh = drawn(50, 10_000 + seed)
        kept.append(np.mean([np.mean(q.scores[q.relevant] >= threshold) for q in fresh]))
    assert np.mean(kept) > level - 0.004  # holds in expectation; what is left is chance
    assert np.mean(kept) < level + 0.03  # and gives nothing away


def test_a_precision_holds_with_its_confidence_and_finds_most() -> None:
    truth = drawn(4000, 99)
    scores, labels = pooled(truth)
    failed = 0
    for seed in range(100):
        threshold = precision_threshold(drawn(150, seed), 0.8)
        assert threshold is not None
        failed += labels[scores >= threshold].mean() < 0.8
        assert labels[scores >= threshold].sum() > 0.85 * labels.sum()
    assert failed <= 10


def test_few_queries_promise_little() -> None:
    queries = drawn(60, 5)
    assert recall_threshold(queries, 0.98) is not None
    assert recall_threshold(queries, 0.99) is None  # 1 / (60 + 1) alone is more than 0.01
    assert precision_threshold(queries, 0.99) is None
    assert recall_threshold([Judged(np.ones(3), np.zeros(3, dtype=bool))], 0.5) is None


def test_what_has_no_score_is_missed_at_every_threshold() -> None:
    seen = drawn(100, 7)
    unread = [Judged(np.where(q.relevant, np.nan, q.scores), q.relevant) for q in seen[:20]]
    assert recall_threshold(seen, 0.85) is not None
    assert recall_threshold([*unread, *seen[20:]], 0.85) is None
    found = recall_threshold([*unread, *seen[20:]], 0.75)
    assert found is not None
    assert found < (recall_threshold(seen, 0.75) or 0)


@given(
    st.lists(
        st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=6),
        min_size=1,
        max_size=30,
    ),
    st.sampled_from([0.5, 0.7, 0.9]),
)
def test_the_recall_threshold_is_the_largest_that_fulfils_its_inequality(
    drawn_queries: list[list[tuple[int, bool]]], level: float
) -> None:
    queries = [
        Judged(np.array([float(s) for s, _ in own]), np.array([r for _, r in own]))
        for own in drawn_queries
    ]
    losing = [q for q in queries if q.relevant.any()]

    def bound(threshold: float) -> float:
        missed = sum(float(np.mean(q.scores[q.relevant] < threshold)) for q in losing)
        return (missed + 1) / (len(losing) + 1)

    tried = sorted({float(s) for q in losing for s in q.scores[q.relevant]})
    allowed = [t for t in tried if bound(t) <= 1 - level + 1e-12]
    assert recall_threshold(queries, level) == (allowed[-1] if allowed else None)


def test_many_knots_are_thinned_without_moving_the_map() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=20_000)
    labels = random.random(20_000) < 1 / (1 + np.exp(-3 * scores))
    chosen = fitted([Judged(scores, labels)], "isotonic")
    assert len(chosen.knots) <= 62
    guess = chosen(scores)
    assert np.max(np.abs(guess - 1 / (1 + np.exp(-3 * scores)))) < 0.12
