"""Tests of significance: against exact counts, against scipy, and by simulation of the null."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from retrieval.errors import InvalidInput
from retrieval.evaluation import significance
from retrieval.evaluation.significance import (
    bootstrap_interval,
    compare_all,
    holm,
    queries_needed,
    randomisation_test,
    smallest_difference,
)


def test_few_queries_are_tested_exactly() -> None:
    own = [0.4, -0.1, 0.25, 0.0, 0.3, -0.05, 0.1]
    seen = abs(sum(own))
    flips = [abs(sum(s * d for s, d in zip(signs, own, strict=True))) for signs in
             product((-1, 1), repeat=len(own))]  # fmt: skip
    expected = sum(one >= seen - 1e-12 for one in flips) / len(flips)
    assert randomisation_test(np.array([own]))[0] == pytest.approx(expected)


def test_many_queries_agree_with_scipys_permutation_test() -> None:
    own = np.random.default_rng(5).normal(0.05, 0.2, 60) + 0.03
    found = stats.permutation_test(
        (own,), lambda x, axis: x.mean(axis=axis), permutation_type="samples",
        n_resamples=50_000, vectorized=True, rng=np.random.default_rng(1),
    )  # fmt: skip
    ours = randomisation_test(own[None, :], flips=50_000)[0]
    assert 0.01 < ours < 0.5
    assert ours == pytest.approx(found.pvalue, abs=0.01)


@pytest.mark.parametrize("shape", ["normal", "skewed", "many ties"])
def test_p_is_uniform_where_there_is_no_difference(shape: str) -> None:
    random = np.random.default_rng(11)
    tests, queries = 2000, 40
    if shape == "normal":
        drawn = random.normal(0, 1, (tests, queries))
    else:
        worth = random.exponential(1, (tests, queries))
        if shape == "many ties":  # as reciprocal ranks: mostly 0, few values
            worth = random.choice([0.0, 0.0, 0.5, 1.0], (tests, queries))
        drawn = worth * random.choice([-1.0, 1.0], (tests, queries))
    p = randomisation_test(drawn, flips=2000, seed=3)
    for level in (0.01, 0.05, 0.2, 0.5):  # never too often, by more than chance allows
        false = int((p <= level).sum())
        assert stats.binom.sf(false - 1, tests, level) > 1e-3
    if shape != "many ties":  # where sums are never equal, it is not too rarely either
        assert stats.kstest(p, "uniform").pvalue > 1e-3


def test_floats_added_in_another_order_are_equal() -> None:
    # 0.1 + 0.2 + 0.3 and its like differ in the last bit by order; every flip ties with another
    own = np.tile([0.1, 0.2, 0.3, -0.6], 10)
    assert randomisation_test(own[None, :])[0] == 1.0
    assert randomisation_test(np.zeros((1, 40)))[0] == 1.0


def test_tests_in_slices_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(2).normal(0.02, 0.1, (7, 50))
    whole = randomisation_test(drawn, flips=1000)
    low, high = bootstrap_interval(drawn, samples=1000)
    monkeypatch.setattr(significance, "_AT_ONCE", 3000)
    np.testing.assert_allclose(randomisation_test(drawn, flips=1000), whole, atol=0.03)
    np.testing.assert_allclose(bootstrap_interval(drawn, samples=1000), (low, high))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9]) == [0.9]


@given(st.lists(st.floats(0, 1), max_size=30))
def test_holm_keeps_the_order_and_never_lowers(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for (p, after), (other, after_other) in combinations(zip(p_values, adjusted, strict=True), 2):
        assert (p <= other) <= (after <= after_other) or p == other
    assert all(p <= after <= 1 for p, after in zip(p_values, adjusted, strict=True))


def test_at_most_one_family_in_twenty_has_a_false_discovery() -> None:
    """Five settings that are equally good, one that is worse: ten true nulls in each family."""
    random = np.random.default_rng(21)
    families, false, found = 400, 0, 0
    for _ in range(families):
        easy = random.uniform(0.2, 0.8, 30)
        values = {f"same{one}": easy + random.normal(0, 0.1, 30) for one in range(5)}
        values["worse"] = easy - 0.12 + random.normal(0, 0.1, 30)
        names = list(values)
        pairs = list(combinations(names, 2))
        drawn = np.array([values[first] - values[second] for first, second in pairs])
        adjusted = holm(randomisation_test(drawn, flips=2000, seed=1).tolist())
        hits = {pair for pair, p in zip(pairs, adjusted, strict=True) if p <= 0.05}
        false += any("worse" not in pair for pair in hits)
        found += any("worse" in pair for pair in hits)
    assert stats.binom.sf(false - 1, families, 0.05) > 1e-3
    assert found > 0.9 * families  # and it does find what is there


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 276])
@pytest.mark.parametrize("queries", [20, 60, 300])
def test_the_smallest_difference_is_shown_four_times_in_five(queries: int, alpha: float) -> None:
    deviation = 0.21
    smallest = smallest_difference(deviation, queries, alpha=alpha)
    assert smallest is not None
    shift = smallest / deviation * math.sqrt(queries)
    bound = stats.t.ppf(1 - alpha / 2, queries - 1)
    power = stats.nct.sf(bound, queries - 1, shift)
    assert power == pytest.approx(0.8, abs=0.015)
    assert queries_needed(smallest, deviation, alpha=alpha) in (queries, queries + 1)


def test_what_cannot_be_shown_is_none() -> None:
    assert smallest_difference(0.2, 1) is None
    assert smallest_difference(math.nan, 100) is None
    assert queries_needed(0.0, 0.2) is None
    assert queries_needed(0.1, 0.0) == 2


def test_all_pairs_are_compared_as_one_family() -> None:
    random = np.random.default_rng(4)
    easy = random.uniform(0.2, 0.8, 80)
    values = {"good": easy + 0.1, "same": easy + 0.1, "near": easy + random.normal(0.1, 0.05, 80),
              "bad": easy}  # fmt: skip
    compared = {(one.first, one.second): one for one in compare_all(values)}
    assert list(compared) == list(combinations(values, 2))
    assert holm([one.p for one in compared.values()]) == [one.p_holm for one in compared.values()]
    same = compared["good", "same"]
    assert (same.difference, same.low, same.high, same.p, same.equal) == (0, 0, 0, 1, 80)
    assert same.queries_needed is None
    clear = compared["good", "bad"]
    assert clear.difference == pytest.approx(0.1)
    assert clear.significant
    assert (clear.better, clear.worse) == (80, 0)
    turned = compared["near", "bad"].reversed()
    assert (turned.first, turned.second) == ("bad", "near")
    assert turned.high < 0
    assert turned.low == -compared["near", "bad"].high
    assert compare_all(values) == compare_all(values)


def test_one_of_a_thousand_comparisons_can_still_be_significant() -> None:
    """With 10,000 flips no p could be small enough for a thousand comparisons."""
    random = np.random.default_rng(8)
    easy = random.uniform(0.2, 0.8, 50)
    values = {str(one): easy + random.normal(0, 0.02, 50) for one in range(45)}
    values["bad"] = easy - 0.2
    clear = [one for one in compare_all(values) if one.second == "bad"]
    assert all(one.significant for one in clear)


@pytest.mark.parametrize("values", [{"a": [1.0]}, {"a": [], "b": []}, {"a": [1.0], "b": [1.0, 0]}])
def test_what_cannot_be_compared_is_refused(values: dict[str, list[float]]) -> None:
    with pytest.raises(InvalidInput, match="expected two settings"):
        compare_all(values)
