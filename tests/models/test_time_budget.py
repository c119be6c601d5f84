"""Re-ranking within a time, on a reranker that takes a known time by a clock of its own."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.errors import InvalidInput
from retrieval.models.rerankers import time_budget
from retrieval.models.rerankers.time_budget import score_within
from retrieval.types import RerankerInfo, Scores


class Timed:
    """A call takes `overhead` seconds, a character `per_character`; a pair's score is its number.

    A passage is its number, padded with blanks to a length.
    """

    info = RerankerInfo("timed", "sha256:1", "cross-encoder", 1000)

    def __init__(
        self, per_character: float, overhead: float = 0.0, *, windows: bool = False
    ) -> None:
        self.now = 0.0
        self.per_character = per_character
        self.overhead = overhead
        self.windows = windows
        self.calls: list[list[tuple[str, str]]] = []

    def clock(self) -> float:
        return self.now

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
        self.calls.append(list(pairs))
        read = [len(query) + len(passage) for query, passage in pairs]
        if not self.windows:
            read = [min(n, 6 * self.info.max_length) for n in read]
        self.now += self.overhead + self.per_character * sum(read)
        numbers = np.array([int(passage) for _, passage in pairs])
        if progress is not None:
            progress(len(pairs), len(pairs))
        return Scores(
            values=numbers.astype(np.float64),
            truncated=numbers % 3 == 0,
            tokens=numbers * 10,
            spans=np.stack([numbers, numbers + 1], axis=1) if self.windows else None,
        )

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return scores


def group(size: int, query: str = "q", characters: int = 100, first: int = 0) -> Any:
    return [(query, f"{n:<{characters - len(query)}}") for n in range(first, first + size)]


def taken(reranker: Timed, groups: Any, milliseconds: float, **options: Any) -> Any:
    """(depth of each group, milliseconds it took, calls it took)."""
    start, calls = reranker.now, len(reranker.calls)
    scores = score_within(reranker, groups, milliseconds, clock=reranker.clock, **options)
    depths = [len(own.values) for own in scores]
    return depths, (reranker.now - start) * 1000, len(reranker.calls) - calls


def test_an_ample_budget_reads_everything_in_two_calls_and_then_in_one() -> None:
    reranker = Timed(per_character=1e-5)  # a pair takes 1 ms
    assert taken(reranker, [group(50)], 1000) == ([50], pytest.approx(50), 2)
    assert taken(reranker, [group(50)], 1000) == ([50], pytest.approx(50), 1)


def test_the_first_chunk_on_an_unknown_reranker_is_small() -> None:
    reranker = Timed(per_character=1e-2)  # a pair takes a second
    assert taken(reranker, [group(50)], 10)[0] == [time_budget.FIRST_PAIRS]
    assert taken(reranker, [group(50)], 10) == ([1], pytest.approx(1000), 1)  # known by now


@pytest.mark.parametrize("overhead", [0.0, 0.002, 0.010])
@pytest.mark.parametrize("milliseconds", [20, 50, 200, 1000])
def test_a_known_reranker_uses_its_budget_and_keeps_it(overhead: float, milliseconds: int) -> None:
    reranker = Timed(per_character=1e-5, overhead=overhead)
    for _ in range(5):
        taken(reranker, [group(4000)], milliseconds)
    (depth,), spent, calls = taken(reranker, [group(4000)], milliseconds)
    assert spent <= milliseconds + 1.0 + 1000 * overhead  # one pair, or what one call costs
    assert spent + 1000 * overhead >= 0.7 * milliseconds
    assert depth >= 1
    assert calls <= 6


@pytest.mark.parametrize("factor", [0.2, 0.5, 2.0, 5.0])
def test_a_change_of_speed_is_noticed_within_a_search(factor: float) -> None:
    reranker = Timed(per_character=1e-5)
    for _ in range(3):
        taken(reranker, [group(400)], 100)
    reranker.per_character *= factor
    _, spent, _ = taken(reranker, [group(4000)], 100)
    # The first chunk was to take 60 of the 100 ms.
    assert spent <= max(100 + factor, 60 * factor + 1)
    _, spent, _ = taken(reranker, [group(4000)], 100)
    assert spent <= 100 + factor


def test_a_slow_first_call_is_forgotten() -> None:
    reranker = Timed(per_character=1e-5, overhead=2.0)  # loading, compiling
    assert taken(reranker, [group(50)], 100)[0] == [time_budget.FIRST_PAIRS]
    reranker.overhead = 0.0
    taken(reranker, [group(50)], 100)
    assert taken(reranker, [group(50)], 100)[0] == [50]


def test_queries_take_turns_by_rank() -> None:
    reranker = Timed(per_character=1e-5)
    for _ in range(3):
        taken(reranker, [group(100)], 50)
    sizes = [30, 2, 30, 0, 30]
    groups = [group(n, query=f"q{i}", first=1000 * i) for i, n in enumerate(sizes)]
    scores = score_within(reranker, groups, 40, clock=reranker.clock)
    depths = [len(own.values) for own in scores]
    assert depths[1] == 2
    assert depths[3] == 0
    assert max(depths[0], depths[2], depths[4]) - min(depths[0], depths[2], depths[4]) <= 1
    assert 5 <= depths[0] < 30
    for i, own in enumerate(scores):
        first = [1000 * i + n for n in range(depths[i])]
        assert own.values.tolist() == first
        assert own.truncated.tolist() == [n % 3 == 0 for n in first]
        assert own.tokens is None if not first else own.tokens.tolist() == [10 * n for n in first]


def test_one_pair_of_every_query_is_scored_whatever_it_takes() -> None:
    reranker = Timed(per_character=1.0)
    groups = [group(5, query=f"query {i}") for i in range(20)]
    for _ in range(2):
        assert taken(reranker, [*groups, []], 0.001)[0] == [1] * 20 + [0]


def test_what_is_cut_unread_costs_nothing() -> None:
    """A passage of a million characters says nothing of how fast the others will be."""
    reranker = Timed(per_character=1e-5)
    long = [("q", f"{0:<1000000}"), ("q", f"{1:<1000000}")]
    taken(reranker, [long], 1000)
    _, spent, _ = taken(reranker, [long[:1] + group(1000)], 200)
    assert spent <= 200 + 60


def test_where_passages_are_read_by_windows_their_whole_length_counts() -> None:
    reranker = Timed(per_character=1e-6, windows=True)  # 100 characters 0.1 ms; a million 1 s
    taken(reranker, [group(10)], 100)
    deep = [*group(20), ("q", f"{20:<1000000}"), *group(20, first=21)]
    (depth,), spent, _ = taken(reranker, [deep], 100)
    assert depth == 20
    assert spent < 100


def test_spans_of_chunks_are_joined_and_whole_passages_have_their_own() -> None:
    reranker = Timed(per_character=1e-5, windows=True)
    (own,) = score_within(reranker, [group(6)], 100, clock=reranker.clock)
    assert own.spans is not None
    assert own.spans.tolist() == [[n, n + 1] for n in range(6)]

    class Now(Timed):
        def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
            self.windows = bool(self.calls)
            return super().score(pairs, progress=progress)

    (own,) = score_within(later := Now(per_character=1e-5), [group(6)], 100, clock=later.clock)
    assert own.spans is not None
    assert own.spans.tolist() == [[0, 99], [0, 99], *([n, n + 1] for n in range(2, 6))]


def test_progress_counts_all_pairs() -> None:
    seen: list[tuple[int, int]] = []
    reranker = Timed(per_character=1e-5)
    taken(reranker, [group(10), group(5)], 1000, progress=lambda *step: seen.append(step))
    assert seen == [(2, 15), (15, 15)]


def test_nothing_to_score() -> None:
    reranker = Timed(per_character=1.0)
    (own,) = score_within(reranker, [[]], 10, clock=reranker.clock)
    assert own.values.dtype == np.float64
    assert len(own.values) == len(own.truncated) == 0
    assert score_within(reranker, [], 10) == []
    assert reranker.calls == []


def test_what_was_learned_goes_with_its_reranker() -> None:
    gc.collect()
    before = len(time_budget._rates)
    reranker = Timed(per_character=1e-5)
    taken(reranker, [group(3)], 10)
    assert len(time_budget._rates) == before + 1
    del reranker
    gc.collect()
    assert len(time_budget._rates) == before


def test_a_reranker_that_cannot_be_kept_works() -> None:
    class Unhashable(Timed):
        __hash__ = None  # type: ignore[assignment]

    reranker = Unhashable(per_character=1e-5)
    assert taken(reranker, [group(20)], 1000)[0] == [20]


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, "50", None])
def test_a_budget_is_a_positive_number(value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"budget_ms is .* positive number of milliseconds"):
        score_within(Timed(1.0), [group(1)], value)
