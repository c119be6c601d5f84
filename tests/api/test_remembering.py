"""Models that remember: nothing computed twice, and nothing that differs from the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder
from numpy.typing import NDArray

from retrieval.api.remembering import RememberingReranker, remembering
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.types import MultiEncoder, RerankerInfo, Scores

TEXTS = ["red apples", "green pears", "red apples", "", "\ud800 half a pair"]


class CountingEncoder(HashingEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def encode_queries(self, queries: Sequence[str], *, progress: Any = None) -> Any:
        self.asked += queries
        return super().encode_queries(queries)


class WordsReranker:
    """Scores by shared words; a pair's passage over five words is cut."""

    info = RerankerInfo("words", "sha256:words", "cross-encoder", 5)

    def __init__(self) -> None:
        self.scored: list[tuple[str, str]] = []

    def score(self, pairs: Sequence[tuple[str, str]], *, progress: Any = None) -> Scores:
        self.scored += pairs
        shared = [len(set(query.split()) & set(text.split())) for query, text in pairs]
        cut = [len(text.split()) > 5 for _, text in pairs]
        return Scores(np.array(shared, dtype=np.float64), np.array(cut))

    def relevance(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-scores))


def test_queries_are_encoded_once_for_each_instruction() -> None:
    inner = CountingEncoder()
    encoder = remembering(inner, inner.info)
    first = encoder.encode_queries(["red", "green", "red"])
    np.testing.assert_array_equal(first, HashingEncoder().encode_queries(["red", "green", "red"]))
    np.testing.assert_array_equal(encoder.encode_queries(["green"]), first[1:2])
    assert inner.asked == ["red", "green"]
    encoder.instruction = "find: "
    found = encoder.encode_queries(["red"])
    np.testing.assert_array_equal(found, HashingEncoder().encode_queries(["find: red"]))
    encoder.instruction = ""
    encoder.encode_queries(["red"])
    assert inner.asked == ["red", "green", "find: red"]
    encoder.remembers = False
    encoder.encode_queries(["red"])
    assert inner.asked[-1] == "red"


def test_passages_are_encoded_once_and_come_back_in_their_order() -> None:
    inner = HashingEncoder()
    encoder = remembering(inner, inner.info, passages=True)
    plain = HashingEncoder().encode_passages(TEXTS)
    for texts in (TEXTS, TEXTS[::-1], TEXTS[1:2]):
        found = encoder.encode_passages(texts)
        rows = [TEXTS.index(text) for text in texts]
        np.testing.assert_array_equal(found.vectors, plain.vectors[rows])
        np.testing.assert_array_equal(found.tokens, plain.tokens[rows])
        np.testing.assert_array_equal(found.truncated, plain.truncated[rows])
        assert found.vectors.dtype == np.float32
    encoder.encode_passages(["a new one", *TEXTS])
    assert inner.encoded == [*dict.fromkeys(TEXTS), "a new one"]
    encoder.close()


def test_pairs_are_scored_once() -> None:
    inner = WordsReranker()
    reranker = RememberingReranker(inner)
    pairs = [("red fruit", "red apples"), ("red fruit", "rain"), ("red fruit", "red apples")]
    found = reranker.score(pairs)
    assert found.values.tolist() == [1, 0, 1]
    assert reranker.score(pairs[1:]).values.tolist() == [0, 1]
    long = ("red", "a passage of more than five words")
    assert reranker.score([long, pairs[0]]).truncated.tolist() == [True, False]
    assert inner.scored == [*pairs[:2], long]
    assert reranker.cut == 1
    # the border between query and passage is part of the pair
    reranker.score([("a b", "c"), ("a", "b c"), ("a", "b\0c"), ("a\0b", "c")])
    assert len(inner.scored) == 7
    np.testing.assert_array_equal(reranker.relevance(found.values), inner.relevance(found.values))


def test_an_instruction_put_before_the_text_is_the_models_own(
    tiny_bert_encoder: Path, make_resolved_encoder: Any
) -> None:
    instruction = "Represent this sentence for searching relevant passages: "
    options: dict[str, Any] = {"engine": "transformers", "device": "cpu", "dtype": "fp32"}
    queries = ["what is a bi-encoder?", "the quick brown fox " * 60]
    own = make_resolved_encoder(tiny_bert_encoder, query_instruction=instruction)
    bare = make_resolved_encoder(tiny_bert_encoder)
    with BiEncoder(own, **options) as expected, BiEncoder(bare, **options) as inner:
        encoder = remembering(inner, expected.info)
        assert isinstance(encoder, MultiEncoder)
        wanted = expected.encode_queries(queries)
        np.testing.assert_allclose(encoder.encode_queries(queries), wanted, atol=1e-6)
        both = encoder.encode_all(queries, "query", token_vectors=True)
        np.testing.assert_allclose(both.vectors, wanted, atol=1e-6)
        assert both.token_vectors is not None
        theirs = expected.encode_tokens(queries, "query")
        for ours, other in zip(both.token_vectors, theirs, strict=True):
            np.testing.assert_allclose(ours, other, atol=1e-5)


@pytest.mark.parametrize("remembers", [True, False])
def test_a_query_alone_has_the_same_vector(remembers: bool) -> None:
    inner = HashingEncoder()
    encoder = remembering(inner, inner.info)
    encoder.remembers = remembers
    np.testing.assert_array_equal(encoder.encode_queries(["x"]), inner.encode_queries(["x"]))
