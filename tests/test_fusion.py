"""Fusion by ranks and by scores: its values, its order, and what it refuses."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import InvalidInput
from retrieval.fusion import dbsf, rrf

RANKINGS = st.lists(st.lists(st.sampled_from("abcdefgh"), unique=True), max_size=5)
SCORE = st.floats(-1e6, 1e6, width=32)
SCORED = st.lists(
    st.dictionaries(st.sampled_from("abcdefgh"), SCORE).map(lambda found: list(found.items())),
    max_size=4,
)


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


# --- distribution-based score fusion ----------------------------------------------------------


def test_scores_are_mapped_by_mean_and_three_deviations_of_a_sample() -> None:
    fused = dict(dbsf([[("a", 1.0), ("b", 2.0), ("c", 3.0)]]))  # mean 2, deviation 1
    assert fused == pytest.approx({"a": 2 / 6, "b": 3 / 6, "c": 4 / 6})


def test_a_score_beyond_three_deviations_is_not_cut_off() -> None:
    many = [(str(i), 0.0) for i in range(40)]
    fused = dict(dbsf([[("far", 100.0), *many]]))
    assert fused["far"] > 1.0
    assert fused["0"] < 0.5


# quarters: sums and means of equal scores are exact in theirs too
QUARTERS = st.integers(-4000, 4000).map(lambda number: number / 4)


@settings(deadline=None)  # the first example imports qdrant_client
@given(st.lists(st.dictionaries(st.integers(0, 30), QUARTERS, max_size=12), max_size=4))
def test_dbsf_agrees_with_qdrant(rankings: list[dict[int, float]]) -> None:
    from qdrant_client.hybrid.fusion import distribution_based_score_fusion
    from qdrant_client.models import ScoredPoint

    points = [[ScoredPoint(id=i, version=0, score=s) for i, s in one.items()] for one in rankings]
    theirs = {str(p.id): p.score for p in distribution_based_score_fusion(points, limit=1000)}
    ours = dict(dbsf([[(str(i), score) for i, score in one.items()] for one in rankings]))
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def test_equal_scores_and_a_single_one_count_a_half() -> None:
    assert dbsf([[("b", 0.1), ("a", 0.1), ("c", 0.1)]]) == [("a", 0.5), ("b", 0.5), ("c", 0.5)]
    assert dbsf([[("a", -7.0)], [("a", 3.0)], []]) == [("a", 1.0)]
    assert dbsf([]) == dbsf([[], []]) == []


def test_dbsf_sees_how_far_a_winner_is_ahead_where_ranks_do_not() -> None:
    far_ahead = [("a", 9.0), ("b", 1.2), ("c", 1.1), ("d", 1.0)]
    close = [("b", 0.53), ("a", 0.52), ("d", 0.51), ("c", 0.50)]
    by_rank = dict(rrf([[key for key, _ in far_ahead], [key for key, _ in close]]))
    by_score = dict(dbsf([far_ahead, close]))
    assert by_rank["a"] == by_rank["b"]
    assert by_score["a"] > by_score["b"] + 0.1


def test_dbsf_weighs_rankings_and_drops_one_of_weight_zero() -> None:
    rankings = [[("a", 2.0), ("b", 1.0)], [("b", 8.0), ("a", 4.0)]]
    assert dbsf(rankings, weights=[2.0, 1.0])[0][0] == "a"
    assert dbsf(rankings, weights=[1.0, 2.0])[0][0] == "b"
    assert dict(dbsf(rankings, weights=[1, 0])) == pytest.approx(dict(dbsf(rankings[:1])))


def test_dbsf_takes_the_better_score_of_an_id_listed_twice() -> None:
    twice = [("a", 1.0), ("b", 2.0), ("a", 3.0), ("c", 1.0)]
    assert dbsf([twice]) == dbsf([[("c", 1.0), ("b", 2.0), ("a", 3.0)]])


@given(SCORED)
def test_dbsf_gives_every_id_once_best_first(rankings: list[list[tuple[str, float]]]) -> None:
    fused = dbsf(rankings)
    keys = [key for key, _ in fused]
    assert sorted(keys) == sorted({key for ranking in rankings for key, _ in ranking})
    assert fused == sorted(fused, key=lambda item: (-item[1], item[0]))


@given(SCORED, st.randoms())
def test_the_order_of_rankings_and_of_scores_does_not_matter_to_dbsf(
    rankings: list[list[tuple[str, float]]], random: object
) -> None:
    shuffled = [list(ranking) for ranking in rankings]
    for part in (shuffled, *shuffled):
        random.shuffle(part)  # type: ignore[attr-defined]
    assert dbsf(shuffled) == dbsf(rankings)


@given(st.dictionaries(st.text(max_size=3), st.integers(-1000, 1000)), st.integers(-9, 9))
def test_dbsf_is_blind_to_the_unit_of_scores(scores: dict[str, int], shift: int) -> None:
    plain = dict(dbsf([[(key, float(score)) for key, score in scores.items()]]))
    other = dict(dbsf([[(key, 7.0 * score + shift) for key, score in scores.items()]]))
    assert other == pytest.approx(plain)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1e200])
def test_dbsf_refuses_a_score_that_is_no_number(score: float) -> None:
    with pytest.raises(InvalidInput, match="'b' is"):
        dbsf([[("a", 1.0), ("b", score)]])


def test_dbsf_refuses_weights_that_do_not_fit() -> None:
    with pytest.raises(InvalidInput, match="for 1 rankings"):
        dbsf([[("a", 1.0)]], weights=[1.0, 2.0])
