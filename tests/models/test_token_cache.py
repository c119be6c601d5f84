"""The cache of token ids: right, bounded, safe in threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models.batches import in_threads
from numpy.typing import NDArray

from retrieval.errors import InvalidInput
from retrieval.models.tokenization.cache import ENTRY_BYTES, TokenCache
from retrieval.models.tokenization.tokenizer import Tokenizer

TEXTS = [
    "the quick brown fox",
    "",
    "dog " * 300,
    "北京是中国的首都",
    "\ud800 lone",
    "\x00 \u202b א",
]


@pytest.fixture(params=["tiny_bert_reranker", "tiny_xlmr_reranker"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(request.getfixturevalue(request.param), 128)


class Reader:
    """Ids that can be told from the text, and a record of which texts were asked for."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Iterator[NDArray[np.int32]]:
        for text in texts:
            self.read.append(text)
            yield np.array([ord(sign) for sign in text], dtype=np.int32)


# --- looking up -----------------------------------------------------------------------------


def test_ids_are_the_tokenizers_own_cold_and_warm(tokenizer: Tokenizer) -> None:
    cache = TokenCache(2**20)
    expected = [ids.tolist() for ids in tokenizer.bare_ids(TEXTS)]
    for _ in range(2):
        assert [ids.tolist() for ids in cache.ids(TEXTS, tokenizer.bare_ids)] == expected
    assert len(cache) == len(TEXTS)


def test_only_what_is_missing_is_read() -> None:
    cache, reader = TokenCache(2**20), Reader()
    cache.ids(["a", "b"], reader)
    found = cache.ids(["b", "c", "a", "d"], reader)
    assert reader.read == ["a", "b", "c", "d"]
    assert [ids.tolist() for ids in found] == [[98], [99], [97], [100]]


def test_pairs_are_the_same_with_and_without(tokenizer: Tokenizer) -> None:
    cache = TokenCache(2**20)
    pairs = [(query, text) for query in ("what?", "dog " * 120) for text in TEXTS]
    without = tokenizer.encode_pairs(pairs)
    for _ in range(2):
        ours = tokenizer.encode_pairs(pairs, cache=cache)
        for name in ("ids", "offsets", "full_lengths", "truncated"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(without, name))
        assert (ours.type_ids is None) == (without.type_ids is None)
        if ours.type_ids is not None and without.type_ids is not None:
            np.testing.assert_array_equal(ours.type_ids, without.type_ids)
    assert len(cache) == len(TEXTS), "queries are not kept"


def test_texts_that_differ_in_a_surrogate_are_kept_apart() -> None:
    cache, reader = TokenCache(2**20), Reader()
    found = cache.ids(["\ud800", "\ud801", "\ufffd"], reader)
    assert [ids.tolist() for ids in found] == [[0xD800], [0xD801], [0xFFFD]]
    assert len(cache) == 3


def test_what_is_handed_out_cannot_be_changed() -> None:
    cache = TokenCache(2**20)
    (ids,) = cache.ids(["abc"], Reader())
    with pytest.raises(ValueError, match="read-only"):
        ids[0] = 7


# --- size -----------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    calls=st.lists(st.lists(st.text("abc", max_size=60), unique=True, max_size=6), max_size=12),
    max_bytes=st.integers(0, 2500),
)
def test_the_bound_holds_and_the_ids_are_right(calls: list[list[str]], max_bytes: int) -> None:
    cache, reader = TokenCache(max_bytes), Reader()
    for texts in calls:
        found = cache.ids(texts, reader)
        assert [ids.tolist() for ids in found] == [[ord(sign) for sign in text] for text in texts]
        kept = list(cache._kept.values())
        assert cache.nbytes == sum(ids.nbytes + ENTRY_BYTES for ids in kept) <= max_bytes


def test_the_one_not_used_for_the_longest_time_goes() -> None:
    cache, reader = TokenCache(3 * (ENTRY_BYTES + 4)), Reader()
    cache.ids(["a", "b", "c"], reader)
    cache.ids(["a"], reader)
    cache.ids(["d"], reader)
    reader.read.clear()
    cache.ids(["a", "c", "d"], reader)
    assert reader.read == []
    cache.ids(["b"], reader)
    assert reader.read == ["b"]


def test_a_text_larger_than_the_cache_drives_nothing_out() -> None:
    cache, reader = TokenCache(2 * ENTRY_BYTES), Reader()
    cache.ids(["a"], reader)
    assert len(cache.ids(["b" * 1000], reader)[0]) == 1000
    assert len(cache) == 1
    cache.ids(["a"], reader)
    assert reader.read == ["a", "b" * 1000]


def test_no_bytes_keep_nothing() -> None:
    cache, reader = TokenCache(0), Reader()
    for _ in range(2):
        assert cache.ids(["a"], reader)[0].tolist() == [97]
    assert reader.read == ["a", "a"]
    assert (len(cache), cache.nbytes) == (0, 0)


def test_it_can_be_cleared() -> None:
    cache, reader = TokenCache(2**20), Reader()
    cache.ids(["a"], reader)
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)
    cache.ids(["a"], reader)
    assert reader.read == ["a", "a"]


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(
        InvalidInput, match="token_cache_bytes is -1, expected a whole number of at least 0"
    ):
        TokenCache(-1)


def test_threads_share_it(tokenizer: Tokenizer) -> None:
    texts = [f"the fox {number} jumps over dog {number % 7}" for number in range(60)]
    expected = {text: tokenizer.bare_ids([text])[0].tolist() for text in texts}
    cache = TokenCache(20 * (ENTRY_BYTES + 60))
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        order = np.random.default_rng(seed)
        start.wait()
        for _ in range(40):
            chosen = [texts[place] for place in order.permutation(60)[:12]]
            found = [ids.tolist() for ids in cache.ids(chosen, tokenizer.bare_ids)]
            assert found == [expected[text] for text in chosen]

    in_threads(work)
    kept = list(cache._kept.values())
    assert 0 < cache.nbytes == sum(ids.nbytes + ENTRY_BYTES for ids in kept) <= cache.max_bytes
