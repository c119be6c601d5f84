"""The models called as sentence-transformers', beside sentence-transformers where it is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import retrieval
from retrieval.errors import InvalidInput, InvalidQuery
from retrieval.integrations.sentence_transformers import EncoderLikeST, RerankerLikeST
from retrieval.models.resolve import resolve

INSTRUCTION = "query: "
TEXTS = ["Travel costs are paid back.", "The canteen serves soup.", "Passwords are long."]
QUERY = "how do I get my expenses back?"


@pytest.fixture(scope="module")
def model() -> Iterator[EncoderLikeST]:
    options: dict[str, Any] = {"query_instruction": INSTRUCTION, "threads": 2, "dtype": "fp32"}
    with EncoderLikeST("all-MiniLM-L6-v2", **options) as made:
        yield made


@pytest.fixture(scope="module")
def reranker() -> Iterator[RerankerLikeST]:
    with RerankerLikeST("maxsim", threads=2) as made:
        yield made


@pytest.fixture(scope="module")
def real() -> Any:
    """sentence-transformers' own model, of the same weights."""
    st = pytest.importorskip("sentence_transformers")
    pooling = {"pooling_mode": "mean"}
    modules = st.sentence_transformer.modules
    transformer = modules.Transformer(str(resolve("all-MiniLM-L6-v2", kind="encoder").path))
    dimension = transformer.get_embedding_dimension()
    return st.SentenceTransformer(
        modules=[transformer, modules.Pooling(dimension, **pooling), modules.Normalize()],
        prompts={"query": INSTRUCTION, "document": ""},
        device="cpu",
    )


def test_vectors_are_those_of_sentence_transformers(model: EncoderLikeST, real: Any) -> None:
    for name in ("encode", "encode_query", "encode_document"):
        ours, theirs = getattr(model, name)(TEXTS), getattr(real, name)(TEXTS)
        assert ours.dtype == theirs.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    np.testing.assert_allclose(
        model.encode(TEXTS, prompt="ask: "), real.encode(TEXTS, prompt="ask: "), atol=1e-4
    )
    assert model.encode(TEXTS[0]).shape == real.encode(TEXTS[0]).shape == (384,)
    ours_t, theirs_t = (
        one.similarity(one.encode_query([QUERY]), one.encode_document(TEXTS))
        for one in (model, real)
    )
    assert ours_t.dtype == theirs_t.dtype == torch.float32
    torch.testing.assert_close(ours_t, theirs_t, atol=1e-4, rtol=0)
    assert model.get_sentence_embedding_dimension() == real.get_embedding_dimension()


def test_forms_of_the_result(model: EncoderLikeST) -> None:
    array = model.encode(TEXTS)
    assert isinstance(array, np.ndarray)
    assert array.shape == (3, 384)
    tensor = model.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), array)
    listed = model.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(listed, list)
    assert all(isinstance(one, torch.Tensor) for one in listed)
    one = model.encode(TEXTS[0], convert_to_tensor=True)
    assert one.shape == (384,)
    assert model.encode([]).shape == (0, 384)
    np.testing.assert_array_equal(model.encode(np.array(TEXTS)), array)
    np.testing.assert_array_equal(model.encode(sentences=TEXTS), array)


def test_prompts(model: EncoderLikeST) -> None:
    query = model.encode(TEXTS, prompt_name="query")
    np.testing.assert_array_equal(model.encode_query(TEXTS), query)
    np.testing.assert_allclose(model.encode(TEXTS, prompt=INSTRUCTION), query, atol=1e-5)
    np.testing.assert_array_equal(model.encode_document(TEXTS), model.encode(TEXTS))
    assert np.abs(query - model.encode(TEXTS)).max() > 0.01
    assert model.prompts["query"] == INSTRUCTION
    with pytest.raises(InvalidInput, match="no prompt 'quest'"):
        model.encode(TEXTS, prompt_name="quest")


def test_shorter_vectors_are_normalised_where_asked(model: EncoderLikeST) -> None:
    short = model.encode(TEXTS, truncate_dim=64)
    np.testing.assert_array_equal(short, model.encode(TEXTS)[:, :64])
    unit = model.encode(TEXTS, truncate_dim=64, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1.0, atol=1e-6)


def test_similarity(model: EncoderLikeST) -> None:
    first, second = model.encode_query([QUERY]), model.encode_document(TEXTS)
    table = model.similarity(first * 3, torch.from_numpy(second))
    assert table.shape == (1, 3)
    assert int(table.argmax()) == 0
    pairs = model.similarity_pairwise(second, second)
    np.testing.assert_allclose(pairs.numpy(), 1.0, atol=1e-5)
    assert model.similarity(first[0], second[0]).shape == (1, 1)
    with pytest.raises(InvalidInput, match="paired"):
        model.similarity_pairwise(first, second)


def test_what_cannot_be_done_is_refused(model: EncoderLikeST) -> None:
    with pytest.raises(InvalidInput, match="precision"):
        model.encode(TEXTS, precision="int8")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        model.encode([1, 2])  # type: ignore[list-item]
    with pytest.raises(InvalidInput, match="truncate_dim"):
        model.encode(TEXTS, truncate_dim=0)


def test_progress_is_shown_on_request(
    model: EncoderLikeST, capsys: pytest.CaptureFixture[str]
) -> None:
    model.encode(TEXTS)
    assert capsys.readouterr().err == ""
    model.encode(TEXTS, show_progress_bar=True)
    assert "3 of 3" in capsys.readouterr().err


def test_predict(reranker: RerankerLikeST) -> None:
    pairs = [(QUERY, text) for text in TEXTS]
    scores = reranker.predict(pairs)
    raw = reranker.reranker.score(pairs).values
    np.testing.assert_allclose(scores, reranker.reranker.relevance(raw), atol=1e-6)
    assert scores.dtype == np.float32
    assert int(scores.argmax()) == 0
    assert isinstance(reranker.predict(pairs, convert_to_tensor=True), torch.Tensor)
    as_given = reranker.predict(pairs, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose(as_given, raw, atol=1e-6)
    single = reranker.predict((QUERY, TEXTS[0]))  # bf16: another batch, other rounding
    assert np.ndim(single) == 0
    assert float(single) == pytest.approx(float(scores[0]), abs=0.02)
    assert reranker.predict([]).shape == (0,)
    assert reranker.predict([[QUERY, text] for text in TEXTS]).shape == (3,)


def test_rank(reranker: RerankerLikeST) -> None:
    texts = [TEXTS[1], TEXTS[0], TEXTS[2], TEXTS[1]]
    ranked = reranker.rank(QUERY, texts, return_documents=True)
    assert ranked[0]["corpus_id"] == 1
    assert all(one["text"] == texts[one["corpus_id"]] for one in ranked)
    scores = [one["score"] for one in ranked]
    assert scores == sorted(scores, reverse=True)
    order = [one["corpus_id"] for one in ranked]
    assert order.index(0) < order.index(3)  # equal texts
    assert [one["corpus_id"] for one in reranker.rank(QUERY, texts, top_k=2)] == order[:2]
    assert set(reranker.rank(QUERY, texts, top_k=1)[0]) == {"corpus_id", "score"}
    assert reranker.rank(QUERY, []) == []
    with pytest.raises(InvalidQuery):
        reranker.rank("", texts)
    with pytest.raises(InvalidInput, match="top_k"):
        reranker.rank(QUERY, texts, top_k=0)


def test_given_models_stay_open() -> None:
    encoder = retrieval.BiEncoder("all-MiniLM-L6-v2", threads=2)
    with EncoderLikeST(encoder) as model:
        assert model.max_seq_length == encoder.info.max_length
    assert encoder.encode_queries(["soup"]).shape == (1, 384)
