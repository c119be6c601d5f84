"""Vectors and scores of texts alone; models go by their names."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backend_help import ANYONE, DOCUMENTS, Made, Make, run

import retrieval
from app.backend.backend import Backend
from app.errors import NotHere
from app.settings.settings import Settings
from retrieval.errors import InvalidInput
from retrieval.types import ModelSpec


def test_vectors_are_the_encoders_own(filled: Made) -> None:
    texts = ["one text", "another", "one text"]
    found = run(filled.backend.texts.embed(ANYONE, texts, kind="passage"))
    expected = filled.encoder.encode_passages(texts)
    assert np.array_equal(found.vectors, expected.vectors)
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert found.model == "hashing"
    queries = run(filled.backend.texts.embed(ANYONE, texts, kind="query", dimensions=64))
    assert np.allclose(queries.vectors, filled.encoder.encode_queries(texts))
    with pytest.raises(InvalidInput, match="dimensions is 32, and hashing gives vectors of 64"):
        run(filled.backend.texts.embed(ANYONE, texts, kind="query", dimensions=32))


def test_vectors_are_cut_only_where_the_model_was_trained_for_it(
    filled: Made, monkeypatch: Any
) -> None:
    embed = filled.backend.texts.embed
    spec = ModelSpec("hashing", "encoder", dimension=64, matryoshka=(16, 32))
    monkeypatch.setattr("retrieval.models.registry.find", lambda *_: spec)
    whole = run(embed(ANYONE, ["one text", "another"], kind="query")).vectors
    cut = run(embed(ANYONE, ["one text", "another"], kind="query", dimensions=16)).vectors
    assert cut.shape == (2, 16)
    assert cut.dtype == np.float32
    for short, long in zip(cut, whole, strict=True):
        length = np.linalg.norm(long[:16])
        assert np.allclose(short, long[:16] / length if length else 0)
    for wrong in (15, 0, -1, 65, True):
        with pytest.raises(InvalidInput, match="gives vectors of 64 or 16 or 32"):
            run(embed(ANYONE, ["one text"], kind="query", dimensions=wrong))


def test_texts_are_scored_in_their_order(filled: Made) -> None:
    texts = ["nothing here", "bees dance", "dance dance", ""]
    found = run(filled.backend.texts.rerank(ANYONE, "bees dance", texts))
    assert found.scores.tolist() == [0.0, 2.0, 1.0, 0.0]
    assert (np.argsort(found.relevance) == np.argsort(found.scores)).all()
    assert (len(found.tokens), len(found.truncated), found.model) == (4, 4, "words")


@pytest.mark.parametrize("texts", [[], "text", ["a", ""], ["a", "  "], ["\ud800"], ["a", 3]])
def test_what_is_no_text_is_refused(filled: Made, texts: Any) -> None:
    with pytest.raises(InvalidInput):
        run(filled.backend.texts.embed(ANYONE, texts, kind="query"))
    if texts not in (["a", ""], ["a", "  "]):
        with pytest.raises(InvalidInput):
            run(filled.backend.texts.rerank(ANYONE, "a", texts))
    with pytest.raises(InvalidInput):
        run(filled.backend.texts.rerank(ANYONE, " ", ["a"]))


def test_an_encoder_without_term_weights_says_which_has(filled: Made) -> None:
    with pytest.raises(InvalidInput, match="bge-m3"):
        run(filled.backend.texts.embed_sparse(ANYONE, ["a"], kind="query"))


def test_models_go_by_their_names_and_aliases(make: Make) -> None:
    aliases = {"text-embedding-3-small": "encoder", "rerank-v3.5": "words", "h": "hashing"}
    backend = make(model_aliases=aliases).backend
    for name in (None, "hashing", "encoder", "default", "text-embedding-3-small", "h"):
        assert run(backend.texts.embed(ANYONE, ["a"], kind="query", model=name)).model == "hashing"
    for name in (None, "words", "reranker", "default", "rerank-v3.5"):
        assert run(backend.texts.rerank(ANYONE, "a", ["a"], model=name)).model == "words"
    with pytest.raises(NotHere, match="no encoder 'words'; it has 'hashing'") as caught:
        run(backend.texts.embed(ANYONE, ["a"], kind="query", model="words"))
    assert caught.value.code == "model_not_found"
    with pytest.raises(NotHere, match="no reranker 'h'"):
        run(backend.texts.rerank(ANYONE, "a", ["a"], model="h"))
    encoder, reranker = backend.models.infos()
    assert encoder.names == ("hashing", "encoder", "default", "text-embedding-3-small", "h")
    assert (encoder.kind, encoder.dimension, encoder.default) == ("encoder", 64, True)
    assert reranker.names == ("words", "reranker", "default", "rerank-v3.5")


def test_collections_of_one_encoder_share_it(tmp_path: Path, tiny_bert_encoder: Path) -> None:
    store = tmp_path / "store"
    for name in ("docs", "more"):
        retrieval.ingest(DOCUMENTS, name, store=store, encoder=str(tiny_bert_encoder))
    backend = Backend(Settings(store=str(store), reranker="none", threads=1))
    with closing(backend):
        for name in ("docs", "more"):
            assert run(backend.search(ANYONE, ["bees"], collection=name))[0].hits
        one, two = (backend._opened.opened(name) for name in ("docs", "more"))
        assert one is not None
        assert two is not None
        assert one.encoder is two.encoder
        assert len(backend.models.infos()) == 1
        names = backend.models.infos()[0].names
        assert tiny_bert_encoder.name in names
        named = run(backend.texts.embed(ANYONE, ["a"], kind="query", model=names[1]))
        assert named.vectors.shape[1]
