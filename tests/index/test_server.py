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
    DiskFull,
    InvalidInput,
    ManifestCorrupt,
    ManifestMismatch,
    RetrievalError,
    StoreDenied,
    StoreFault,
)
from retrieval.index.server import (
    ServerIndex,
    delete_collection,
    list_collections,
    read_manifest,
)
from retrieval.types import Manifest

Manifests = Callable[..., Manifest]


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


def test_a_collection_that_vanishes(manifest: Manifests) -> None:
    client = QdrantClient(":memory:")
    index = ServerIndex.create(client, "docs", manifest())
    client.delete_collection("docs")
    with pytest.raises(CollectionNotFound, match="not there"):
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
        threading.Thread(target=server.serve_forever, daemon=True).start()
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
        read_manifest(url, "docs", timeout=1)
    assert url in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid:6333"])
def test_nobody_answers(manifest: Manifests, url: str) -> None:
    with pytest.raises(StoreFault, match="Check that the server runs") as caught:
        ServerIndex.open_or_create(url, "docs", manifest(), timeout=3)
    assert url in str(caught.value)


@pytest.mark.parametrize("url", ["ftp://localhost", "http://localhost:99999"])
def test_no_url(url: str) -> None:
    with pytest.raises(InvalidInput, match="no address of a Qdrant server"):
        list_collections(url)
