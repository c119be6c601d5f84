"""Deadlines, cancelled searches, too many of them, the end; readiness and stores that change."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from backend_help import ANYONE, DOCUMENTS, Made, Make, ids, run
from doubles.qdrant_http import qdrant_http
from hashing_encoder import HashingEncoder

import retrieval
from app.backend.backend import Backend
from app.errors import DeadlinePassed, Overloaded, Stopping, http_status
from app.settings.settings import Settings
from retrieval import Document
from retrieval.errors import CollectionNotFound, InvalidInput, ModelFault


def test_a_deadline_is_an_error_or_the_first_stages_order(filled: Made) -> None:
    backend, reranker = filled.backend, filled.reranker
    expected = ids(run(backend.search(ANYONE, ["where bees"], rerank=False)))
    reranker.go.clear()
    started = time.monotonic()
    with pytest.raises(DeadlinePassed) as caught:
        run(backend.search(ANYONE, ["where ants"], timeout_ms=150))
    assert time.monotonic() - started < 2
    assert http_status(caught.value) == 504
    assert filled.observer.refused == ["deadline"]
    found = run(
        backend.search(ANYONE, ["where bees"], timeout_ms=150, on_timeout="first_stage",
                       min_relevance=0.9)
    )  # fmt: skip
    assert time.monotonic() - started < 4
    assert ids(found) == expected
    assert found[0].reranker is None
    assert "first stage's: its time passed while it waited" in found[0].notices[-1]
    assert "min_relevance was not applied" in found[0].notices[-1]
    reranker.go.set()
    assert run(backend.search(ANYONE, ["where bees"], timeout_ms=5000))[0].reranker == "words"
    for wrong in (0, -1, float("nan"), float("inf"), True, "5"):
        with pytest.raises(InvalidInput, match="timeout_ms"):
            run(backend.search(ANYONE, ["x"], timeout_ms=wrong))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="on_timeout"):
        run(backend.search(ANYONE, ["x"], on_timeout="never"))  # type: ignore[arg-type]


def test_re_ranking_goes_as_far_as_time_allows(make: Make) -> None:
    one = make()
    many = [Document(f"d{n}", f"number {n} of the bees") for n in range(40)]
    run(one.backend.documents.upsert(ANYONE, many))
    one.reranker.seconds_a_pair = 0.02
    for query in ("bees a", "bees b"):  # how fast the reranker is, is learned
        run(one.backend.search(ANYONE, [query], candidates=5, top_k=5, budget_ms=10_000))
    found = run(
        one.backend.search(
            ANYONE, ["bees c"], timeout_ms=400, on_timeout="first_stage", candidates=40, top_k=10
        )
    )[0]
    assert 0 < found.reranked < 40
    assert len(found.hits) == 10
    assert any("time budget" in notice for notice in found.notices)


def test_a_reranker_that_fails_leaves_the_first_stages_order(filled: Made) -> None:
    filled.reranker.fault = ModelFault("the device is gone", fix="Restart.")
    with pytest.raises(ModelFault):
        run(filled.backend.search(ANYONE, ["bees"]))
    found = run(filled.backend.search(ANYONE, ["bees"], timeout_ms=5_000, on_timeout="first_stage"))
    assert found[0].hits
    assert "re-ranking failed (the device is gone)" in found[0].notices[-1]


def test_a_cancelled_search_frees_its_place_and_its_thread(filled: Made) -> None:
    backend = filled.backend
    filled.reranker.go.clear()

    async def leave() -> None:
        tasks = [asyncio.create_task(backend.search(ANYONE, [f"bees {n}"])) for n in range(80)]
        assert await asyncio.to_thread(filled.reranker.begun.wait, 20)
        assert backend._calls.admission.inside == 80
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in done)
        assert backend._calls.admission.inside == 0
        # threads are free again while the model is still held
        found = await backend.search(ANYONE, ["oak"], rerank=False, timeout_ms=5000)
        assert found[0].hits

    run(leave())
    filled.reranker.go.set()
    assert run(backend.search(ANYONE, ["bees"]))[0].reranked


def test_more_than_fits_is_refused_and_nothing_accepted_is_lost(make: Make) -> None:
    one = make(max_requests=4)
    run(one.backend.documents.upsert(ANYONE, DOCUMENTS))
    one.reranker.go.clear()

    async def flood() -> list[Any]:
        tasks = [asyncio.create_task(one.backend.search(ANYONE, [f"q {n}"])) for n in range(10)]
        assert await asyncio.to_thread(one.reranker.begun.wait, 20)
        one.reranker.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = run(flood())
    overloaded = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert len(overloaded) == 6
    assert all(answer.retry_after_s > 0 for answer in overloaded)
    assert sum(isinstance(answer, list) for answer in answers) == 4
    assert one.observer.refused == ["overloaded"] * 6


def test_the_page_searches_as_one_caller(filled: Made) -> None:
    found = filled.backend.search_now("bees dance", top_k=1)
    assert found.hits[0].passage.document_id == "bee"
    with pytest.raises(CollectionNotFound):
        filled.backend.search_now("bees", collection="nothing")
    facts = filled.backend.facts()
    assert (facts.collection, facts.passages, facts.encoder) == ("docs", 3, "hashing")
    assert facts.reranker == "words"


def test_closing_lets_what_runs_end_and_takes_nothing_new(filled: Made) -> None:
    backend = filled.backend
    filled.reranker.go.clear()

    async def stop() -> Any:
        running = asyncio.create_task(backend.search(ANYONE, ["bees"]))
        assert await asyncio.to_thread(filled.reranker.begun.wait, 20)
        closing = asyncio.create_task(asyncio.to_thread(backend.close))
        while not backend._closed:
            await asyncio.sleep(0.01)
        assert not (await backend.ready()).ready
        with pytest.raises(Stopping):
            await backend.search(ANYONE, ["ants"])
        filled.reranker.go.set()
        result = await running
        await closing
        return result

    assert run(stop())[0].reranked == 3
    backend.close()  # a second time does nothing
    with retrieval.Store(filled.settings.store).open("docs") as index:
        assert index.count() == 3


def test_it_is_ready_when_it_can_search_and_write(make: Make, monkeypatch: Any) -> None:
    one = make()
    one.backend.open()
    assert run(one.backend.ready()).ready  # the first document makes the collection
    run(one.backend.documents.upsert(ANYONE, DOCUMENTS))
    assert run(one.backend.ready()).problems == {}
    real = shutil.disk_usage
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=1000))
        ready = run(one.backend.ready())
    assert not ready.ready
    assert "are free" in ready.problems["writes"]
    sealed = make(read_only=True, collection="none")
    assert "read-only" in run(sealed.backend.ready()).problems["index"]


def test_a_collection_that_another_process_deleted_is_missed(tmp_path: Path) -> None:
    with qdrant_http() as qdrant:
        encoder = HashingEncoder()
        retrieval.ingest(DOCUMENTS, store=qdrant.url, encoder=encoder)
        settings = Settings(store=qdrant.url, reranker="none")
        backend = Backend(settings, encoder=encoder)
        with closing(backend):
            assert run(backend.search(ANYONE, ["bees"]))[0].hits
            retrieval.Store(qdrant.url).delete("docs")
            with pytest.raises(CollectionNotFound):
                run(backend.search(ANYONE, ["bees"]))
            run(backend.documents.upsert(ANYONE, DOCUMENTS[:1]))
            assert ids(run(backend.search(ANYONE, ["bees"]))) == ["oak"]
            retrieval.Store(qdrant.url).delete("docs")
            assert run(backend.documents.upsert(ANYONE, DOCUMENTS[1:])).new == 2
            assert sorted(ids(run(backend.search(ANYONE, ["bees"])))) == ["ant", "bee"]
