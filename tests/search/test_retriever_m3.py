"""Lexical search and refining by token vectors, end to end with a tiny model of bge-m3's shape."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hashing_encoder import HashingEncoder

from retrieval.api.evaluate_folder import evaluate_folder
from retrieval.api.open import open
from retrieval.errors import InvalidInput
from retrieval.fusion import rrf
from retrieval.index.bm25 import bm25_info
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.models.encoders.bge_m3 import BGEM3
from retrieval.models.encoders.bi_encoder import BiEncoder
from retrieval.models.load import load_encoder
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import (
    Encoding,
    Fusion,
    Layout,
    Manifest,
    Mode,
    MultiEncoder,
    Passage,
    SearchResult,
    SplitterInfo,
)

RUNNING: dict[str, Any] = {"engine": "transformers", "device": "cpu", "dtype": "fp32"}
TEXTS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps on.",
    "A cross-encoder reads the query and the passage together and gives one score.",
    "Return the path of the file; raise an error when the directory does not exist.",
    "def copy(source, target): copies a whole directory tree to another place.",
    "the query and the passage",
    "the dog reads the file",
    "a whole tree sleeps in another place",
    "what is a score?",
]
QUERY = "what does the dog read in the file"


def passages() -> list[Passage]:
    """Three documents: the texts and their pairs, so that there is more than a page of them."""
    texts = [*TEXTS, *(f"{one} {other}" for one in TEXTS for other in TEXTS[:4])]
    return [
        Passage(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, str(number))),
            document_id=f"d{number % 3}",
            position=number // 3,
            text=text,
            start=0,
            end=len(text),
            document_hash="sha256:a",
            document_passages=14 if number % 3 == 0 else 13,
        )
        for number, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def folder(make_tiny_model: Callable[..., Path]) -> Path:
    """XLM-RoBERTa with two linear heads of fixed random weights, in bge-m3's files."""
    path = make_tiny_model("xlmr", "encoder", seed=3)
    random = torch.Generator().manual_seed(0)
    for name, out, bias in (("sparse_linear.pt", 1, 1.0), ("colbert_linear.pt", 32, 0.1)):
        weight = torch.randn((out, 64), generator=random) * 0.2
        torch.save({"weight": weight, "bias": torch.full((out,), bias)}, path / name)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> BGEM3:
    loaded = load_encoder(str(folder), outputs="all", **RUNNING)
    assert isinstance(loaded, BGEM3)
    return loaded


@pytest.fixture(scope="module")
def encoding(encoder: BGEM3) -> Encoding:
    texts = [passage.content for passage in passages()]
    return encoder.encode_all(texts, "passage", lexical=True, token_vectors=True)


@pytest.fixture(scope="module")
def store(encoder: BGEM3, encoding: Encoding, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collections that have all outputs, the lexical ones, the token vectors, and none of them."""
    path = tmp_path_factory.mktemp("store")
    for name, layout in {
        "all": Layout(lexical=True, token_dimension=32),
        "lexical": Layout(lexical=True),
        "tokens": Layout(token_dimension=32),
        "plain": Layout(),
    }.items():
        manifest = Manifest(name, encoder.info, SplitterInfo(64, 0), bm25_info("en"), layout)
        with EmbeddedIndex.create(path, name, manifest) as index:
            index.upsert(
                passages(),
                encoding.vectors,
                lexical=encoding.lexical if layout.lexical else None,
                token_vectors=encoding.token_vectors if layout.token_dimension else None,
            )
    return path


@pytest.fixture
def retriever(store: Path, encoder: BGEM3) -> Iterator[TwoStageRetriever]:
    with TwoStageRetriever(encoder, EmbeddedIndex.open(store, "all"), candidates=10) as made:
        yield made


def ids(result: SearchResult) -> list[str]:
    return [hit.passage.id for hit in result.hits]


def in_order(scores: dict[str, float]) -> list[str]:
    return sorted(scores, key=lambda name: (-round(scores[name], 5), name))


@pytest.fixture(scope="module")
def expected(encoder: BGEM3, encoding: Encoding) -> dict[str, dict[str, float]]:
    """Every passage's score by each of the three outputs."""
    query = encoder.encode_all([QUERY], "query", lexical=True, token_vectors=True)
    assert query.lexical is not None
    assert query.token_vectors is not None
    assert encoding.lexical is not None
    assert encoding.token_vectors is not None
    names = [passage.id for passage in passages()]
    return {
        "dense": dict(zip(names, (encoding.vectors @ query.vectors[0]).tolist(), strict=True)),
        "lexical": {
            name: query.lexical[0].dot(weights)
            for name, weights in zip(names, encoding.lexical, strict=True)
        },
        "tokens": {
            name: float((query.token_vectors[0] @ vectors.T).max(axis=1).sum())
            for name, vectors in zip(names, encoding.token_vectors, strict=True)
        },
    }


def test_lexical_search_is_the_product_of_the_weights(
    retriever: TwoStageRetriever, expected: dict[str, dict[str, float]]
) -> None:
    result = retriever.search(QUERY, mode="lexical", top_k=10)
    assert ids(result) == in_order(expected["lexical"])[:10]
    for hit in result.hits:
        assert hit.score == pytest.approx(expected["lexical"][hit.passage.id], abs=1e-4)
        assert hit.relevance is None


def test_a_hybrid_has_three_legs(retriever: TwoStageRetriever) -> None:
    modes: tuple[Mode, ...] = ("dense", "sparse", "lexical")
    legs = [ids(retriever.search(QUERY, mode=mode, top_k=100)) for mode in modes]
    assert len(set(map(tuple, legs))) == 3
    for weights in ((1.0, 1.0, 1.0), (1.0, 0.5, 2.0), (0.0, 0.0, 1.0)):
        fusion = Fusion("rrf", 20, weights)
        result = retriever.search(QUERY, mode="hybrid", fusion=fusion, top_k=15)
        assert ids(result) == [name for name, _ in rrf(legs, 20, weights)][:15], weights


def test_refining_orders_the_first_results_by_maxsim(
    retriever: TwoStageRetriever, expected: dict[str, dict[str, float]]
) -> None:
    by_cosine, by_tokens = in_order(expected["dense"]), in_order(expected["tokens"])
    for depth in (10, 20, 40):
        result = retriever.search(QUERY, mode="dense", refine=depth, top_k=6)
        first = set(by_cosine[:depth])
        assert ids(result) == [name for name in by_tokens if name in first][:6]
        assert len(result.candidates) == 10
        for hit in result.hits:
            assert hit.score == pytest.approx(expected["tokens"][hit.passage.id], abs=1e-3)
            assert hit.relevance is None
    assert ids(result) == by_tokens[:6] != by_cosine[:6]


def test_a_lowest_score_is_of_what_is_refined(
    retriever: TwoStageRetriever, expected: dict[str, dict[str, float]]
) -> None:
    scores = expected["dense"]
    lowest = sorted(scores.values())[len(scores) // 2] - 1e-5
    result = retriever.search(QUERY, mode="dense", refine=40, min_score=lowest, top_k=40)
    kept = {name for name, score in scores.items() if score >= lowest}
    assert ids(result) == [name for name in in_order(expected["tokens"]) if name in kept]


def test_pages_and_groups_go_deeper_than_what_was_refined_at_first(
    retriever: TwoStageRetriever,
) -> None:
    pages = [
        retriever.search(QUERY, mode="dense", refine=10, top_k=10, offset=10 * page)
        for page in range(5)
    ]
    found = [name for page in pages for name in ids(page)]
    assert sorted(found) == sorted(passage.id for passage in passages())
    grouped = retriever.search(QUERY, mode="hybrid", refine=12, per_document=4, top_k=12)
    assert len(grouped.hits) == 12


def test_a_batch_refines_each_query_by_its_own_tokens(retriever: TwoStageRetriever) -> None:
    queries = [QUERY, "a tree", "what is the score of a query?"]
    together = retriever.search_batch(queries, mode="hybrid", refine=20)
    alone = [retriever.search(query, mode="hybrid", refine=20) for query in queries]
    assert [ids(one) for one in together] == [ids(one) for one in alone]


# --- which encoder a collection gets ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"), [("all", BGEM3), ("lexical", BGEM3), ("tokens", BGEM3), ("plain", BiEncoder)]
)
def test_a_collection_is_opened_with_what_its_layout_needs(
    store: Path, name: str, kind: type
) -> None:
    with open(name, store=store, reranker=None, **RUNNING) as made:
        assert type(made.encoder) is kind
        layout = made.index.manifest.layout
        assert made.search(QUERY, mode="hybrid").hits
        assert made.search(QUERY, mode="dense").hits
        if layout.lexical:
            assert made.search(QUERY, mode="lexical").hits
        if layout.token_dimension:
            assert made.search(QUERY, mode="sparse", refine=60).hits


def test_only_what_a_search_needs_is_encoded(
    store: Path, encoder: BGEM3, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    inner = BGEM3.encode

    def encode(self: BGEM3, texts: Any, kind: Any, **options: Any) -> Any:
        asked.append({name: options.get(name) for name in ("sparse", "multi_vector")})
        return inner(self, texts, kind, **options)

    monkeypatch.setattr(BGEM3, "encode", encode)
    with TwoStageRetriever(encoder, EmbeddedIndex.open(store, "all"), candidates=5) as made:
        for options in (
            {"mode": "dense"},
            {"mode": "sparse"},
            {"mode": "hybrid"},
            {"mode": "lexical"},
            {"mode": "sparse", "refine": 10},
            {"mode": "hybrid", "refine": 10},
        ):
            made.search(QUERY, top_k=5, **options)  # type: ignore[arg-type]
    assert asked == [
        {"sparse": False, "multi_vector": False},
        {"sparse": True, "multi_vector": False},
        {"sparse": True, "multi_vector": False},
        {"sparse": False, "multi_vector": True},
        {"sparse": True, "multi_vector": True},
    ]


def test_an_encoder_that_cannot_is_told_so(store: Path, folder: Path) -> None:
    plain = BiEncoder(folder, **RUNNING)
    with TwoStageRetriever(plain, EmbeddedIndex.open(store, "all"), candidates=5) as made:
        assert made.search(QUERY, mode="dense").hits
        for mode in ("lexical", "hybrid"):
            with pytest.raises(InvalidInput, match="which has no such output") as caught:
                made.search(QUERY, mode=mode)  # type: ignore[arg-type]
            assert "BAAI/bge-m3" in caught.value.fix


def test_an_encoder_without_encode_all_is_told_so(tmp_path: Path) -> None:
    encoder = HashingEncoder()
    assert not isinstance(encoder, MultiEncoder)
    manifest = Manifest(
        "docs", encoder.info, SplitterInfo(64, 0), bm25_info("en"), Layout(lexical=True)
    )
    with (
        EmbeddedIndex.create(tmp_path, "docs", manifest) as index,
        TwoStageRetriever(encoder, index) as made,
    ):
        with pytest.raises(InvalidInput, match=r"has no encode_all\(\)"):
            made.search("oak")
        assert made.search("oak", mode="dense").hits == ()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"refine": 9}, "refine is 9, fewer than the 10 candidates"),
        ({"refine": 15, "top_k": 20}, "refine is 15, fewer than the 20 candidates"),
        ({"refine": True}, "refine is True, expected a whole number"),
        ({"refine": 20, "min_relevance": 0.5, "mode": "dense"}, "refine without a reranker"),
        ({"fusion": Fusion(weights=(0, 0, 0))}, "nothing of the 3 legs"),
    ],
)
def test_what_cannot_be_refined(
    retriever: TwoStageRetriever, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        retriever.search(QUERY, **options)


def test_which_class_a_folder_becomes(
    folder: Path, tmp_path: Path, tiny_bert_encoder: Path
) -> None:
    both: list[Any] = [
        load_encoder(str(folder), outputs=outputs, max_length=40, **RUNNING)
        for outputs in ("dense", "all")
    ]
    assert [type(one) for one in both] == [BiEncoder, BGEM3]
    assert both[0].info == both[1].info, "a collection must not tell them apart"
    assert type(load_encoder(str(tiny_bert_encoder), outputs="all", **RUNNING)) is BiEncoder
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("colbert*"))
    assert type(load_encoder(str(bare), outputs="all", **RUNNING)) is BiEncoder
    mean = load_encoder(str(folder), outputs="all", pooling="mean", **RUNNING)
    assert type(mean) is BiEncoder
    cut: dict[str, Any] = {"truncate_dim": 16, "allow_untrained_truncation": True}
    with pytest.raises(InvalidInput, match="truncate_dim=16 was given"):
        load_encoder(str(folder), outputs="all", **cut, **RUNNING)
    whole = load_encoder(str(folder), outputs="all", truncate_dim=64, **RUNNING)
    assert type(whole) is BGEM3


def test_token_vectors_of_any_bi_encoder(tiny_bert_encoder: Path, tmp_path: Path) -> None:
    encoder = BiEncoder(tiny_bert_encoder, **RUNNING)
    assert isinstance(encoder, MultiEncoder)
    items = passages()
    texts = [passage.content for passage in items]
    encoding = encoder.encode_all(texts, "passage", token_vectors=True)
    own = encoder.encode_passages(texts)
    np.testing.assert_array_equal(encoding.vectors, own.vectors)
    np.testing.assert_array_equal(encoding.tokens, own.tokens)
    assert encoding.lexical is None
    assert encoding.token_vectors is not None
    for one, other in zip(
        encoding.token_vectors, encoder.encode_tokens(texts, "passage"), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    layout = Layout(token_dimension=64)
    manifest = Manifest("docs", encoder.info, SplitterInfo(64, 0), bm25_info("en"), layout)
    with EmbeddedIndex.create(tmp_path, "docs", manifest) as index:
        index.upsert(items, encoding.vectors, token_vectors=encoding.token_vectors)
        made = TwoStageRetriever(encoder, index)
        result = made.search(QUERY, mode="dense", refine=60, top_k=5)
    query = encoder.encode_tokens([QUERY], "query")[0]
    scores = {
        passage.id: float((query @ vectors.T).max(axis=1).sum())
        for passage, vectors in zip(items, encoding.token_vectors, strict=True)
    }
    assert ids(result) == in_order(scores)[:5]


def test_encode_all_says_what_it_cannot_do(encoder: BGEM3, tiny_bert_encoder: Path) -> None:
    plain = BiEncoder(tiny_bert_encoder, **RUNNING)
    for one in (encoder, plain):
        with pytest.raises(InvalidInput, match="kind='both'"):
            one.encode_all(["a"], "both")  # type: ignore[arg-type]
        only = one.encode_all(["a", "the dog"], "query")
        assert (only.lexical, only.token_vectors) == (None, None)
        np.testing.assert_array_equal(only.vectors, one.encode_queries(["a", "the dog"]))
        assert only.tokens.tolist() == [3, 4]
    with pytest.raises(InvalidInput, match="lexical weights were requested from") as caught:
        plain.encode_all(["a"], "passage", lexical=True)
    assert "bge-m3" in caught.value.fix


# --- measured --------------------------------------------------------------------------------


def test_lexical_search_is_measured_beside_the_others(folder: Path, tmp_path: Path) -> None:
    rows = [{"_id": f"d{n}", "title": "", "text": text} for n, text in enumerate(TEXTS)]
    asked = [{"_id": f"q{n}", "text": text} for n, text in enumerate(TEXTS[:3])]
    for name, lines in (("corpus", rows), ("queries", asked)):
        text = "\n".join(json.dumps(line) for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "qrels").mkdir()
    judged = "".join(f"q{n}\td{n}\t1\n" for n in range(3))
    (tmp_path / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    measured: dict[str, Any] = {}
    for name, fusion in (("equal", None), ("lexical", Fusion(weights=(0.0, 0.0, 1.0)))):
        report = evaluate_folder(
            tmp_path,
            modes=("lexical", "hybrid"),
            encoder=str(folder),
            rerank=False,
            fusion=fusion,
            measures=("MRR@10",),
            **RUNNING,
        )
        for row in report.rows:
            measured[f"{name} {row.mode}"] = {
                query: sorted(scores, key=lambda document: -scores[document])
                for query, scores in row.run.items()
            }
    assert measured["equal lexical"] == measured["lexical lexical"]
    assert measured["equal hybrid"] != measured["lexical hybrid"]
    for query, documents in measured["lexical lexical"].items():
        assert measured["lexical hybrid"][query][: len(documents)] == documents
    with pytest.raises(InvalidInput, match="hybrid is not among the modes"):
        evaluate_folder(tmp_path, modes=("dense",), fusion=Fusion())
