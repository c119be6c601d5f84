"""The cache of token ids: right, bounded, safe in threads, and kept in a file that is checked."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models.batches import in_threads
from numpy.typing import NDArray

from retrieval.errors import InvalidInput, RetrievalError, StoreFault
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


def cache_of(tokenizer: Tokenizer, max_bytes: int = 2**20) -> TokenCache:
    return TokenCache(max_bytes, tokenizer.fingerprint)


class Reader:
    """Ids that can be told from the text, and a record of which texts were asked for."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, texts: Sequence[str]) -> Iterator[NDArray[np.int32]]:
        for text in texts:
            self.read.append(text)
            yield np.array([ord(sign) for sign in text], dtype=np.int32)


def plain(max_bytes: int) -> TokenCache:
    return TokenCache(max_bytes, lambda: "sha256:plain")


# --- looking up -----------------------------------------------------------------------------


def test_ids_are_the_tokenizers_own_cold_and_warm(tokenizer: Tokenizer) -> None:
    cache = cache_of(tokenizer)
    expected = [ids.tolist() for ids in tokenizer.bare_ids(TEXTS)]
    for _ in range(2):
        assert [ids.tolist() for ids in cache.ids(TEXTS, tokenizer.bare_ids)] == expected
    assert len(cache) == len(TEXTS)


def test_only_what_is_missing_is_read() -> None:
    cache, reader = plain(2**20), Reader()
    cache.ids(["a", "b"], reader)
    found = cache.ids(["b", "c", "a", "d"], reader)
    assert reader.read == ["a", "b", "c", "d"]
    assert [ids.tolist() for ids in found] == [[98], [99], [97], [100]]


def test_pairs_are_the_same_with_and_without(tokenizer: Tokenizer) -> None:
    cache = cache_of(tokenizer)
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
    cache, reader = plain(2**20), Reader()
    found = cache.ids(["\ud800", "\ud801", "\ufffd"], reader)
    assert [ids.tolist() for ids in found] == [[0xD800], [0xD801], [0xFFFD]]
    assert len(cache) == 3


def test_what_is_handed_out_cannot_be_changed() -> None:
    cache = plain(2**20)
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
    cache, reader = plain(max_bytes), Reader()
    for texts in calls:
        found = cache.ids(texts, reader)
        assert [ids.tolist() for ids in found] == [[ord(sign) for sign in text] for text in texts]
        kept = list(cache._kept.values())
        assert cache.nbytes == sum(ids.nbytes + ENTRY_BYTES for ids in kept) <= max_bytes


def test_the_one_not_used_for_the_longest_time_goes() -> None:
    cache, reader = plain(3 * (ENTRY_BYTES + 4)), Reader()
    cache.ids(["a", "b", "c"], reader)
    cache.ids(["a"], reader)
    cache.ids(["d"], reader)
    reader.read.clear()
    cache.ids(["a", "c", "d"], reader)
    assert reader.read == []
    cache.ids(["b"], reader)
    assert reader.read == ["b"]


def test_a_text_larger_than_the_cache_drives_nothing_out() -> None:
    cache, reader = plain(2 * ENTRY_BYTES), Reader()
    cache.ids(["a"], reader)
    assert len(cache.ids(["b" * 1000], reader)[0]) == 1000
    assert len(cache) == 1
    cache.ids(["a"], reader)
    assert reader.read == ["a", "b" * 1000]


def test_no_bytes_keep_nothing() -> None:
    cache, reader = plain(0), Reader()
    for _ in range(2):
        assert cache.ids(["a"], reader)[0].tolist() == [97]
    assert reader.read == ["a", "a"]
    assert (len(cache), cache.nbytes) == (0, 0)


def test_it_can_be_cleared() -> None:
    cache, reader = plain(2**20), Reader()
    cache.ids(["a"], reader)
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)
    cache.ids(["a"], reader)
    assert reader.read == ["a", "a"]


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(
        InvalidInput, match="token_cache_bytes is -1, expected a whole number of at least 0"
    ):
        plain(-1)


def test_threads_share_it(tokenizer: Tokenizer) -> None:
    texts = [f"the fox {number} jumps over dog {number % 7}" for number in range(60)]
    expected = {text: tokenizer.bare_ids([text])[0].tolist() for text in texts}
    cache = cache_of(tokenizer, 20 * (ENTRY_BYTES + 60))
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


# --- files ----------------------------------------------------------------------------------


def test_a_saved_cache_spares_the_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = cache_of(tokenizer)
    first.ids(TEXTS, tokenizer.bare_ids)
    path = tmp_path / "collection" / "token-ids.npz"
    first.save(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "no draft stays"
    second = cache_of(tokenizer)
    assert second.load(path) == len(TEXTS)
    assert second.nbytes == first.nbytes
    reader = Reader()
    found = second.ids(TEXTS, reader)
    assert reader.read == []
    for ours, expected in zip(found, tokenizer.bare_ids(TEXTS), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_saving_again_replaces_the_file_even_an_empty_one(tmp_path: Path) -> None:
    path, cache, reader = tmp_path / "ids.npz", plain(2**20), Reader()
    for count, text in enumerate(["", "a", "b"]):
        cache.ids([text] if text else [], reader)
        cache.save(path)
        again = plain(2**20)
        assert again.load(path) == len(again) == count


def test_of_a_file_too_large_the_last_used_stay(tmp_path: Path) -> None:
    cache, reader = plain(2**20), Reader()
    cache.ids(["a", "b", "c"], reader)
    cache.ids(["a"], reader)
    cache.save(tmp_path / "ids.npz")
    small = plain(2 * (ENTRY_BYTES + 4))
    assert small.load(tmp_path / "ids.npz") == 3
    reader.read.clear()
    small.ids(["c", "a"], reader)
    assert reader.read == []


def test_another_tokenizers_file_is_refused(
    tiny_bert_reranker: Path, tiny_xlmr_reranker: Path, tmp_path: Path
) -> None:
    bert, xlmr = (Tokenizer(path, 128) for path in (tiny_bert_reranker, tiny_xlmr_reranker))
    cache = cache_of(bert)
    cache.ids(TEXTS, bert.bare_ids)
    cache.save(tmp_path / "ids.npz")
    other = cache_of(xlmr)
    with pytest.raises(InvalidInput, match="were made by the tokeniser sha256:") as caught:
        other.load(tmp_path / "ids.npz")
    assert "delete it" in caught.value.fix
    assert len(other) == 0


def test_the_same_tokenizer_elsewhere_has_the_same_fingerprint(
    make_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """Another folder, other weights, from its files and from the kept form."""
    one, two = (make_tiny_model("xlmr", "reranker", seed=seed) for seed in (1, 2))
    prints = [Tokenizer(path, 64, cache_dir=tmp_path).fingerprint() for path in (one, two, one)]
    assert len(set(prints)) == 1
    assert prints[0].startswith("sha256:")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no file of token ids at .*nowhere"):
        plain(100).load(tmp_path / "nowhere.npz")


def error_of_loading(cache: TokenCache, path: Path) -> RetrievalError | None:
    try:
        cache.load(path)
    except RetrievalError as error:
        return error
    return None


def test_damage_anywhere_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Each byte of the file changed, and the file cut at each place: an error or the right ids."""
    path = tmp_path / "ids.npz"
    cache, reader = plain(2**20), Reader()
    cache.ids(["abc", "de"], reader)
    cache.save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = rng.permutation(len(whole))[:250].tolist()
    damaged = [whole[:place] for place in places[:60]]
    damaged += [
        whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :]
        for place in places
    ]
    faults = 0
    for data in [*damaged, b"", b"no such format", b"\x93NUMPY", np.zeros(3).tobytes()]:
        path.write_bytes(data)
        fresh = plain(2**20)
        error = error_of_loading(fresh, path)
        if error is not None:
            assert str(path) in error.problem
            assert len(fresh) == 0
            faults += isinstance(error, StoreFault)
        else:
            reader.read.clear()
            found = fresh.ids(["abc", "de"], reader)
            assert reader.read == []
            assert [ids.tolist() for ids in found] == [[97, 98, 99], [100, 101]]
    assert faults > 100


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("format", np.array([99])),
        ("ids", np.array([1, 2], dtype=np.int32)),
        ("ids", np.array([-1, 2, 3], dtype=np.int32)),
        ("ids", np.array([1.0, 2.0, 3.0])),
        ("offsets", np.array([0, 4, 3])),
        ("offsets", np.array([], dtype=np.int64)),
        ("keys", np.zeros(8, dtype=np.uint8)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, name: str, change: NDArray[np.generic]
) -> None:
    path = tmp_path / "ids.npz"
    cache = plain(2**20)
    cache.ids(["ab", "c"], Reader())
    cache.save(path)
    with np.load(path) as stored:
        arrays = {**stored, name: change}
    np.savez(path, **arrays)
    with pytest.raises(StoreFault, match="cannot be read") as caught:
        plain(2**20).load(path)
    assert "Delete the file" in caught.value.fix


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ids.npz"
    cache = plain(2**20)
    cache.ids(["ab"], Reader())
    cache.save(path)
    before = path.read_bytes()

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    cache.ids(["cd"], Reader())
    with pytest.raises(RetrievalError, match="no space left to write the token ids"):
        cache.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFault, match="could not write the token ids"):
        plain(100).save(tmp_path / "file" / "ids.npz")
