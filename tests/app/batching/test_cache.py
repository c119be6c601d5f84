"""Caches stay within their bytes, which are the real ones."""

from __future__ import annotations

import random
import threading
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.batching.cache import ENTRY_BYTES, ByteCache, digest
from app.batching.encoder import Row, query_cache
from app.batching.reranker import Score, score_cache
from app.batching.tokens import LEAST_TOKENS, pair_tokens, text_tokens
from app.types import Observer
from retrieval.types import LexicalWeights


class Looks(Observer):
    def __init__(self) -> None:
        self.hits = self.misses = self.held = 0

    def cache(self, name: str, hits: int, misses: int, held_bytes: int) -> None:
        self.hits += hits
        self.misses += misses
        self.held = held_bytes


def key(number: int) -> bytes:
    return digest("key", str(number))


def test_the_least_recently_used_goes_first() -> None:
    looks = Looks()
    cache: ByteCache[str] = ByteCache("queries", 3 * (ENTRY_BYTES + 10), len, observer=looks)
    cache.put([(key(n), "x" * 10) for n in range(3)])
    assert cache.get([key(0)]) == ["x" * 10]
    cache.put([(key(3), "y" * 10)])
    assert cache.get([key(n) for n in range(4)]) == ["x" * 10, None, "x" * 10, "y" * 10]
    assert (looks.hits, looks.misses) == (4, 1)
    assert looks.held == cache.held_bytes == 3 * (ENTRY_BYTES + 10)


def test_what_is_too_large_is_not_kept_and_displaces_nothing() -> None:
    cache: ByteCache[str] = ByteCache("queries", 2 * ENTRY_BYTES, len)
    cache.put([(key(1), "small")])
    cache.put([(key(2), "x" * 5000)])
    assert cache.get([key(1), key(2)]) == ["small", None]


def test_no_bytes_keep_nothing() -> None:
    looks = Looks()
    cache: ByteCache[str] = ByteCache("scores", 0, len, observer=looks)
    cache.put([(key(1), "")])
    assert cache.get([key(1)]) == [None]
    assert looks.misses == 0, "a cache that is switched off has no rate of hits"


def vector_row(_: int) -> Row:
    return Row(np.zeros(384, dtype=np.float32), 12, False)


def m3_row(number: int) -> Row:
    weights = LexicalWeights(np.arange(9, dtype=np.int32), np.ones(9, dtype=np.float32))
    return Row(
        np.zeros(64, dtype=np.float32),
        number,
        False,
        weights,
        np.zeros((9, 64), dtype=np.float32),
    )


def score_row(number: int) -> Score:
    return Score(number / 7, False, 1000 + number, (number, 5000 + number))


@pytest.mark.parametrize(
    ("make_cache", "row"),
    [(query_cache, vector_row), (query_cache, m3_row), (score_cache, score_row)],
)
def test_held_bytes_are_the_real_ones(
    make_cache: Callable[[int], ByteCache[object]], row: Callable[[int], object]
) -> None:
    cache = make_cache(2**21)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(6000):
            cache.put([(key(number), row(number))])
        real = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert cache.held_bytes <= 2**21
    assert len(cache) > 300
    assert real == pytest.approx(cache.held_bytes, rel=0.2)


def test_many_threads_keep_it_within_its_bytes() -> None:
    cache: ByteCache[tuple[int, str]] = ByteCache("scores", 50_000, lambda value: len(value[1]))
    wrong: list[object] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(1500):
            number = rng.randrange(300)
            if rng.random() < 0.5:
                cache.put([(key(number), (number, "x" * (number % 90)))])
            value = cache.get([key(number)])[0]
            if value is not None and value[0] != number:
                wrong.append(value)
            if cache.held_bytes > 50_000:
                wrong.append("over")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(cache) > 20


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_different_parts_have_different_keys(one: list[str], other: list[str]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


def test_keys_take_what_is_no_text() -> None:
    assert digest("\ud800") != digest("\ud801")


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("", LEAST_TOKENS, LEAST_TOKENS),
        ("a", LEAST_TOKENS, LEAST_TOKENS),
        ("word " * 80, 90, 110),
        ("北京是中国的首都" * 10, 75, 85),
        ("Привет, как дела сегодня? " * 4, 30, 90),
        ("x" * 10**6, 512, 512),
        ("汉" * 10**6, 512, 512),
        ("\ud800", LEAST_TOKENS, LEAST_TOKENS),
    ],
)
def test_estimated_tokens(text: str, least: int, most: int) -> None:
    assert least <= text_tokens(text, 512) <= most
    assert text_tokens(text, 512) <= pair_tokens(text, text, 512) <= 512
