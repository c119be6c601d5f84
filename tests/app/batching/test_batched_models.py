"""Batched models give what the wrapped ones give, to whoever asks and however many ask at once."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder
from numpy.typing import NDArray

from app.batching.deadline import Control
from app.batching.encoder import BatchedEncoder
from app.batching.encoder_rows import query_cache
from app.batching.reranker import BatchedReranker, score_cache
from app.errors import DeadlinePassed
from app.types import Unobserved
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
PAIRS = [(TEXTS[n % 7], TEXTS[n]) for n in range(40)]


class Cached(Unobserved):
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
        self.closed = 0

    def encode_queries(self, queries: Sequence[str], *, progress: Any = None) -> FloatArray:
        self.calls.append(("query", list(queries)))
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
    assert isinstance(batched, Encoder)
    assert not isinstance(batched, MultiEncoder), "what it wraps gives one vector a text"
    assert batched.info == plain.info
    assert batched.token_counter.special_tokens == 2
    for _ in range(2):  # the second time from the cache
        np.testing.assert_array_equal(batched.encode_queries(TEXTS), plain.encode_queries(TEXTS))
        same_encoding(batched.encode_passages(TEXTS), plain.encode_passages(TEXTS))
        same_encoding(batched.embed(TEXTS, "query"), plain.encode_passages(TEXTS))
        same_encoding(batched.embed(TEXTS, "passage"), plain.encode_passages(TEXTS))
    assert batched.encode_queries([]).shape == (0, 64)
    assert batched.encode_passages([]).vectors.shape == (0, 64)
    batched.close()


def test_progress_counts_all_texts_once() -> None:
    batched = BatchedEncoder(HashingEncoder(), budget=40, cache=query_cache(10**6))
    batched.encode_queries(TEXTS[:10])
    for call in (batched.encode_queries, batched.encode_passages):
        seen: list[tuple[int, int]] = []
        call(TEXTS, progress=lambda done, total, seen=seen: seen.append((done, total)))  # type: ignore[misc]
        assert seen[-1] == (40, 40)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert len(seen) > 3
    seen = []
    batched.encode_queries(TEXTS, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(40, 40)]
    batched.close()


def test_requests_at_once_share_calls_of_one_kind_and_equal_queries() -> None:
    encoder = Recorder()
    batched = BatchedEncoder(encoder, window_ms=0)
    with ThreadPoolExecutor(40) as pool:
        encoder.free.clear()
        first = pool.submit(batched.encode_queries, ["first"])
        while not encoder.calls:
            time.sleep(0.001)
        queries = [pool.submit(batched.encode_queries, [TEXTS[n % 5]]) for n in range(20)]
        passages = [pool.submit(batched.encode_passages, [text]) for text in TEXTS[:10]]
        while batched.lane._queue.requests < 30:
            time.sleep(0.001)
        encoder.free.set()
        for n, future in enumerate(queries):
            expected = HashingEncoder().encode_queries([TEXTS[n % 5]])
            np.testing.assert_array_equal(future.result(10), expected)
        for text, other in zip(TEXTS, passages, strict=False):
            same_encoding(other.result(10), HashingEncoder().encode_passages([text]))
        first.result(10)
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
    for call in (batched.encode_queries, batched.encode_passages):
        with pytest.raises(InvalidInput, match="text 2 is bad"):
            call(texts)
    with pytest.raises(InvalidInput, match="text 2 is bad"):
        batched.embed(texts, "query")
    with pytest.raises(InvalidInput, match="text 2 is bad"):
        asyncio.run(batched.aencode(texts, "passage"))
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
    batched.lane.close()


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
    vectors = batched.encode_queries(texts)
    np.testing.assert_allclose(vectors, starter_encoder.encode_queries(texts), rtol=0, atol=1e-6)
    same_encoding(batched.embed(texts, "passage"), starter_encoder.encode_passages(texts), 1e-6)
    batched.lane.close()


def test_many_threads_get_the_real_encoders_vectors(starter_encoder: BiEncoder) -> None:
    batched = BatchedEncoder(starter_encoder, window_ms=2)
    expected = starter_encoder.encode_queries(TEXTS)
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda text: batched.encode_queries([text])[0], TEXTS))
    np.testing.assert_allclose(np.stack(found), expected, rtol=0, atol=1e-6)
    batched.lane.close()


def test_a_cached_vector_keeps_no_batch_alive() -> None:
    cache = query_cache(10**7)
    batched = BatchedEncoder(HashingEncoder(), cache=cache)
    batched.encode_queries(TEXTS)
    gc.collect()
    kept = list(cache._kept.values())
    assert len(kept) == len(set(TEXTS))
    assert all(row.vector.base is None and row.vector.nbytes == 256 for row in kept)
    batched.close()


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
    cut = {"long_passages": "truncate"}
    whole = {"long_passages": "windows"}
    unsaid: list[dict[str, object] | None] = [cut, whole, None, None, cut]  # type: ignore[list-item]
    for chosen in unsaid:
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
        same_scores(asyncio.run(batched.ascore(PAIRS)), plain.score(PAIRS))
    same_scores(batched.score([]), plain.score([]))
    assert batched.relevance(np.array([5.0])).tolist() == [0.5]
    read = [pair for call in inner.calls for pair in call]
    assert len(read) == len(set(read)), "no pair was read twice"
    seen: list[tuple[int, int]] = []
    batched.score([*PAIRS, ("new", "pair")], progress=lambda d, t: seen.append((d, t)))
    assert seen == [(41, 41)]
    assert batched.likely_cost(10) > 0
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


def test_what_a_cross_encoder_refuses_is_told_by_the_callers_numbers(
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


def test_late_interaction_beside_the_encoders_lane(starter_encoder: BiEncoder) -> None:
    """It uses the raw encoder, from its own lane, while queries run in the encoder's."""
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
    reranker.lane.close()
    encoder.lane.close()


def test_on_the_event_loop_nothing_blocks_and_cancelled_tasks_leave() -> None:
    encoder = Recorder()
    batched = BatchedEncoder(encoder, window_ms=0, cache=query_cache(10**6))

    async def scene() -> None:
        encoder.free.clear()
        first = asyncio.create_task(batched.aencode(["first"], "query"))
        while not encoder.calls:
            await asyncio.sleep(0.001)
        gone = asyncio.create_task(batched.aencode(["gone"], "query"))
        kept = [asyncio.create_task(batched.aencode([text], "query")) for text in TEXTS]
        late = asyncio.create_task(
            batched.aencode(["late"], "query", Control(deadline=time.monotonic() + 0.05))
        )
        await asyncio.sleep(0.02)
        gone.cancel()
        with pytest.raises(DeadlinePassed):
            await late
        assert not first.done()
        encoder.free.set()
        for text, task in zip(TEXTS, kept, strict=True):
            same_encoding(await task, HashingEncoder().encode_passages([text]))
        await first
        again = await batched.aencode(["first"], "query")  # from the cache
        same_encoding(again, HashingEncoder().encode_passages(["first"]))
        with pytest.raises(asyncio.CancelledError):
            await gone
        with pytest.raises(InvalidInput, match="bge-m3"):
            await batched.aencode(["x"], "query", lexical=True)

    asyncio.run(scene())
    batched.close()
    texts = [text for _, texts in encoder.calls for text in texts]
    assert "gone" not in texts
    assert "late" not in texts
    assert texts.count("first") == 1


def test_estimates_for_admission() -> None:
    batched = BatchedEncoder(HashingEncoder())
    assert batched.cost(["a" * 400, ""], "passage") == 104
    batched.close()
    reranker = BatchedReranker(Overlap())
    assert reranker.cost([("a" * 40, "b" * 40), ("a" * 4000, "b")]) == 20 + 64
    for _ in range(60):
        reranker.score([("a" * 40, "b" * 40)])
    assert reranker.likely_cost(10) == pytest.approx(200, rel=0.1)
    reranker.close()
