"""Searches while a collection is switched from version to version."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from doubles.qdrant_http import QdrantHttp, qdrant_http
from hashing_encoder import HashingEncoder

import retrieval
from retrieval import Document, Store
from retrieval.api.live import FollowingRetriever
from retrieval.errors import (
    CollectionNotFound,
    CollectionReplaced,
    InvalidInput,
    ManifestMismatch,
    RetrievalError,
)


def docs(count: int, word: str) -> list[Document]:
    return [Document(f"d{n}", f"the {word} number {n}") for n in range(count)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    retrieval.ingest(docs(5, "old"), "docs", store=place, encoder=HashingEncoder())
    retrieval.ingest(
        docs(8, "new"), "docs", store=place, encoder=HashingEncoder(), version="docs@v2"
    )
    return place


def until(what: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


def following(store: Store, **options: Any) -> FollowingRetriever:
    settings = {"encoder": HashingEncoder(), "reranker": None, "check_seconds": 0.0, **options}
    return FollowingRetriever("docs", store=store, **settings)


def version(retriever: FollowingRetriever) -> str:
    retriever.search("number")
    return retriever.version


def test_it_answers_from_the_version_that_is_current(store: Store) -> None:
    with following(store) as retriever:
        assert "old" in retriever.search("number 3").hits[0].passage.text
        assert retriever.version == "docs@v1"
        store.switch("docs", "docs@v2")
        until(lambda: version(retriever) == "docs@v2")
        assert "new" in retriever.search("number 3").hits[0].passage.text
        store.rollback("docs")
        until(lambda: version(retriever) == "docs@v1")
    retriever.close()  # a second time does nothing


def test_no_search_fails_while_versions_change_under_load(store: Store) -> None:
    problems: list[BaseException] = []
    answers: set[str] = set()
    searches = 0
    stop = threading.Event()
    with following(store) as retriever:

        def search() -> None:
            nonlocal searches
            try:
                while not stop.is_set():
                    first, second = retriever.search_batch(["number 3", "number 4"], top_k=1)
                    words = {r.hits[0].passage.text.split()[1] for r in (first, second)}
                    assert len(words) == 1, "one call saw two versions"
                    answers.update(words)
                    searches += 1
            except BaseException as error:  # noqa: BLE001
                problems.append(error)

        threads = [threading.Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(4):
            store.switch("docs", "docs@v2")
            until(lambda: retriever.version == "docs@v2" or bool(problems))
            store.rollback("docs")
            until(lambda: retriever.version == "docs@v1" or bool(problems))
        stop.set()
        for thread in threads:
            thread.join()
    assert not problems
    assert answers == {"old", "new"}
    assert searches > 8
    with store.open("docs@v1"), store.open("docs@v2"):
        pass  # nothing is left open


def test_the_old_version_is_closed_when_its_last_search_ends(store: Store) -> None:
    with following(store) as retriever:
        with retriever.using() as held:
            store.switch("docs", "docs@v2")
            until(lambda: version(retriever) == "docs@v2")
            assert held.index.count() == 5  # still open
            store_locked = False
            try:
                store.open("docs@v1").close()
            except RetrievalError:
                store_locked = True
            assert store_locked
        store.open("docs@v1").close()
        assert retriever.search("number").hits


def test_what_cannot_be_opened_is_told_and_the_old_version_answers(
    store: Store,
) -> None:
    other = HashingEncoder("another")
    retrieval.ingest(docs(3, "third"), "docs", store=store, encoder=other, version="docs@v3")
    with following(store, encoder=HashingEncoder()) as retriever:
        store.switch("docs", "docs@v3")  # built by a model that `encoder` is not
        until(lambda: bool(retriever.search("number").notices))
        result = retriever.search("number 3")
        assert "could not be opened, so 'docs@v1' still answers" in result.notices[-1]
        assert "old" in result.hits[0].passage.text
        store.rollback("docs")


def test_models_are_kept_where_they_built_the_new_version_too(
    store: Store,
) -> None:
    with following(store, encoder=HashingEncoder()) as retriever:
        encoder = retriever.retriever.encoder
        store.switch("docs", "docs@v2")
        until(lambda: version(retriever) == "docs@v2")
        assert retriever.retriever.encoder is encoder


def test_versions_are_opened_by_the_opener_that_is_given(store: Store) -> None:
    encoder, opened = HashingEncoder(), list[str]()

    def opener(version: str) -> retrieval.TwoStageRetriever:
        opened.append(version)
        return retrieval.open(version, store=store, encoder=encoder, reranker=None)

    with FollowingRetriever("docs", store=store, opener=opener, check_seconds=0.0) as retriever:
        assert opened == ["docs@v1"]
        store.switch("docs", "docs@v2")
        until(lambda: version(retriever) == "docs@v2")
        assert opened == ["docs@v1", "docs@v2"]
        assert retriever.retriever.encoder is encoder
        assert "new" in retriever.search("number 3").hits[0].passage.text
        assert retriever.notice == ""
    with store.open("docs@v1"), store.open("docs@v2"):
        pass  # what the opener opened is closed


def test_an_opener_that_fails_leaves_the_old_version_in_use(store: Store) -> None:
    def opener(version: str) -> retrieval.TwoStageRetriever:
        if version == "docs@v2":
            raise InvalidInput("it does not want to", fix="Nothing.")
        return retrieval.open(version, store=store, encoder=HashingEncoder(), reranker=None)

    with FollowingRetriever("docs", store=store, opener=opener, check_seconds=0.0) as retriever:
        store.switch("docs", "docs@v2")
        until(lambda: bool(retriever.search("number").notices))
        assert "it does not want to" in retriever.notice
        assert retriever.version == "docs@v1"


def test_options_besides_an_opener_are_refused(store: Store) -> None:
    with pytest.raises(InvalidInput, match="encoder, reranker was given besides an opener"):
        FollowingRetriever("docs", store=store, opener=lambda v: None, encoder=1, reranker=None)  # type: ignore[arg-type,return-value]


# --- what was deleted, or deleted and made anew


@pytest.fixture
def double() -> Iterator[QdrantHttp]:
    with qdrant_http() as running:
        yield running


@pytest.fixture
def server(double: QdrantHttp) -> Store:
    place = Store(double.url)
    retrieval.ingest(docs(5, "old"), "docs", store=place, encoder=HashingEncoder())
    return place


def made_anew(place: Store, encoder: HashingEncoder) -> None:
    place.delete("docs")
    retrieval.ingest(docs(8, "new"), "docs", store=place, encoder=encoder)


def test_a_collection_made_anew_is_reopened_with_the_encoder_that_built_it(server: Store) -> None:
    models = {name: HashingEncoder(name) for name in ("hashing", "another")}

    def opener(version: str) -> retrieval.TwoStageRetriever:
        encoder = models[server.manifest(version).encoder.model]
        return retrieval.open(version, store=server, encoder=encoder, reranker=None)

    with (
        FollowingRetriever("docs", store=server, opener=opener, check_seconds=3600) as retriever,
        retrieval.open("docs", store=server, encoder=models["hashing"], reranker=None) as plain,
    ):
        assert "old" in retriever.search("number 3").hits[0].passage.text
        made_anew(server, models["another"])
        result = retriever.search("number 3")
        assert "new" in result.hits[0].passage.text
        assert (result.encoder, result.notices) == ("another", ())
        assert retriever.retriever.encoder is models["another"]
        with pytest.raises(CollectionReplaced, match="replaced since it was opened"):
            plain.search("number 3")


def test_many_searches_reopen_once(server: Store) -> None:
    opened: list[str] = []

    def opener(version: str) -> retrieval.TwoStageRetriever:
        opened.append(version)
        return retrieval.open(version, store=server, encoder=HashingEncoder(), reranker=None)

    with FollowingRetriever("docs", store=server, opener=opener, check_seconds=3600) as retriever:
        retriever.search("number 3")
        made_anew(server, HashingEncoder())
        found: list[str] = []
        threads = [
            threading.Thread(
                target=lambda: found.append(retriever.search("number").hits[0].passage.text)
            )
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 6
    assert all("new" in text for text in found)
    assert opened == ["docs@v1", "docs@v1"]


def test_what_cannot_be_reopened_is_refused(server: Store) -> None:
    with following(server, check_seconds=3600) as retriever:
        retriever.search("number 3")
        made_anew(server, HashingEncoder("another"))
        for _ in range(2):  # `encoder` was given, and is not the one that built what is there
            with pytest.raises(ManifestMismatch, match="another"):
                retriever.search("number 3")
        server.delete("docs")
        with pytest.raises(CollectionNotFound, match="no collection 'docs'"):
            retriever.search("number 3")
        retrieval.ingest(docs(2, "third"), "docs", store=server, encoder=HashingEncoder())
        assert "third" in retriever.search("number 1").hits[0].passage.text


def test_a_version_that_is_deleted_after_a_switch_fails_no_search(server: Store) -> None:
    retrieval.ingest(
        docs(8, "new"), "docs", store=server, encoder=HashingEncoder(), version="docs@v2"
    )
    with following(server, check_seconds=3600) as retriever:  # so that it does not notice
        retriever.search("number 3")
        server.switch("docs", "docs@v2")
        server.delete("docs@v1")
        assert "new" in retriever.search("number 3").hits[0].passage.text
        assert retriever.version == "docs@v2"


def test_a_restored_collection_is_reopened(server: Store, tmp_path: Path) -> None:
    from retrieval.maintenance.backup import backup_collection, restore_collection

    backup_collection("docs", tmp_path / "docs.tar", store=server)
    made_anew(server, HashingEncoder("another"))
    models = {name: HashingEncoder(name) for name in ("hashing", "another")}

    def opener(version: str) -> retrieval.TwoStageRetriever:
        encoder = models[server.manifest(version).encoder.model]
        return retrieval.open(version, store=server, encoder=encoder, reranker=None)

    with FollowingRetriever("docs", store=server, opener=opener, check_seconds=3600) as retriever:
        assert "new" in retriever.search("number 3").hits[0].passage.text
        server.delete("docs")
        restore_collection(tmp_path / "docs.tar", store=server)
        assert "old" in retriever.search("number 3").hits[0].passage.text
        # and what was open before the backup goes on where its own collection is there again
        before = retriever.retriever.index.manifest.id
        server.delete("docs")
        restore_collection(tmp_path / "docs.tar", store=server)
        assert server.manifest("docs").id == before
        assert "old" in retriever.search("number 3").hits[0].passage.text
