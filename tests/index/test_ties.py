"""Ties, which engines leave open."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from retrieval.index.ties import SPARE, Scored, leading


def engine(scores: dict[str, float], asked: list[int], seed: int = 0) -> Callable[[int], Scored]:
    """An engine that breaks ties at random, as engines may."""

    def fetch(count: int) -> list[tuple[str, float]]:
        asked.append(count)
        items = list(scores.items())
        random.Random(seed + count).shuffle(items)
        return sorted(items, key=lambda item: -item[1])[:count]

    return fetch


def best(fetch: Callable[[int], Scored], limit: int) -> Scored:
    return leading(fetch(limit + SPARE), limit, 6, fetch)


@pytest.mark.parametrize("tied", [1, 5, 100, 3_000])
def test_the_cut_through_a_tie_goes_by_id(tied: int) -> None:
    scores = {f"t{i:05}": 0.5 for i in range(tied)} | {"zz": 0.9, "low": 0.1}
    for limit in (1, 2, 3, 7):
        asked: list[int] = []
        found = best(engine(scores, asked), limit)
        everything = [("zz", 0.9), *[(f"t{i:05}", 0.5) for i in range(tied)], ("low", 0.1)]
        assert found == everything[:limit]


def test_no_more_is_fetched_than_needed() -> None:
    asked: list[int] = []
    best(engine({f"d{i}": 1 - i / 1_000 for i in range(900)}, asked), 100)
    assert len(asked) == 1
    assert asked[0] < 120


def test_noise_below_float32_is_a_tie() -> None:
    found = best(lambda _: [("b", 0.70000001), ("a", 0.69999999), ("c", 0.7000031)], 3)
    assert found == [("c", 0.700003), ("a", 0.7), ("b", 0.7)]


def test_a_tie_without_end_ends() -> None:
    asked: list[int] = []
    found = best(engine({f"{i:06}": 1.0 for i in range(50_000)}, asked), 10)
    assert len(found) == 10
    assert max(asked) <= 10_010
