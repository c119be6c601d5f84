"""Batched models give what the wrapped ones give, to whoever asks and however many ask at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder
from numpy.typing import NDArray

from app.batching.deadline import Control
from app.batching.encoder import BatchedEncoder, query_cache
from app.batching.reranker import BatchedReranker, score_cache
from app.errors import DeadlinePassed
from app.types import Observer, TextKind
from retrieval import BiEncoder, CrossEncoderReranker, LateInteractionReranker
from retrieval.errors import InvalidInput
from retrieval.types import (
    Encoder,
    Encoding,
    FloatArray,
    MultiEncoder,
    ProgressCallback,
    Reranker,
    RerankerInfo,
    Scores,
)

WORDS = ["copy", "whole", "directory", "path", "file", "error", "vector", "query", "index"]
TEXTS = [f"{n} " + " ".join(WORDS[i % 9] for i in range(n, n + 3 + n % 9)) for n in range(40)]
KINDS: tuple[TextKind, ...] = ("query", "passage")
PAIRS = [(TEXTS[n % 7], TEXTS[n]) for n in range(40)]


class Cached(Observer):
    def __init__(self) -> None:
        self.looks: list[tuple[str, int, int]] = []

    def cache(self, name: str, hits: int, misses: int, held_bytes: int) -> None:
        self.looks.append((name, hits, misses))


class Recorder(HashingEncoder):
    """Keeps the calls; refuses a text; may be slow."""

    def __init__(self, name: str = "hashing") -> None:
        super().__init__(name)
        self.calls: list[tuple[str, list[str]]] = []
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()
        self.closed = 0

    async def held(self, batched: BatchedEncoder) -> asyncio.Task[Encoding]:
        """The model is busy with a query until `free.set()`."""
        self.free.clear()
        task = asyncio.create_task(batched.encode_async(["first"], "query"))
        assert await asyncio.to_thread(self.entered.wait, 10)
        return task

    def encode_queries(self, queries: Sequence[str], *, progress: Any = None) -> FloatArray:
        self.calls.append(("query", list(queries)))
        self.entered.set()
        assert self.free.wait(10)
        self._refuse(queries)
        return super().encode_queries(queries)

    def encode_passages(self, passages: Sequence[str], *, progress: Any = None) -> Encoding:
        self.calls.append(("passage", list(passages)))
        self._refuse(passages)
        return super().encode_passages(passages)

    def close(self) -> None:
        self.closed += 1

    def _refuse(self, texts: Sequence[str]) -> None:
        for index, text in enumerate(texts):
            if text == "bad":
                raise InvalidInput(f"text {index} is bad", fix="Leave it out.")


class Overlap:
    """A reranker: words in common. With windows it says which part it read."""

    def __init__(self, *, windows: bool = False, counts: bool = True) -> None:
        self.info = RerankerInfo("overlap", "sha256:overlap", "cross-encoder", 64)
        self.windows, self.counts = windows, counts
        self.calls: list[list[tuple[str, str]]] = []

    def score(
        self, pairs: Sequence[tuple[str, str]], *, progress: ProgressCallback | None = None
    ) -> Scores:
        self.calls.append(list(pairs))
        values = [len(set(q.split()) & set(p.split())) / 3 for q, p in pairs]
        sizes = np.array([len(q.split()) + len(p.split()) for q, p in pairs], dtype=np.int64)
        return Scores(
            np.array(values, dtype=np.float64),
            sizes > 12,
            sizes if self.counts else None,
            np.array([(1, len(p)) for _, p in pairs], dtype=np.int64) if self.windows else None,
        )

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(scores / 10)


def same_scores(one: Scores, other: Scores, atol: float = 0.0) -> None:
    np.testing.assert_allclose(one.values, other.values, rtol=0, atol=atol)
    assert one.values.dtype == np.float64
    np.testing.assert_array_equal(one.truncated, other.truncated)
    for mine, its in ((one.tokens, other.tokens), (one.spans, other.spans)):
        assert (mine is None) == (its is None)
        if mine is not None and its is not None:
            np.testing.assert_array_equal(mine, its)
            assert mine.dtype == its.dtype


def same_encoding(one: Encoding, other: Encoding, atol: float = 0.0) -> None:
    np.testing.assert_allclose(one.vectors, other.vectors, rtol=0, atol=atol)
    assert one.vectors.dtype == np.float32
    np.testing.assert_array_equal(one.tokens, other.tokens)
    np.testing.assert_array_equal(one.truncated, other.truncated)


def test_an_encoder_as_it_is() -> None:
    plain = HashingEncoder()
    batched = BatchedEncoder(HashingEncoder(), budget=40, cache=query_cache(10**6))
    wrapped: object = batched
    assert isinstance(wrapped, Encoder)
    assert not isinstance(wrapped, MultiEncoder), "what it wraps gives one vector per text"
    assert batched.info == plain.info
    assert batched.token_counter.special_tokens == 2
    for _ in range(2):  # the second time from the cache
        np.testing.assert_array_equal(batched.encode_queries(TEXTS), plain.encode_queries(TEXTS))
        same_encoding(batched.encode_passages(TEXTS), plain.encode_passages(TEXTS))
        for kind in KINDS:
            found = asyncio.run(batched.encode_async(TEXTS, kind))
            same_encoding(found, plain.encode_passages(TEXTS))
    assert batched.encode_queries([]).shape == (0, 64)
    assert batched.encode_passages([]).vectors.shape == (0, 64)
    with pytest.raises(InvalidInput, match="bge-m3"):
        asyncio.run(batched.encode_async(["x"], "query", lexical=True))
    batched.close()


def test_progress_counts_all_texts_once() -> None:
    batched = BatchedEncoder(HashingEncoder(), cache=query_cache(10**6))
    batched.encode_queries(TEXTS[:10])
    seen: list[tuple[int, int]] = []
    for _ in range(2):  # the second time from the cache
        batched.encode_queries(TEXTS, progress=lambda done, total: seen.append((done, total)))
        assert (seen[0], seen[-1]) in (((10, 40), (40, 40)), ((40, 40), (40, 40)))
        seen.clear()
    batched.close()


def test_requests_at_once_share_calls_of_one_kind_and_equal_queries() -> None:
    encoder = Recorder()
    batched = BatchedEncoder(encoder, window_ms=0)

    async def scene() -> None:
        first = await encoder.held(batched)
        queries = [batched.encode_async([TEXTS[n % 5]], "query") for n in range(20)]
        passages = [batched.encode_async([text], "passage") for text in TEXTS[:10]]
        tasks = [asyncio.ensure_future(one) for one in (*queries, *passages)]
        await asyncio.sleep(0)
        encoder.free.set()
        for n, found in enumerate(await asyncio.gather(*tasks)):
            text = TEXTS[n % 5] if n < 20 else TEXTS[n - 20]
            same_encoding(found, HashingEncoder().encode_passages([text]))
        await first

    asyncio.run(scene())
    batched.close()
    assert sorted((kind, len(texts)) for kind, texts in encoder.calls) == [
        ("passage", 10),
        ("query", 1),
        ("query", 5),
    ]
    assert encoder.closed == 1


def test_errors_number_the_callers_own_texts() -> None:
    batched = BatchedEncoder(Recorder())
    texts = ["one", "two two two two two two two two two", "bad", "four"]
    calls: list[Callable[[], object]] = [
        lambda: batched.encode_queries(texts),
        lambda: batched.encode_passages(texts),
        lambda: asyncio.run(batched.encode_async(texts, "query")),
        lambda: asyncio.run(batched.encode_async(texts, "passage")),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match="text 2 is bad"):
            call()
    batched.close()


def test_what_is_no_list_of_texts_is_the_wrapped_encoders_to_refuse(
    starter_encoder: BiEncoder,
) -> None:
    batched = BatchedEncoder(starter_encoder)
    for wrong in ("one text", ["a", 3], None):
        with pytest.raises(InvalidInput) as ours:
            batched.encode_queries(wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidInput) as its:
            starter_encoder.encode_queries(wrong)  # type: ignore[arg-type]
        assert str(ours.value) == str(its.value)
    with pytest.raises(InvalidInput, match="kind="):
        batched.encode_all(["a"], "document")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="lexical"):
        batched.encode_all(["a"], "query", lexical=True)
    batched.batcher.close()


def test_a_real_encoder_with_all_its_outputs(starter_encoder: BiEncoder) -> None:
    batched = BatchedEncoder(starter_encoder, budget=64, cache=query_cache(10**7))
    assert isinstance(batched, MultiEncoder)
    texts = [*TEXTS[:12], "long " * 400]
    for _ in range(2):
        found = batched.encode_all(texts, "query", token_vectors=True)
        expected = starter_encoder.encode_all(texts, "query", token_vectors=True)
        same_encoding(found, expected, atol=1e-6)
        assert found.truncated[-1]
        assert found.token_vectors is not None
        assert expected.token_vectors is not None
        for mine, its in zip(found.token_vectors, expected.token_vectors, strict=True):
            np.testing.assert_allclose(mine, its, rtol=0, atol=1e-5)
        found.vectors[:] = 0  # a caller may; the cache must not change
        found.token_vectors[0][:] = 0
    passages = asyncio.run(batched.encode_async(texts, "passage"))
    same_encoding(passages, starter_encoder.encode_passages(texts), 1e-6)
    expected_queries = starter_encoder.encode_queries(texts)
    with ThreadPoolExecutor(16) as pool:
        rows = list(pool.map(lambda text: batched.encode_queries([text])[0], texts))
    np.testing.assert_allclose(np.stack(rows), expected_queries, rtol=0, atol=1e-6)
    batched.batcher.close()


def test_caches_tell_models_and_settings_apart() -> None:
    seen = Cached()
    cache = query_cache(10**6, seen)
    one, other = HashingEncoder("one"), HashingEncoder("other")
    for encoder, settings in ((one, ""), (other, ""), (one, "int8"), (one, "")):
        batched = BatchedEncoder(encoder, cache=cache, settings=settings)
        batched.encode_queries(["a query"])
        batched.close()
    assert seen.looks == [("queries", 0, 1)] * 3 + [("queries", 1, 0)]

    seen.looks.clear()
    scores = score_cache(10**6, seen)
    cut, whole = {"long_passages": "truncate"}, {"long_passages": "windows"}
    for chosen in (cut, whole, None, None, cut):
        reranker = BatchedReranker(Overlap(), cache=scores, settings=chosen)
        reranker.score([("a b", "b c")])
        reranker.close()
    assert seen.looks == [("scores", 0, 1)] * 4 + [("scores", 1, 0)]


@pytest.mark.parametrize("windows", [True, False])
@pytest.mark.parametrize("counts", [True, False])
def test_a_reranker_as_it_is(windows: bool, counts: bool) -> None:
    plain = Overlap(windows=windows, counts=counts)
    inner = Overlap(windows=windows, counts=counts)
    batched = BatchedReranker(inner, budget=40, cache=score_cache(10**6))
    assert isinstance(batched, Reranker)
    assert batched.info == plain.info
    for _ in range(2):
        same_scores(batched.score(PAIRS), plain.score(PAIRS))
        same_scores(asyncio.run(batched.score_async(PAIRS)), plain.score(PAIRS))
    same_scores(batched.score([]), plain.score([]))
    assert batched.relevance(np.array([5.0])).tolist() == [0.5]
    read = [pair for call in inner.calls for pair in call]
    assert len(read) == len(set(read)), "no pair was read twice"
    seen: list[tuple[int, int]] = []
    batched.score([*PAIRS, ("new", "pair")], progress=lambda d, t: seen.append((d, t)))
    assert (seen[0], seen[-1]) == ((40, 41), (41, 41))
    batched.close()


def test_a_real_cross_encoder(tiny_bert_reranker: Path) -> None:
    for options in ({}, {"long_passages": "windows", "max_length": 32, "window_overlap": 4}):
        real = CrossEncoderReranker(tiny_bert_reranker, **options)  # type: ignore[arg-type]
        batched = BatchedReranker(real, budget=128, cache=score_cache(10**6))
        long = [*PAIRS, ("copy a tree", "directory tree " * 60)]
        with ThreadPoolExecutor(8) as pool:
            halves = list(pool.map(batched.score, (long, long[::-1], long[:5], long[3:4])))
        expected = real.score(long)
        same_scores(halves[0], expected, atol=1e-6)
        np.testing.assert_allclose(halves[1].values[::-1], expected.values, rtol=0, atol=1e-6)
        batched.close()


def test_what_a_cross_encoder_refuses_has_the_callers_numbers(
    tiny_bert_reranker: Path,
) -> None:
    real = CrossEncoderReranker(tiny_bert_reranker, long_passages="error", max_length=32)
    batched = BatchedReranker(real)
    pairs = [("copy", "path"), ("copy", "file"), ("copy", "directory tree " * 40)]
    with pytest.raises(InvalidInput, match="pair 2 has"):
        batched.score(pairs)
    with pytest.raises(InvalidInput, match="pair 1"):
        batched.score([("a", "b"), ("a", 3)])  # type: ignore[list-item]
    assert len(batched.score(pairs[:2]).values) == 2
    batched.close()


def test_late_interaction_beside_the_encoders_batcher(starter_encoder: BiEncoder) -> None:
    """It uses the raw encoder, in its own batcher, while queries run in the encoder's."""
    encoder = BatchedEncoder(starter_encoder)
    reranker = BatchedReranker(
        LateInteractionReranker(encoder), budget=256, cache=score_cache(10**6)
    )
    plain = LateInteractionReranker(starter_encoder)
    expected = plain.score(PAIRS)
    with ThreadPoolExecutor(4) as pool:
        scores = [pool.submit(reranker.score, PAIRS) for _ in range(2)]
        vectors = [pool.submit(encoder.encode_queries, TEXTS[:8]) for _ in range(2)]
        for future in scores:
            same_scores(future.result(60), expected, atol=2e-6)
        for other in vectors:
            np.testing.assert_allclose(
                other.result(60), starter_encoder.encode_queries(TEXTS[:8]), rtol=0, atol=1e-6
            )
    reranker.batcher.close()
    encoder.batcher.close()


def test_on_the_event_loop_nothing_blocks_and_cancelled_tasks_leave() -> None:
    encoder = Recorder()
    batched = BatchedEncoder(encoder, window_ms=0, cache=query_cache(10**6))

    async def scene() -> None:
        first = await encoder.held(batched)
        gone = asyncio.create_task(batched.encode_async(["gone"], "query"))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        control = Control(deadline=time.monotonic() + 0.02)
        with pytest.raises(DeadlinePassed):
            await batched.encode_async(["late"], "query", control)
        assert not first.done()
        encoder.free.set()
        await first
        again = await batched.encode_async(["first"], "query")  # from the cache
        same_encoding(again, HashingEncoder().encode_passages(["first"]))

    asyncio.run(scene())
    batched.close()
    assert [text for _, texts in encoder.calls for text in texts] == ["first"]


def test_estimates_for_admission() -> None:
    batched = BatchedEncoder(HashingEncoder())
    assert batched.tokens(["a" * 400, ""], "passage") == 104
    batched.close()
    reranker = BatchedReranker(Overlap())
    assert reranker.tokens([("a" * 40, "b" * 40), ("a" * 4000, "b")]) == 20 + 64
    for _ in range(60):
        reranker.score([("a" * 40, "b" * 40)])
    assert reranker.likely_tokens(10) == pytest.approx(200, rel=0.1)
    reranker.close()
