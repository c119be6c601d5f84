"""The server engine's own edges: connections, permissions, manifests in metadata."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    CollectionReplaced,
    DiskFull,
    InvalidInput,
    ManifestCorrupt,
    ManifestMismatch,
    RetrievalError,
    StoreDenied,
    StoreFault,
)
from retrieval.index.manifest import manifest_to_dict
from retrieval.index.server.index import (
    ServerIndex,
    ServerOptions,
    current,
    delete_collection,
    list_collections,
    list_versions,
    read_manifest,
    switch,
)
from retrieval.types import Manifest, Passage, SplitterInfo, Storage

Manifests = Callable[..., Manifest]
Passages = Callable[..., list[Passage]]
Vectors = Callable[..., Any]


def test_the_manifest_lies_in_the_collection(manifest: Manifests) -> None:
    client = QdrantClient(":memory:")
    created = ServerIndex.create(client, "docs", manifest()).manifest
    assert read_manifest(client, "docs") == created
    assert ServerIndex.open(client, "docs", expect=manifest()).manifest == created
    assert ServerIndex.open_or_create(client, "docs", manifest()).manifest == created
    assert list_collections(client) == ["docs"]
    with pytest.raises(CollectionExists, match="'docs'"):
        ServerIndex.create(client, "docs", manifest())
    with pytest.raises(CollectionNotFound, match="it holds 'docs'"):
        ServerIndex.open(client, "other")
    other = dataclasses.replace(
        manifest(), splitter=dataclasses.replace(manifest().splitter, max_tokens=9)
    )
    with pytest.raises(ManifestMismatch, match="max_tokens is 200, asked for 9"):
        ServerIndex.open_or_create(client, "docs", other)
    delete_collection(client, "docs")
    assert list_collections(client) == []
    with pytest.raises(CollectionNotFound):
        delete_collection(client, "docs")


def test_a_foreign_collection_is_left_alone(manifest: Manifests) -> None:
    client = QdrantClient(":memory:")
    size = models.VectorParams(size=4, distance=models.Distance.DOT)
    client.create_collection("docs", vectors_config=size)
    with pytest.raises(ManifestCorrupt, match="not made by this library"):
        ServerIndex.open_or_create(client, "docs", manifest())
    assert client.get_collection("docs").config.params.vectors == size
    client.create_collection("odd", vectors_config=size, metadata={"retrieval_manifest": {"x": 1}})
    with pytest.raises(ManifestCorrupt, match="missing: collection"):
        ServerIndex.open(client, "odd")


def test_a_given_client_stays_open_and_a_closed_index_says_so(manifest: Manifests) -> None:
    client = QdrantClient(":memory:")
    index = ServerIndex.create(client, "docs", manifest())
    index.close()
    index.close()
    with pytest.raises(StoreFault, match="is closed"):
        index.count()
    assert ServerIndex.open(client, "docs").count() == 0


def test_a_name_means_its_first_version(manifest: Manifests) -> None:
    client = QdrantClient(":memory:")
    index = ServerIndex.create(client, "docs", manifest())
    assert (index.collection, index.physical) == ("docs", "docs@v1")
    aliases = client.get_aliases().aliases
    assert [(one.alias_name, one.collection_name) for one in aliases] == [("docs", "docs@v1")]
    assert ServerIndex.open(client, "docs").physical == "docs@v1"
    assert ServerIndex.open(client, "docs@v1").collection == "docs"
    assert current(client, "docs") == current(client, "docs@v1") == "docs@v1"


def test_a_version_is_built_beside_and_switched_to(
    manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    client = QdrantClient(":memory:")
    old = ServerIndex.create(client, "docs", manifest())
    old.upsert(passages(1), vectors(1))
    new = ServerIndex.create(client, "docs@v2", manifest(splitter=SplitterInfo(9, 1)))
    new.upsert(passages(2), vectors(2))
    assert (new.collection, new.physical) == ("docs", "docs@v2")
    assert ServerIndex.open(client, "docs").count() == 1  # nothing means it yet
    assert list_collections(client) == ["docs"]
    assert list_versions(client, "docs") == ["docs@v1", "docs@v2"]

    searching = ServerIndex.open(client, "docs")
    assert switch(client, "docs", "docs@v2") == "docs@v1"
    assert (searching.physical, searching.count()) == ("docs@v1", 1)  # it stays what it was
    assert ServerIndex.open(client, "docs").count() == 2
    assert read_manifest(client, "docs").splitter.max_tokens == 9
    assert read_manifest(client, "docs@v1").splitter.max_tokens == 200
    assert switch(client, "docs", "docs@v1") == "docs@v2"  # and back
    assert ServerIndex.open(client, "docs").count() == 1


def test_versions_are_in_the_order_of_their_numbers(manifest: Manifests) -> None:
    client = QdrantClient(":memory:")
    for number in (10, 9, 2):
        ServerIndex.create(client, f"docs@v{number}", manifest())
    ServerIndex.create(client, "docs-more@v1", manifest("docs-more"))
    assert list_versions(client, "docs") == ["docs@v2", "docs@v9", "docs@v10"]
    assert list_versions(client, "none") == []
    assert list_collections(client) == []
    with pytest.raises(CollectionNotFound, match="versions that it does not point at: 'docs@v2'"):
        ServerIndex.open(client, "docs")
    with pytest.raises(CollectionNotFound, match="of 'docs' there are: 'docs@v2', "):
        ServerIndex.open(client, "docs@v3")


def test_a_switch_that_makes_no_sense_is_refused(manifest: Manifests) -> None:
    client = QdrantClient(":memory:")
    ServerIndex.create(client, "docs", manifest())
    ServerIndex.create(client, "other", manifest("other"))
    with pytest.raises(CollectionNotFound, match="of 'docs' there are: 'docs@v1'"):
        switch(client, "docs", "docs@v2")
    with pytest.raises(InvalidInput, match="not a version of the collection 'docs'"):
        switch(client, "docs", "other@v1")
    assert current(client, "docs") == "docs@v1"


def test_deleting_versions(manifest: Manifests) -> None:
    client = QdrantClient(":memory:")
    for name in ("docs", "docs@v2", "docs@v3"):
        ServerIndex.create(client, name, manifest())
    ServerIndex.create(client, "docs-2", manifest("docs-2"))
    with pytest.raises(InvalidInput, match="'docs@v1' is the current version"):
        delete_collection(client, "docs@v1")
    delete_collection(client, "docs@v2")
    assert list_versions(client, "docs") == ["docs@v1", "docs@v3"]
    with pytest.raises(CollectionNotFound, match="no version 'docs@v2'"):
        delete_collection(client, "docs@v2")
    delete_collection(client, "docs")
    assert list_versions(client, "docs") == []
    assert list_collections(client) == ["docs-2"]
    assert [one.alias_name for one in client.get_aliases().aliases] == ["docs-2"]


def _like_version_one(client: QdrantClient, manifest: Manifest) -> None:
    """A collection as this library made it before it knew versions and ids."""
    client.create_collection(
        "docs",
        vectors_config={"dense": models.VectorParams(size=8, distance=models.Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        metadata={
            "retrieval_manifest": manifest_to_dict(dataclasses.replace(manifest, format_version=2))
        },
    )


def test_a_collection_without_versions(
    manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    client = QdrantClient(":memory:")
    _like_version_one(client, manifest(created="2026-01-01T00:00:00+00:00"))
    index = ServerIndex.open_or_create(client, "docs", manifest())
    index.upsert(passages(2), vectors(2))
    assert (index.physical, index.count()) == ("docs", 2)
    assert list_collections(client) == list_versions(client, "docs") == ["docs"]
    ServerIndex.create(client, "docs@v2", manifest())
    assert list_versions(client, "docs") == ["docs", "docs@v2"]
    with pytest.raises(InvalidInput, match="cannot give its name to another"):
        switch(client, "docs", "docs@v2")
    assert ServerIndex.open(client, "docs").count() == 2
    delete_collection(client, "docs")
    assert client.get_collections().collections == []


def test_a_killed_create_is_completed(
    manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    client = QdrantClient(":memory:")
    ServerIndex.create(client, "docs@v1", manifest(created="2026-01-01T00:00:00+00:00"))
    index = ServerIndex.open_or_create(client, "docs", manifest())  # no alias yet: cut off there
    assert (index.physical, index.manifest.created) == ("docs@v1", "2026-01-01T00:00:00+00:00")
    assert ServerIndex.open(client, "docs").physical == "docs@v1"

    # what is not empty, or was made otherwise, is not taken over, and does not block the name
    full = ServerIndex.create(client, "full@v1", manifest("full"))
    full.upsert(passages(1), vectors(1))
    assert ServerIndex.create(client, "full", manifest("full")).physical == "full@v2"
    assert full.count() == 1
    ServerIndex.create(client, "else@v1", manifest("else", splitter=SplitterInfo(9, 1)))
    assert ServerIndex.create(client, "else", manifest("else")).physical == "else@v2"


@pytest.mark.parametrize(
    ("storage", "problem"),
    [
        (Storage(quantization="int4"), "storage.quantization is 'int4', expected one of 'none', "),  # type: ignore[arg-type]
        (Storage(oversampling=0.5), "storage.oversampling is 0.5, expected a number of at least 1"),
        (Storage(hnsw_m=0), "storage.hnsw_m is 0, expected a number of at least 2"),
        (Storage(shards=0), "storage.shards is 0, expected a number of at least 1"),
        (Storage(replicas=True), "storage.replicas is True"),
        (Storage(fields={"a..b": "keyword"}), "not a path of fields"),
        (Storage(fields={"lang": "text"}), "kind 'text'"),  # type: ignore[dict-item]
    ],
)
def test_a_storage_that_cannot_be_is_refused_before_anything_is_made(
    manifest: Manifests, storage: Storage, problem: str
) -> None:
    client = QdrantClient(":memory:")
    with pytest.raises(InvalidInput, match=problem):
        ServerIndex.create(client, "docs", manifest(storage=storage))
    assert client.get_collections().collections == []


def test_an_alias_of_something_else_is_opened_and_not_deleted(manifest: Manifests) -> None:
    client = QdrantClient(":memory:")
    ServerIndex.create(client, "docs", manifest())
    create = models.CreateAlias(collection_name="docs@v1", alias_name="live")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])
    assert ServerIndex.open(client, "live").physical == "docs@v1"
    with pytest.raises(InvalidInput, match="'live' is an alias of 'docs@v1'"):
        delete_collection(client, "live")
    assert list_collections(client) == ["docs", "live"]


def test_a_collection_that_vanishes(manifest: Manifests) -> None:
    client = QdrantClient(":memory:")
    index = ServerIndex.create(client, "docs", manifest())
    client.delete_collection("docs@v1")
    with pytest.raises(CollectionReplaced, match=r"it is not there .*; it was when it was opened"):
        index.count()


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """Factory: the URL of an HTTP server that answers everything with one status."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                if status == 0:
                    time.sleep(2)
                self.send_response(status or 200)
                self.end_headers()
                self.wfile.write(json.dumps({"status": {"error": "disk of gold"}}).encode())

            do_GET = do_POST = do_PUT = answer  # noqa: N815

            def log_message(self, *arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "kind", "problem"),
    [
        (401, StoreDenied, "api_key"),
        (403, StoreDenied, "api_key"),
        (404, CollectionNotFound, "404"),
        (500, StoreFault, "status 500 Internal Server Error: .*disk of gold"),
        (507, DiskFull, "its disk is full"),
        (200, StoreFault, "not that of a Qdrant server"),
        (0, StoreFault, "no answer in time"),
    ],
)
def test_answers_become_errors_in_plain_words(
    answering: Callable[[int], str], status: int, kind: type[RetrievalError], problem: str
) -> None:
    url = answering(status)
    with pytest.raises(kind, match=problem) as caught:
        read_manifest(url, "docs", options=ServerOptions(timeout_s=1, retry_s=1))
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid:6333"])
def test_nobody_answers(manifest: Manifests, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.index.server.client.FIRST_S", 0.1)
    with pytest.raises(StoreFault, match="Check that the server runs") as caught:
        ServerIndex.open_or_create(url, "docs", manifest(), options=ServerOptions(timeout_s=3))
    assert url in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://localhost", "http://localhost:99999"])
def test_no_url(url: str) -> None:
    with pytest.raises(InvalidInput, match="not the address of a Qdrant server"):
        list_collections(url)
