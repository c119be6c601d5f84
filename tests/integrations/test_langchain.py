"""The LangChain adapters over a real collection with real models."""

from __future__ import annotations

import asyncio
import importlib
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hashing_encoder import HashingEncoder

import retrieval
from retrieval import TwoStageRetriever
from retrieval.errors import (
    InvalidFilter,
    InvalidInput,
    InvalidQuery,
    MissingExtra,
    RetrievalError,
)

pytest.importorskip("langchain_core", reason="the extra 'langchain' is not installed")

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.load import dumps
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from retrieval.integrations.langchain import (
    RetrievalEmbeddings,
    RetrievalReranker,
    TwoStageLangChainRetriever,
)

QUERY = "when are travel costs paid back?"


# --- embeddings -----------------------------------------------------------------------------


def test_vectors_are_those_of_the_encoder(office: TwoStageRetriever) -> None:
    embeddings = RetrievalEmbeddings(office.encoder)
    texts = ["the canteen serves soup", QUERY]
    assert (
        embeddings.embed_documents(texts) == office.encoder.encode_passages(texts).vectors.tolist()
    )
    assert embeddings.embed_query(QUERY) == office.encoder.encode_queries([QUERY])[0].tolist()
    assert embeddings.embed_documents([]) == []
    assert asyncio.run(embeddings.aembed_query(QUERY)) == embeddings.embed_query(QUERY)
    assert asyncio.run(embeddings.aembed_documents(texts)) == embeddings.embed_documents(texts)


def test_only_queries_carry_the_query_instruction() -> None:
    embeddings = RetrievalEmbeddings(
        "all-MiniLM-L6-v2", query_instruction="Find passages on: ", threads=2
    )
    plain = RetrievalEmbeddings("all-MiniLM-L6-v2", threads=2)
    text = "soup and bread"
    assert embeddings.embed_documents([text]) == plain.embed_documents([text])
    with_instruction = plain.embed_documents([f"Find passages on: {text}"])[0]
    assert np.dot(embeddings.embed_query(text), with_instruction) == pytest.approx(1.0, abs=1e-3)
    assert np.dot(embeddings.embed_query(text), plain.embed_query(text)) < 0.99
    embeddings.close()


def test_texts_that_are_cut_are_told(
    office: TwoStageRetriever, caplog: pytest.LogCaptureFixture
) -> None:
    embeddings = RetrievalEmbeddings(office.encoder)
    embeddings.embed_documents(["short", "also short"])
    embeddings.embed_query("x" * 260)  # characters enough, but few tokens or none too many
    embeddings.embed_query("word " * 100)
    assert not caplog.records
    embeddings.embed_documents(["word " * 300, "short"])
    embeddings.embed_query("word " * 300)
    texts, query = (record.getMessage() for record in caplog.records)
    assert "1 of 2 texts are longer than" in texts
    assert "the query has 302 tokens" in query


def test_a_vector_store_of_langchain_finds_with_them(office: TwoStageRetriever) -> None:
    texts = ["the canteen serves soup", "travel costs are paid back", "copies of the database"]
    store = InMemoryVectorStore.from_texts(texts, RetrievalEmbeddings(office.encoder))
    assert store.similarity_search(QUERY, k=1)[0].page_content == texts[1]
    found = asyncio.run(store.asimilarity_search("backups", k=1))
    assert found[0].page_content == texts[2]


def test_embeddings_refuse_what_they_cannot_use(office: TwoStageRetriever) -> None:
    with pytest.raises(InvalidInput, match="model is a int, expected a name or an encoder"):
        RetrievalEmbeddings(7)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="no option 'colour'"):
        RetrievalEmbeddings("all-MiniLM-L6-v2", colour="red")
    with pytest.raises(InvalidInput, match="threads was given besides an encoder"):
        RetrievalEmbeddings(office.encoder, threads=2)
    with pytest.raises(RetrievalError, match="no-such-model"):
        RetrievalEmbeddings("./no-such-model")


# --- the retriever --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rerank": False},
        {"mode": "dense", "rerank": False, "top_k": 2},
        {"mode": "sparse", "top_k": 3, "blend": "none"},
        {"where": {"team": "it"}, "diversity": 0.4},
        {"per_document": 1, "neighbours": 1, "offset": 1},
    ],
)
def test_documents_say_what_the_hits_say(
    office: TwoStageRetriever, options: dict[str, Any]
) -> None:
    documents = TwoStageLangChainRetriever(office, **options).invoke(QUERY)
    hits = office.search(QUERY, **options).hits
    assert [d.id for d in documents] == [hit.passage.id for hit in hits]
    for document, hit in zip(documents, hits, strict=True):
        found, passage = document.metadata, hit.passage
        assert document.page_content == passage.text
        assert found["document_id"] == passage.document_id
        assert (found["start"], found["end"]) == (passage.start, passage.end)
        assert found["title"] == passage.title
        for name in ("rank", "score", "relevance", "stage1_rank", "stage2_rank", "stage2_score"):
            assert found[name] == getattr(hit, name), name
        assert [b["text"] for b in found.get("before", [])] == [b.text for b in hit.before]
        assert [a["passage_id"] for a in found.get("after", [])] == [a.id for a in hit.after]
        assert found["team"] == passage.metadata["team"]


def test_options_of_a_call_stand_before_those_of_the_retriever(office: TwoStageRetriever) -> None:
    retriever = TwoStageLangChainRetriever(office, top_k=4, where={"team": "it"})
    assert len(retriever.invoke(QUERY, top_k=1)) == 1
    others = retriever.invoke(QUERY, where={"team": "kitchen"})
    assert {d.metadata["document_id"] for d in others} == {"lunch"}
    assert {d.metadata["document_id"] for d in retriever.invoke(QUERY)} == {"passwords", "backups"}
    assert len(retriever.batch([QUERY, "soup"], top_k=2)[1]) == 2


def test_a_documents_own_metadata_is_never_lost(office: TwoStageRetriever) -> None:
    found = TwoStageLangChainRetriever(office).invoke("lost password")[0].metadata
    assert found["title"] == "Passwords"
    assert found["rank"] == 1
    assert found["url"] == "x"
    assert found["metadata"] == {"title": "Own title", "rank": "secret"}
    found = TwoStageLangChainRetriever(office).invoke("copies of the database")[0].metadata
    assert found["source"] == "https://wiki.test/backups"  # the passage has none of its own
    assert found["metadata"] == {"metadata": 7}


def test_notices_of_a_search_reach_its_documents(office: TwoStageRetriever) -> None:
    retriever = TwoStageLangChainRetriever(office, top_k=5, candidates=5)
    documents = retriever.invoke(QUERY, offset=3)
    (notice,) = office.search(QUERY, top_k=5, candidates=5, offset=3).notices
    assert documents[0].metadata["notices"] == [notice]
    assert "notices" not in retriever.invoke(QUERY)[0].metadata


def test_bad_arguments_are_refused_when_it_is_made(
    office: TwoStageRetriever, office_store: Path
) -> None:
    for options, message in [
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": "3"}, "top_k is '3'"),
        ({"k": 3}, "no search option 'k'; expected one of .*top_k"),
        ({"mode": "lexical"}, "stores no lexical weights"),
        ({"min_relevance": 2.0}, "min_relevance"),
        ({"diversity": -1}, "diversity"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            TwoStageLangChainRetriever(office, **options)  # type: ignore[arg-type]
    with pytest.raises(InvalidFilter):
        TwoStageLangChainRetriever(office, where={"year": {"about": 2000}})
    with pytest.raises(InvalidInput, match="retriever is 'office', expected an open"):
        TwoStageLangChainRetriever("office")  # type: ignore[arg-type]
    with pytest.raises(RetrievalError, match="no-such"):
        TwoStageLangChainRetriever.from_collection("no-such", store=office_store)


def test_errors_of_a_search_pass_unchanged_and_reach_callbacks(office: TwoStageRetriever) -> None:
    heard: list[str] = []

    class Listener(BaseCallbackHandler):
        def on_retriever_start(self, serialized: Any, query: str, **more: Any) -> None:
            heard.append(f"start {query}")

        def on_retriever_end(self, documents: Sequence[Document], **more: Any) -> None:
            heard.append(f"end {len(documents)}")

        def on_retriever_error(self, error: BaseException, **more: Any) -> None:
            heard.append(f"error {type(error).__name__}")

    retriever = TwoStageLangChainRetriever(office, top_k=2, tags=["office"], metadata={"a": 1})
    retriever.invoke(QUERY, {"callbacks": [Listener()]})
    with pytest.raises(InvalidQuery):
        retriever.invoke("  ", {"callbacks": [Listener()]})
    with pytest.raises(InvalidInput, match="no search option 'topk'"):
        asyncio.run(retriever.ainvoke(QUERY, {"callbacks": [Listener()]}, topk=3))
    assert heard == [
        f"start {QUERY}",
        "end 2",
        "start   ",
        "error InvalidQuery",
        f"start {QUERY}",
        "error InvalidInput",
    ]


def test_by_collection_name_it_follows_and_closes_what_it_opened(tmp_path: Path) -> None:
    store = tmp_path / "store"
    encoder = HashingEncoder()
    documents = [retrieval.Document(f"d{n}", f"old number {n}") for n in range(3)]
    retrieval.ingest(documents, "notes", store=store, encoder=encoder)
    with TwoStageLangChainRetriever.from_collection(
        "notes", store=store, encoder=encoder, reranker=None, top_k=1
    ) as retriever:
        assert retriever.invoke("number 2")[0].metadata["document_id"] == "d2"
    with pytest.raises(InvalidInput, match="top_k"):
        TwoStageLangChainRetriever.from_collection(
            "notes", store=store, encoder=encoder, reranker=None, top_k=-1
        )
    with retrieval.open("notes", store=store, encoder=encoder, reranker=None) as own:
        TwoStageLangChainRetriever(own).close()
        assert own.search("number 1").hits  # what was given stays open; the store was not locked


def test_it_works_in_chains_and_is_configurable(office: TwoStageRetriever) -> None:
    retriever = TwoStageLangChainRetriever(office, top_k=3)
    by_call = retriever.configurable_fields(top_k=ConfigurableField(id="top_k"))
    assert len(by_call.with_config(configurable={"top_k": 1}).invoke(QUERY)) == 1
    assert len(by_call.invoke(QUERY)) == 3
    chain = {"context": retriever | (lambda found: found[0].page_content)} | RunnablePassthrough()
    assert "paid back" in chain.invoke(QUERY)["context"]
    assert "paid back" in asyncio.run(chain.ainvoke(QUERY))["context"]


def test_what_langchain_writes_of_it_holds_no_passages_or_keys(office: TwoStageRetriever) -> None:
    written = dumps(TwoStageLangChainRetriever(office, top_k=3))
    assert "not_implemented" in written
    assert "Encoder" not in written


def test_asynchronous_searches_leave_the_loop_free(office: TwoStageRetriever) -> None:
    """While a search is stuck in its thread, the loop goes on; both answer in the end."""
    inside, go = threading.Event(), threading.Event()

    class Slow:
        def search_batch(self, queries: Sequence[str], **options: Any) -> Any:
            inside.set()
            assert go.wait(20)
            return office.search_batch(queries, **options)

    async def main() -> list[Document]:
        retriever = TwoStageLangChainRetriever(Slow(), top_k=2)  # type: ignore[arg-type]
        task = asyncio.create_task(retriever.ainvoke(QUERY))
        assert await asyncio.to_thread(inside.wait, 20)
        assert not task.done()
        go.set()
        return await task

    assert [d.id for d in asyncio.run(main())] == [
        hit.passage.id for hit in office.search(QUERY, top_k=2).hits
    ]


def test_a_cancelled_search_ends_at_the_next_batch(office: TwoStageRetriever) -> None:
    begun, ended = threading.Event(), threading.Event()
    steps = 0

    class Long:
        """A search of 2,500 batches in five seconds, which reports each, as the stages do."""

        def search_batch(self, queries: Sequence[str], *, progress: Any, **options: Any) -> Any:
            nonlocal steps
            try:
                for done in range(2500):
                    progress(done, 2500)
                    steps += 1
                    begun.set()
                    time.sleep(0.002)
            finally:
                ended.set()

    async def main() -> None:
        retriever = TwoStageLangChainRetriever(Long())  # type: ignore[arg-type]
        task = asyncio.create_task(retriever.ainvoke(QUERY))
        assert await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        # the loop's thread is free again although the search was not finished
        assert await asyncio.to_thread(ended.wait, 30)

    asyncio.run(main())
    assert steps < 2000


def test_after_an_abandoned_search_the_models_still_work(office: TwoStageRetriever) -> None:
    before = office.search(QUERY).hits

    def stop(done: int, total: int) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        office.search_batch([QUERY], progress=stop)
    assert office.search(QUERY).hits == before


# --- the reranker ---------------------------------------------------------------------------


@pytest.mark.parametrize("blend", [None, "none", "rrf", "scores", "auto"])
def test_it_orders_as_the_search_does(office: TwoStageRetriever, blend: Any) -> None:
    # by vectors, which is what an adapter takes the documents to come from
    by_vectors = TwoStageLangChainRetriever(office, rerank=False, top_k=8, mode="dense")
    first = by_vectors.invoke(QUERY)
    reranker = RetrievalReranker(office.reranker, blend=blend)  # type: ignore[arg-type]
    documents = reranker.compress_documents(first, QUERY)
    hits = office.search(QUERY, mode="dense", candidates=8, top_k=8, blend=blend).hits
    assert [d.id for d in documents] == [hit.passage.id for hit in hits]
    for document, hit in zip(documents, hits, strict=True):
        assert document.metadata["rerank_score"] == pytest.approx(hit.stage2_score, abs=1e-4)
        assert document.metadata["relevance_score"] == pytest.approx(hit.relevance, abs=1e-4)
        assert document.metadata["stage1_score"] == hit.stage1_score
    again = asyncio.run(reranker.acompress_documents(first, QUERY))
    assert [d.id for d in again] == [d.id for d in documents]
    assert "relevance_score" not in first[0].metadata  # what was given is not changed


def test_documents_without_scores_are_joined_by_ranks(office: TwoStageRetriever) -> None:
    first = TwoStageLangChainRetriever(office, rerank=False, top_k=8).invoke(QUERY)
    for document in first[:1]:
        del document.metadata["stage1_score"]
    by_blend = [
        [
            document.id
            for document in RetrievalReranker(
                office.reranker,  # type: ignore[arg-type]
                blend=blend,
            ).compress_documents(first, QUERY)
        ]
        for blend in ("scores", "rrf")
    ]
    assert by_blend[0] == by_blend[1]


def test_it_reads_documents_of_other_retrievers(office: TwoStageRetriever) -> None:
    texts = ["fish on Fridays", "travel costs are paid back within ten days", "soup", "soup"]
    documents = [Document(page_content=text, metadata={"n": n}) for n, text in enumerate(texts)]
    reranker = RetrievalReranker("maxsim", blend="none", threads=2)
    assert reranker.reranker.info.kind == "late-interaction"
    ordered = reranker.compress_documents(documents, QUERY)
    assert ordered[0].metadata["n"] == 1
    places = [d.metadata["n"] for d in ordered]
    assert places.index(2) + 1 == places.index(3)  # equal scores keep their order
    scores = [d.metadata["relevance_score"] for d in ordered]
    assert scores == sorted(scores, reverse=True)
    assert reranker.compress_documents([], QUERY) == []
    reranker.close()


def test_top_n_min_relevance_and_titles(office: TwoStageRetriever) -> None:
    model: Any = office.reranker
    documents = [
        Document(page_content="It is served at noon.", metadata={"title": "Lunch in the canteen"}),
        Document(page_content="It is served at noon."),
    ]
    query = "lunch in the canteen"
    both = RetrievalReranker(model, blend="none").compress_documents(documents[::-1], query)
    assert "title" in both[0].metadata
    assert both[0].metadata["relevance_score"] > both[1].metadata["relevance_score"]
    same = RetrievalReranker(model, with_title=False).compress_documents(documents, query)
    assert len({d.metadata["relevance_score"] for d in same}) == 1
    middle = sum(d.metadata["relevance_score"] for d in both) / 2
    kept = RetrievalReranker(model, min_relevance=middle).compress_documents(documents, query)
    assert [d.metadata.get("title") for d in kept] == ["Lunch in the canteen"]
    assert len(RetrievalReranker(model, top_n=1).compress_documents(documents, query)) == 1


def test_it_tells_where_the_model_read_a_part_only(office: TwoStageRetriever) -> None:
    documents = [Document(page_content="word " * 2000), Document(page_content="word")]
    ordered = RetrievalReranker(office.reranker).compress_documents(  # type: ignore[arg-type]
        documents, "word"
    )
    assert {len(d.page_content): d.metadata.get("rerank_truncated") for d in ordered} == {
        10_000: True,
        4: None,
    }


def test_a_reranker_refuses_what_it_cannot_use(office: TwoStageRetriever) -> None:
    model: Any = office.reranker
    for arguments, message in [
        ({"top_n": 0}, "top_n is 0"),
        ({"min_relevance": "high"}, "min_relevance is 'high'"),
        ({"blend": "mean"}, "blend is 'mean'"),
        ({"with_title": 1}, "with_title is 1"),
        ({"model": "none"}, "nothing to re-rank with"),
        ({"model": object()}, "expected a name or a reranker"),
        ({"threads": 2}, "besides a reranker"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            RetrievalReranker(**{"model": model, **arguments})
    with pytest.raises(InvalidQuery):
        RetrievalReranker(model).compress_documents([Document(page_content="x")], " ")


def test_the_documented_chain_of_another_retriever_and_the_reranker(
    office: TwoStageRetriever,
) -> None:
    retriever = TwoStageLangChainRetriever(office, rerank=False, top_k=8)
    reranker = RetrievalReranker(office.reranker, top_n=2)  # type: ignore[arg-type]
    chain = {"documents": retriever, "query": RunnablePassthrough()} | RunnableLambda(
        lambda given: reranker.compress_documents(**given),
        afunc=lambda given: reranker.acompress_documents(**given),
    )
    wanted = [hit.passage.id for hit in office.search(QUERY, candidates=8, top_k=2).hits]
    assert [d.id for d in chain.invoke(QUERY)] == wanted
    assert [d.id for d in asyncio.run(chain.ainvoke(QUERY))] == wanted


# --- the module itself ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("haystack", "haystack", "haystack"),
        ("mteb", "mteb", "mteb"),
    ],
)
def test_without_its_framework_a_module_names_the_extra(
    module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = f"retrieval.integrations.{module}"
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{ours}.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=re.escape(f"two-stage-retrieval[{extra}]")) as caught:
        importlib.import_module(ours)
    assert isinstance(caught.value, ImportError)
