"""Scores from 0 to 1 that agree with the order of the hits."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocols.scores import unit_scores
from retrieval import Hit, Passage


def hits(*values: tuple[float | None, float]) -> list[Hit]:
    """Hits of (relevance, score), in that order."""
    passage = Passage("id", "document", 0, "text", 0, 4)
    return [
        Hit(passage, rank, score, relevance, stage1_rank=rank, stage1_score=score)
        for rank, (relevance, score) in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        # relevance as it is
        ([(0.9, 4.0), (0.5, 0.0), (0.5, 0.0), (0.0, -9.0)], [0.9, 0.5, 0.5, 0.0]),
        # neighbours out of order share their mean
        ([(0.9, 3.0), (0.2, 2.0), (0.6, 1.0), (0.1, 0.5)], [0.9, 0.4, 0.4, 0.1]),
        ([(0.1, 2.0), (0.9, 1.0)], [0.5, 0.5]),
        # without relevance the score decides
        ([(None, 3.0), (None, 1.0), (None, 0.0), (None, -2.0)], [0.75, 0.5, 0.0, 0.0]),
        # hits that were not re-ranked come below those that were
        ([(0.8, 2.0), (0.4, 1.0), (None, 3.0), (None, 1.0)], [0.8, 0.4, 0.3, 0.2]),
    ],
)
def test_scores_of(values: list[tuple[float | None, float]], expected: list[float]) -> None:
    assert unit_scores(hits(*values)) == pytest.approx(expected)


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(0, 1),
            st.floats(-1e300, 1e300),
        ),
        max_size=30,
    )
)
def test_in_bounds_and_never_rising(values: list[tuple[float | None, float]]) -> None:
    scores = unit_scores(hits(*values))
    assert len(scores) == len(values)
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert all(one >= other for one, other in itertools.pairwise(scores))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30))
def test_the_order_of_plain_scores_is_kept(values: list[float]) -> None:
    ordered = sorted(values, reverse=True)
    scores = unit_scores(hits(*((None, value) for value in ordered)))
    pairs = zip(ordered, scores, strict=True)
    for (one, first), (other, second) in itertools.pairwise(pairs):
        assert first >= second
        if one > other * 1.000001 + 1e-12:
            assert first > second
