"""Reciprocal rank fusion: its values, its order, and what it refuses."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import InvalidInput
from retrieval.fusion import rrf

RANKINGS = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=5)


def test_scores_are_the_sum_of_reciprocal_ranks_counted_from_zero() -> None:
    fused = dict(rrf([["a", "b"], ["b", "c"]], k=20))
    assert fused == pytest.approx({"a": 1 / 20, "b": 1 / 21 + 1 / 20, "c": 1 / 21})


def test_agrees_with_qdrant() -> None:
    from qdrant_client.hybrid.fusion import reciprocal_rank_fusion
    from qdrant_client.models import ScoredPoint

    rankings = [[3, 1, 4, 5], [9, 2, 6, 5, 3], [5, 8, 9]]
    points = [[ScoredPoint(id=i, version=0, score=0.0) for i in ids] for ids in rankings]
    theirs = reciprocal_rank_fusion(points, limit=100, ranking_constant_k=20)
    ours = dict(rrf([[str(i) for i in ids] for ids in rankings], k=20))
    assert ours == pytest.approx({str(point.id): point.score for point in theirs})


def test_being_in_both_lists_beats_one_first_place() -> None:
    assert [key for key, _ in rrf([["a", "b"], ["c", "b"]])] == ["b", "a", "c"]


def test_ties_go_by_id() -> None:
    assert [key for key, _ in rrf([["z", "a"], ["a", "z"]])] == ["a", "z"]


def test_weights_tilt_towards_a_ranking() -> None:
    rankings = [["a", "b"], ["b", "a"]]
    assert rrf(rankings, weights=[2.0, 1.0])[0][0] == "a"
    assert rrf(rankings, weights=[1.0, 2.0])[0][0] == "b"
    assert dict(rrf(rankings, k=10, weights=[1, 0])) == pytest.approx({"a": 0.1, "b": 1 / 11})


def test_small_k_lets_first_places_decide() -> None:
    rankings = [["a", "b", "c", "d"], ["d", "b", "c", "a"]]
    assert rrf(rankings, k=1)[0][0] == "a"  # 1 + 1/4 > 1/2 + 1/2
    assert rrf([["a", "b"], ["c", "b"], ["d", "b"]], k=100)[0][0] == "b"


def test_an_id_listed_twice_counts_at_its_better_place() -> None:
    assert rrf([["a", "b", "a"]], k=20) == [("a", 1 / 20), ("b", 1 / 21)]
    assert rrf([["a", "a", "b"]], k=20) == [("a", 1 / 20), ("b", 1 / 21)]


def test_nothing_in_nothing_out() -> None:
    assert rrf([]) == []
    assert rrf([[], []]) == []


@given(RANKINGS)
def test_every_id_comes_out_once_best_first(rankings: list[list[str]]) -> None:
    fused = rrf(rankings)
    keys = [key for key, _ in fused]
    assert sorted(keys) == sorted(set(itertools.chain.from_iterable(rankings)))
    assert fused == sorted(fused, key=lambda item: (-item[1], item[0]))


@given(RANKINGS, st.randoms())
def test_the_order_of_the_rankings_does_not_matter(
    rankings: list[list[str]], random: object
) -> None:
    shuffled = list(rankings)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert rrf(shuffled) == rrf(rankings)


@given(st.lists(st.text(max_size=3), unique=True))
def test_one_ranking_keeps_its_order(ranking: list[str]) -> None:
    assert [key for key, _ in rrf([ranking])] == ranking


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_a_k_that_cannot_be_used_is_refused(k: object) -> None:
    with pytest.raises(InvalidInput, match="at least 1"):
        rrf([["a"]], k=k)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [1.0, float("nan")], []])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    with pytest.raises(InvalidInput, match="for 2 rankings"):
        rrf([["a"], ["b"]], weights=weights)
