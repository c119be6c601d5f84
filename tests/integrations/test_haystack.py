"""Haystack's components in real pipelines, with the starter models and an embedded store."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # before haystack is imported

import pytest

pytest.importorskip("haystack")

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import (
    InMemoryBM25Retriever,
    InMemoryEmbeddingRetriever,
)
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import Secret

import retrieval
from retrieval.errors import InvalidFilter, InvalidInput, InvalidQuery
from retrieval.integrations.haystack import (
    RetrievalDocumentEmbedder,
    RetrievalRanker,
    RetrievalTextEmbedder,
    TwoStageHaystackRetriever,
)
from retrieval.integrations.haystack.filters import where_of

QUERY = "how do I get my travel costs back?"
OPTIONS = {"threads": 2}
TEXTS = {
    "expenses": "Travel costs are paid back within ten days.",
    "lunch": "The canteen serves soup and bread until two.",
    "passwords": "Passwords have fourteen characters.",
    "backups": "Copies of the database are made every night.",
}
YEARS = {"expenses": 2024, "lunch": 2023, "passwords": 2022, "backups": 2021}


@pytest.fixture(scope="module")
def encoder() -> retrieval.BiEncoder:
    return retrieval.BiEncoder("all-MiniLM-L6-v2", threads=2, query_instruction="query: ")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two of the same: one stays open, the other is opened by pipelines."""
    folder = tmp_path_factory.mktemp("haystack") / "store"
    documents = [
        retrieval.Document(id=id_, text=text, title=id_.title(), metadata={"year": YEARS[id_]})
        for id_, text in TEXTS.items()
    ]
    retrieval.ingest(documents, "docs", store=str(folder), encoder="all-MiniLM-L6-v2")
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    return str(folder), str(copy)


@pytest.fixture(scope="module")
def opened(stores: tuple[str, str]) -> Iterator[retrieval.TwoStageRetriever]:
    with retrieval.open("docs", store=stores[0], reranker="maxsim", threads=2) as retriever:
        yield retriever


def documents() -> list[Document]:
    return [
        Document(id=id_, content=text, meta={"year": YEARS[id_]}) for id_, text in TEXTS.items()
    ]


def test_the_retriever_gives_what_a_search_gives(opened: retrieval.TwoStageRetriever) -> None:
    expected = opened.search(QUERY, top_k=3)
    found = TwoStageHaystackRetriever(opened, top_k=3).run(QUERY)
    for document, hit in zip(found["documents"], expected.hits, strict=True):
        assert document.id == hit.passage.id
        assert document.content == hit.passage.text
        assert document.score == hit.score
        for name in ("rank", "score", "relevance", "stage1_rank", "stage1_score", "stage2_score"):
            assert document.meta[name] == getattr(hit, name)
        assert document.meta["year"] == hit.passage.metadata["year"]
        assert document.meta["document_id"] == hit.passage.document_id
    assert found["documents"][0].meta["document_id"] == "expenses"
    assert found["meta"]["encoder"] == expected.encoder
    assert found["meta"]["reranker"] == expected.reranker
    assert found["meta"]["timings_ms"]["total"] > 0


def test_scores_can_be_scaled(opened: retrieval.TwoStageRetriever) -> None:
    found = TwoStageHaystackRetriever(opened, scale_score=True).run(QUERY)["documents"]
    assert [document.score for document in found] == [d.meta["relevance"] for d in found]


def test_a_pipeline_survives_being_saved(stores: tuple[str, str]) -> None:
    pipeline = Pipeline()
    retriever = TwoStageHaystackRetriever(
        "docs",
        store=stores[1],
        top_k=4,
        filters={"field": "meta.year", "operator": ">=", "value": 2022},
        filter_policy="merge",
        search_options={"mode": "dense"},
        open_options={"reranker": "none", "threads": 2},
    )
    pipeline.add_component("retriever", retriever)
    pipeline.add_component("ranker", RetrievalRanker("maxsim", top_k=2, model_options=OPTIONS))
    pipeline.connect("retriever.documents", "ranker.documents")
    inputs = {"retriever": {"query": QUERY}, "ranker": {"query": QUERY}}
    try:
        before = pipeline.run(inputs)
        saved = pipeline.dumps()
    finally:
        close(pipeline)
    assert "fingerprint: sha256:" in saved

    again = Pipeline.loads(saved, allowed_modules=["retrieval.integrations.*"])
    try:
        after = again.run(inputs)
    finally:
        close(again)
    assert again.dumps() == saved
    first, second = before["ranker"]["documents"], after["ranker"]["documents"]
    assert [d.id for d in first] == [d.id for d in second]
    assert [d.score for d in first] == [d.score for d in second]
    assert first[0].meta["document_id"] == "expenses"
    assert {d.meta["year"] for d in first} <= {2022, 2023, 2024}
    assert first[0].meta["stage1_score"] == second[0].meta["stage1_score"]
    assert 0 <= first[0].meta["relevance"] <= 1


def close(pipeline: Pipeline) -> None:
    for name in ("retriever", "ranker"):
        pipeline.get_component(name).close()


def test_api_keys_are_saved_as_names_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret-value")
    retriever = TwoStageHaystackRetriever(api_key=Secret.from_env_var("SOME_KEY"))
    data = retriever.to_dict()
    assert "secret-value" not in str(data)
    loaded = TwoStageHaystackRetriever.from_dict(data)
    assert loaded.api_key is not None
    assert loaded.api_key.resolve_value() == "secret-value"


def test_embedders_fill_and_search_haystacks_own_store(encoder: retrieval.BiEncoder) -> None:
    embedder = RetrievalDocumentEmbedder(encoder)
    embedded = embedder.run(documents())
    assert embedded["meta"]["usage"]["prompt_tokens"] > 20
    assert embedded["meta"]["truncated"] == []
    assert [d.meta for d in embedded["documents"]] == [d.meta for d in documents()]
    in_memory = InMemoryDocumentStore(embedding_similarity_function="cosine")
    in_memory.write_documents(embedded["documents"])

    pipeline = Pipeline()
    pipeline.add_component("embedder", RetrievalTextEmbedder(encoder))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(in_memory, top_k=2))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    best = pipeline.run({"embedder": {"text": QUERY}})["retriever"]["documents"][0]
    assert best.id == "expenses"
    expected = (
        encoder.encode_queries([QUERY])[0] @ encoder.encode_passages([best.content]).vectors[0]
    )
    assert best.score == pytest.approx(float(expected), abs=0.02)


def test_only_queries_get_the_instruction(encoder: retrieval.BiEncoder) -> None:
    query = RetrievalTextEmbedder(encoder).run("soup")["embedding"]
    passage = RetrievalDocumentEmbedder(encoder).run([Document(content="soup")])["documents"]
    assert query == encoder.encode_queries(["soup"])[0].tolist()
    assert passage[0].embedding == encoder.encode_passages(["soup"]).vectors[0].tolist()
    assert query != passage[0].embedding


def test_documents_are_not_changed_and_cuts_are_told(encoder: retrieval.BiEncoder) -> None:
    long = Document(id="long", content="soup " * 2000, meta={"kind": "soup"})
    answer = RetrievalDocumentEmbedder(encoder, meta_fields_to_embed=["kind"]).run([long])
    assert long.embedding is None
    assert answer["meta"]["truncated"] == ["long"]
    with_meta = RetrievalDocumentEmbedder(
        encoder, meta_fields_to_embed=["kind", "none"], embedding_separator=" | "
    ).run([Document(content="bread", meta={"kind": "soup"})])["documents"][0]
    expected = encoder.encode_passages(["soup | bread"]).vectors[0].tolist()
    assert with_meta.embedding == expected


def test_embedders_survive_being_saved() -> None:
    text = RetrievalTextEmbedder("all-MiniLM-L6-v2", model_options=OPTIONS)
    text.warm_up()
    saved = text.to_dict()
    assert saved["init_parameters"]["fingerprint"].startswith("sha256:")
    again = RetrievalTextEmbedder.from_dict(saved)
    assert again.run("soup") == text.run("soup")
    documents_embedder = RetrievalDocumentEmbedder.from_dict(
        RetrievalDocumentEmbedder("all-MiniLM-L6-v2", OPTIONS, None, ["year"], " ").to_dict()
    )
    assert documents_embedder.meta_fields_to_embed == ["year"]
    for one in (text, again, documents_embedder):
        one.close()
    other = RetrievalTextEmbedder("all-MiniLM-L6-v2", OPTIONS, fingerprint="sha256:other")
    with pytest.raises(InvalidInput, match="fingerprint"):
        other.warm_up()


def test_the_ranker_orders_what_others_found() -> None:
    in_memory = InMemoryDocumentStore()
    in_memory.write_documents(documents())
    pipeline = Pipeline()
    pipeline.add_component("bm25", InMemoryBM25Retriever(in_memory))
    pipeline.add_component(
        "ranker", RetrievalRanker("maxsim", model_options=OPTIONS, blend="none", scale_score=True)
    )
    pipeline.connect("bm25.documents", "ranker.documents")
    words = "costs canteen passwords database"
    inputs = {"bm25": {"query": words}, "ranker": {"query": QUERY, "top_k": 3}}
    ranked = asyncio.run(pipeline.run_async(inputs))["ranker"]["documents"]
    pipeline.get_component("ranker").close()
    assert [document.meta["rank"] for document in ranked] == [1, 2, 3]
    assert ranked[0].id == "expenses"
    scores = [document.score for document in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(document.meta["year"] == YEARS[document.id] for document in ranked)


def test_the_ranker_leaves_its_input_alone(opened: retrieval.TwoStageRetriever) -> None:
    assert opened.reranker is not None
    ranker = RetrievalRanker(opened.reranker, min_relevance=0.0)
    given = documents()
    assert len(ranker.run(QUERY, given)["documents"]) == len(given)
    assert given == documents()
    assert ranker.run(QUERY, [])["documents"] == []
    with pytest.raises(InvalidQuery):
        ranker.run("", given)
    with pytest.raises(InvalidInput, match="content"):
        ranker.run(QUERY, [Document(id="empty")])


def test_objects_cannot_be_saved(
    opened: retrieval.TwoStageRetriever, encoder: retrieval.BiEncoder
) -> None:
    for component in (
        TwoStageHaystackRetriever(opened),
        RetrievalTextEmbedder(encoder),
        RetrievalDocumentEmbedder(encoder),
        RetrievalRanker(opened.reranker),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidInput, match="cannot be saved"):
            component.to_dict()


def test_async_answers_are_the_same(opened: retrieval.TwoStageRetriever) -> None:
    component = TwoStageHaystackRetriever(opened, top_k=2)
    found = asyncio.run(component.run_async(QUERY, top_k=3))
    component.close()  # which leaves open what it was given
    assert found["documents"] == component.run(QUERY, top_k=3)["documents"]
    assert len(found["documents"]) == 3


def compare(field: str, operator: str, value: Any) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value}


def joined(operator: str, *conditions: Any) -> dict[str, Any]:
    return {"operator": operator, "conditions": list(conditions)}


FILTERS: list[tuple[dict[str, Any], set[str]]] = [
    (compare("meta.year", "==", 2024), {"expenses"}),
    (compare("meta.year", "!=", 2024), {"lunch", "passwords", "backups"}),
    (compare("meta.year", ">", 2023), {"expenses"}),
    (compare("year", "<=", 2022), {"passwords", "backups"}),
    (compare("meta.year", "in", [2021, 2024]), {"expenses", "backups"}),
    (compare("meta.year", "not in", [2021, 2024]), {"lunch", "passwords"}),
    (compare("meta.none", "==", None), set(TEXTS)),
    (compare("meta.none", "!=", 1), set(TEXTS)),
    (
        joined("NOT", compare("meta.year", ">=", 2022), compare("meta.year", "<", 2024)),
        {"expenses", "backups"},
    ),
    (
        joined(
            "OR", compare("meta.year", "==", 2021), joined("AND", compare("meta.year", ">=", 2024))
        ),
        {"expenses", "backups"},
    ),
    ({"year": {"gte": 2024}}, {"expenses"}),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS)
def test_filters_mean_what_haystack_means(
    opened: retrieval.TwoStageRetriever, filters: dict[str, Any], expected: set[str]
) -> None:
    found = TwoStageHaystackRetriever(opened).run(QUERY, filters=filters)["documents"]
    assert {document.meta["document_id"] for document in found} == expected
    if "operator" in filters:
        in_memory = InMemoryDocumentStore()
        in_memory.write_documents(documents())
        assert {d.id for d in in_memory.filter_documents(filters)} == expected


@pytest.mark.parametrize(
    ("policy", "expected"), [("replace", {"passwords", "backups"}), ("merge", {"passwords"})]
)
def test_filter_policies(
    opened: retrieval.TwoStageRetriever, policy: str, expected: set[str]
) -> None:
    component = TwoStageHaystackRetriever(
        opened, filters={"year": {"gte": 2022}}, filter_policy=policy
    )
    found = component.run(QUERY, filters={"field": "meta.year", "operator": "<", "value": 2023})
    assert {document.meta["document_id"] for document in found["documents"]} == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"operator": "AND", "conditions": []},
        {"operator": "XOR", "conditions": [{"field": "a", "operator": "==", "value": 1}]},
        {"operator": "AND", "conditions": ["a"]},
        {"field": "a", "operator": "like", "value": 1},
        {"field": "a", "operator": "=="},
        {"field": "a", "operator": "in", "value": "b"},
        {"field": "a", "operator": "==", "value": [1]},
        "year > 2020",
    ],
)
def test_filters_that_cannot_be_understood(wrong: Any) -> None:
    with pytest.raises(InvalidFilter):
        where_of(wrong)


def test_wrong_settings_are_refused_at_once(opened: retrieval.TwoStageRetriever) -> None:
    with pytest.raises(InvalidInput, match="top_k"):
        TwoStageHaystackRetriever(opened, top_k=0)
    with pytest.raises(InvalidInput, match="no search option 'depth'"):
        TwoStageHaystackRetriever(opened, search_options={"depth": 3})
    with pytest.raises(InvalidInput, match="blend"):
        RetrievalRanker("maxsim", blend="mean")  # type: ignore[arg-type]
    with pytest.raises(retrieval.RetrievalError):
        TwoStageHaystackRetriever("missing", store=str(Path("nowhere"))).warm_up()
