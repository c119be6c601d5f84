"""The LlamaIndex adapters over a real collection with real models."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder

import retrieval
from retrieval import TwoStageRetriever
from retrieval.errors import InvalidFilter, InvalidInput, InvalidQuery, RetrievalError

pytest.importorskip("llama_index.core", reason="the extra 'llama-index' is not installed")

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import (
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    TextNode,
)
from llama_index.core.storage.kvstore import SimpleKVStore

from retrieval.integrations.llama_index import (
    RetrievalEmbedding,
    RetrievalReranker,
    TwoStageLlamaIndexRetriever,
)

QUERY = "when are travel costs paid back?"


# --- the retriever --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rerank": False, "top_k": 3},
        {"mode": "dense", "rerank": False},
        {"mode": "sparse", "blend": "none"},
        {"where": {"team": "it"}},
        {"per_document": 1, "neighbours": 1},
    ],
)
def test_nodes_say_what_the_hits_say(office: TwoStageRetriever, options: dict[str, Any]) -> None:
    nodes = TwoStageLlamaIndexRetriever(office, **options).retrieve(QUERY)
    hits = office.search(QUERY, **options).hits
    assert [n.node_id for n in nodes] == [hit.passage.id for hit in hits]
    for found, hit in zip(nodes, hits, strict=True):
        node, passage = found.node, hit.passage
        assert isinstance(node, TextNode)
        assert found.score == hit.score
        assert node.text == passage.text
        assert (node.start_char_idx, node.end_char_idx) == (passage.start, passage.end)
        assert node.ref_doc_id == passage.document_id
        assert node.metadata["relevance"] == hit.relevance
        assert node.metadata["stage1_score"] == hit.stage1_score
        assert node.metadata["stage2_rank"] == hit.stage2_rank
        assert node.metadata["team"] == passage.metadata["team"]
        source = node.relationships[NodeRelationship.SOURCE]
        assert source.hash == passage.document_hash  # type: ignore[union-attr]
        before = node.relationships.get(NodeRelationship.PREVIOUS)
        assert (before and before.node_id) == (  # type: ignore[union-attr]
            hit.before[-1].id if hit.before else None
        )
    scores = [n.score for n in nodes]
    assert scores == sorted(scores, reverse=True)  # whoever sorts by it keeps the order


def test_the_score_may_be_the_relevance(office: TwoStageRetriever) -> None:
    retriever = TwoStageLlamaIndexRetriever(office, score="relevance")
    nodes = retriever.retrieve(QUERY)
    assert [n.score for n in nodes] == [hit.relevance for hit in office.search(QUERY).hits]
    middle = sorted(n.score or 0.0 for n in nodes)[len(nodes) // 2]
    kept = SimilarityPostprocessor(similarity_cutoff=middle).postprocess_nodes(nodes)
    assert 0 < len(kept) < len(nodes)
    lexical = TwoStageLlamaIndexRetriever(office, score="relevance", mode="sparse", rerank=False)
    assert {n.score for n in lexical.retrieve(QUERY)} == {None}


def test_asynchronous_searches_find_the_same(office: TwoStageRetriever) -> None:
    inside, go = threading.Event(), threading.Event()

    class Slow:
        def search_batch(self, queries: Sequence[str], **options: Any) -> Any:
            inside.set()
            assert go.wait(20)
            return office.search_batch(queries, **options)

    async def main() -> list[NodeWithScore]:
        task = asyncio.create_task(
            TwoStageLlamaIndexRetriever(Slow(), top_k=3).aretrieve(QUERY)  # type: ignore[arg-type]
        )
        # the loop goes on while the search is stuck in its thread
        assert await asyncio.to_thread(inside.wait, 20)
        go.set()
        return await task

    expected = [hit.passage.id for hit in office.search(QUERY, top_k=3).hits]
    assert [n.node_id for n in asyncio.run(main())] == expected


def test_bad_arguments_are_refused_when_it_is_made(
    office: TwoStageRetriever, office_store: Path
) -> None:
    for options, message in [
        ({"top_k": 0}, "top_k is 0"),
        ({"similarity_top_k": 3}, "no search option 'similarity_top_k'"),
        ({"score": "cosine"}, "score is 'cosine', expected one of order, relevance"),
        ({"refine": 5}, "refine|token vectors"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            TwoStageLlamaIndexRetriever(office, **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidFilter):
        TwoStageLlamaIndexRetriever(office, where="year > 2000")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="retriever is a int"):
        TwoStageLlamaIndexRetriever(3)  # type: ignore[arg-type]
    with pytest.raises(RetrievalError, match="no-such"):
        TwoStageLlamaIndexRetriever.from_collection("no-such", store=office_store)


def test_what_a_search_cannot_follow_is_refused_not_dropped(office: TwoStageRetriever) -> None:
    retriever = TwoStageLlamaIndexRetriever(office)
    with pytest.raises(InvalidQuery):
        retriever.retrieve("")
    with pytest.raises(InvalidInput, match="custom_embedding_strs"):
        retriever.retrieve(QueryBundle(QUERY, custom_embedding_strs=["an imagined answer"]))
    assert retriever.retrieve(QueryBundle(QUERY, custom_embedding_strs=[QUERY], embedding=[0.0]))


def test_by_collection_name_it_opens_and_closes(tmp_path: Path) -> None:
    store, encoder = tmp_path / "store", HashingEncoder()
    documents = [retrieval.Document(f"d{n}", f"old number {n}") for n in range(3)]
    retrieval.ingest(documents, "notes", store=store, encoder=encoder)
    with TwoStageLlamaIndexRetriever.from_collection(
        "notes", store=store, encoder=encoder, reranker=None, top_k=1
    ) as retriever:
        assert retriever.retrieve("number 2")[0].node.ref_doc_id == "d2"
    with pytest.raises(InvalidInput, match="score"):
        TwoStageLlamaIndexRetriever.from_collection(
            "notes",
            store=store,
            encoder=encoder,
            reranker=None,
            score="best",  # type: ignore[arg-type]
        )
    # an embedded store can be opened once: the two above have closed it
    retrieval.open("notes", store=store, encoder=encoder, reranker=None).close()


def test_a_language_model_reads_the_text_and_not_the_scores(office: TwoStageRetriever) -> None:
    node = TwoStageLlamaIndexRetriever(office, neighbours=1).retrieve(QUERY)[0].node
    shown = node.get_content(metadata_mode=MetadataMode.LLM)
    assert "source: office/expenses.md" in shown
    assert "team: finance" in shown
    for hidden in ("stage1_score", "relevance", "passage_id", "after"):
        assert hidden in node.metadata
        assert f"{hidden}:" not in shown
    assert "score" not in node.get_content(metadata_mode=MetadataMode.EMBED)


def test_a_query_engine_answers_from_both_stages(office: TwoStageRetriever) -> None:
    listener = LlamaDebugHandler(print_trace_on_end=False)
    manager = CallbackManager([listener])
    model: Any = office.reranker
    engine = RetrieverQueryEngine.from_args(
        TwoStageLlamaIndexRetriever(office, rerank=False, top_k=8, callback_manager=manager),
        llm=MockLLM(),
        node_postprocessors=[RetrievalReranker(model, top_n=2, callback_manager=manager)],
        callback_manager=manager,
    )
    expected = [hit.passage.id for hit in office.search(QUERY, candidates=8, top_k=2).hits]
    response = engine.query(QUERY)
    assert [n.node_id for n in response.source_nodes] == expected
    assert "paid back within ten days" in str(response)  # the mock repeats its prompt
    assert "stage1_score" not in str(response)
    assert len(listener.get_event_pairs(CBEventType.RETRIEVE)) == 1
    assert len(listener.get_event_pairs(CBEventType.RERANKING)) == 1
    again = asyncio.run(engine.aquery(QUERY))
    assert [n.node_id for n in again.source_nodes] == expected


# --- the reranker ---------------------------------------------------------------------------


@pytest.mark.parametrize("blend", [None, "none", "rrf", "scores"])
def test_it_orders_as_the_search_does(office: TwoStageRetriever, blend: Any) -> None:
    # by vectors, which is what an adapter takes the nodes to come from
    by_vectors = TwoStageLlamaIndexRetriever(office, rerank=False, top_k=8, mode="dense")
    given = by_vectors.retrieve(QUERY)
    came_with = {n.node_id: n.score for n in given}
    model: Any = office.reranker
    nodes = RetrievalReranker(model, blend=blend).postprocess_nodes(given, query_str=QUERY)
    hits = office.search(QUERY, mode="dense", candidates=8, top_k=8, blend=blend).hits
    assert [n.node_id for n in nodes] == [hit.passage.id for hit in hits]
    for found, hit in zip(nodes, hits, strict=True):
        assert found.score == pytest.approx(hit.score, abs=1e-4)
        assert found.node.metadata["relevance_score"] == pytest.approx(hit.relevance, abs=1e-4)
        assert found.node.metadata["rerank_score"] == pytest.approx(hit.stage2_score, abs=1e-4)
        assert found.node.metadata["retrieval_score"] == came_with[found.node_id]
        assert found.node.ref_doc_id == hit.passage.document_id
        assert "relevance_score" not in found.node.get_content(metadata_mode=MetadataMode.LLM)
    assert {n.node_id: n.score for n in given} == came_with  # what was given is not changed
    assert "relevance_score" not in given[0].node.metadata
    again = asyncio.run(
        RetrievalReranker(model, blend=blend).apostprocess_nodes(given, None, QUERY)
    )
    assert [n.node_id for n in again] == [n.node_id for n in nodes]


def test_reranker_limits_and_refusals(office: TwoStageRetriever) -> None:
    model: Any = office.reranker
    nodes = [
        NodeWithScore(node=TextNode(text=text)) for text in ("fish", "travel costs are paid back")
    ]
    kept = RetrievalReranker(model, top_n=1, blend="none", score="relevance").postprocess_nodes(
        nodes, query_str=QUERY
    )
    assert [n.node.get_content() for n in kept] == ["travel costs are paid back"]
    assert kept[0].score == kept[0].node.metadata["relevance_score"]
    threshold = kept[0].score
    assert threshold is not None
    above = RetrievalReranker(model, min_relevance=threshold).postprocess_nodes(
        nodes, query_str=QUERY
    )
    assert len(above) == 1
    assert RetrievalReranker(model).postprocess_nodes([], query_str=QUERY) == []
    with pytest.raises(InvalidInput, match="without a query"):
        RetrievalReranker(model).postprocess_nodes(nodes)
    for arguments, message in [
        ({"top_n": -1}, "top_n is -1"),
        ({"min_relevance": 1.5}, "min_relevance is 1.5"),
        ({"model": "none"}, "nothing to re-rank with"),
        ({"options": {"threads": 2}}, "besides a reranker"),
        ({"model": "all-MiniLM-L6-v2", "options": {"shade": 1}}, "no option 'shade'"),
        ({"score": "logit"}, "score is 'logit'"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            RetrievalReranker(**{"model": model, **arguments})


# --- the embedding --------------------------------------------------------------------------


def test_vectors_are_those_of_the_encoder(office: TwoStageRetriever) -> None:
    embedding = RetrievalEmbedding(office.encoder)
    texts = ["the canteen serves soup", QUERY, "fish"]
    expected = office.encoder.encode_passages(texts).vectors.tolist()
    query = office.encoder.encode_queries([QUERY])[0].tolist()
    assert embedding.get_text_embedding_batch(texts) == expected
    assert embedding.get_query_embedding(QUERY) == query
    assert embedding.get_text_embedding(texts[0]) == pytest.approx(expected[0], abs=1e-3)
    assert asyncio.run(embedding.aget_text_embedding_batch(texts)) == expected
    assert asyncio.run(embedding.aget_query_embedding(QUERY)) == query
    assert asyncio.run(embedding.aget_text_embedding("fish")) == embedding.get_text_embedding(
        "fish"
    )
    assert embedding.get_text_embedding_batch([]) == []


def test_only_queries_carry_the_query_instruction() -> None:
    options = {"query_instruction": "Find passages on: ", "threads": 2}
    embedding = RetrievalEmbedding("all-MiniLM-L6-v2", options=options)
    text = "soup and bread"
    query, passage = embedding.get_query_embedding(text), embedding.get_text_embedding(text)
    assert np.dot(query, passage) < 0.99
    prefixed = embedding.get_text_embedding(f"Find passages on: {text}")
    assert np.dot(query, prefixed) == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(InvalidInput, match="embeddings_cache was given"):
        RetrievalEmbedding("all-MiniLM-L6-v2", options=options, embeddings_cache=SimpleKVStore())
    saved = RetrievalEmbedding.from_dict(embedding.to_dict())
    assert saved.get_query_embedding(text) == query
    embedding.close()


def test_an_index_of_llama_index_finds_with_it(office: TwoStageRetriever) -> None:
    embedding = RetrievalEmbedding(office.encoder)
    nodes = [n.node for n in TwoStageLlamaIndexRetriever(office, top_k=8).retrieve(QUERY)]
    embedded = IngestionPipeline(transformations=[embedding]).run(nodes=nodes)
    index = VectorStoreIndex(
        embedded, embed_model=embedding, storage_context=StorageContext.from_defaults()
    )
    found = index.as_retriever(similarity_top_k=1).retrieve("soup in the canteen")
    assert found[0].node.ref_doc_id == "lunch"
    assert found[0].node.metadata["title"] == "Lunch"


# --- saved and loaded -----------------------------------------------------------------------


def test_models_by_name_survive_being_saved(office: TwoStageRetriever) -> None:
    embedding = RetrievalEmbedding("all-MiniLM-L6-v2", options={"threads": 2}, embed_batch_size=32)
    written = json.loads(embedding.to_json())
    assert written["model_name"] == "all-MiniLM-L6-v2"
    assert written["fingerprint"] == office.encoder.info.fingerprint
    loaded = RetrievalEmbedding.from_dict(written)
    assert loaded.embed_batch_size == 32
    assert loaded.get_query_embedding(QUERY) == embedding.get_query_embedding(QUERY)
    assert pickle.loads(pickle.dumps(embedding)).get_query_embedding(
        QUERY
    ) == embedding.get_query_embedding(QUERY)

    reranker = RetrievalReranker("maxsim", top_n=1, blend="none", options={"threads": 2})
    again = RetrievalReranker.from_json(reranker.to_json())
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in ("fish", "travel costs")]
    first = reranker.postprocess_nodes(nodes, query_str=QUERY)
    second = again.postprocess_nodes(nodes, query_str=QUERY)
    assert (again.top_n, again.blend) == (1, "none")
    assert [(n.node_id, n.score) for n in first] == [(n.node_id, n.score) for n in second]


def test_other_weights_than_the_saved_ones_are_refused() -> None:
    with pytest.raises(InvalidInput, match="was saved with sha256:other"):
        RetrievalEmbedding("all-MiniLM-L6-v2", fingerprint="sha256:other")
    with pytest.raises(InvalidInput, match="was saved with sha256:other"):
        RetrievalReranker("maxsim", fingerprint="sha256:other")


# --- nothing leaves the machine -------------------------------------------------------------


def test_neither_framework_opens_a_connection(tmp_path: Path) -> None:
    """Import, embed, search and re-rank through both, with every connection forbidden."""
    code = f"""
import os, socket
for name in list(os.environ):
    if name.startswith(("LANGSMITH", "LANGCHAIN")):
        del os.environ[name]
tried = []
def refuse(self, address):
    if self.family != socket.AF_UNIX:
        tried.append(address)
        raise OSError(f"a connection to {{address}}")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda host, *more, **most: refuse(socket.socket(), host)

import retrieval
from retrieval.integrations.langchain import (
    RetrievalEmbeddings, RetrievalReranker, TwoStageLangChainRetriever)
from retrieval.integrations import llama_index

store = {str(tmp_path / "store")!r}
documents = [retrieval.Document(str(n), f"number {{n}}") for n in range(3)]
retrieval.ingest(documents, "docs", store=store, encoder="all-MiniLM-L6-v2")
with retrieval.open("docs", store=store, reranker="maxsim") as open_one:
    found = TwoStageLangChainRetriever(open_one).invoke("number 1")
    assert RetrievalReranker(open_one.reranker).compress_documents(found, "number 1")
    assert RetrievalEmbeddings(open_one.encoder).embed_query("number 1")
    nodes = llama_index.TwoStageLlamaIndexRetriever(open_one).retrieve("number 1")
    reranker = llama_index.RetrievalReranker(open_one.reranker)
    assert reranker.postprocess_nodes(nodes, query_str="number 1")
    assert llama_index.RetrievalEmbedding(open_one.encoder).get_text_embedding("number 1")
assert not tried, tried
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
