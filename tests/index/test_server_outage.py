"""Ingestion while the server goes away: it continues, or is continued; nothing is lost."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from doubles.qdrant_http import QdrantHttp, qdrant_http
from hashing_encoder import HashingEncoder

from retrieval.errors import StoreFault
from retrieval.index.bm25 import bm25_info
from retrieval.index.server.index import ServerIndex, ServerOptions, delete_collection
from retrieval.ingestion import ingest_documents
from retrieval.splitting.splitter import Splitter
from retrieval.types import Document, IngestReport, Manifest, SplitterInfo

COUNT = 60


def _documents(version: str = "") -> Iterator[Document]:
    for number in range(COUNT):
        changed = version if number % 3 == 0 else ""
        text = (
            f"Document {number}{changed}. " + f"It speaks of subject {number % 7} at length. " * 6
        )
        yield Document(id=f"doc-{number:03}", text=text, source=f"{number}.txt")


def _ingest(
    server: QdrantHttp, options: ServerOptions, name: str = "docs", version: str = ""
) -> IngestReport:
    encoder = HashingEncoder()
    splitter = Splitter(encoder.token_counter, max_tokens=24, overlap_tokens=4)
    manifest = Manifest(name, encoder.info, SplitterInfo(24, 4), bm25_info("en"))
    with ServerIndex.open_or_create(server.url, name, manifest, options=options) as index:
        return ingest_documents(
            _documents(version), index=index, encoder=encoder, splitter=splitter,
            window=16,
        )  # fmt: skip


def _points(server: QdrantHttp, name: str) -> list[Any]:
    """All that is stored; of vectors, their last bit may depend on what was normalised together."""
    with ServerIndex.open(server.url, name) as index:
        return [
            (one.id, np.round(one.dense, 6).tolist(), one.sparse, one.payload)
            for one in index.points()
        ]


@pytest.fixture(scope="module")
def server() -> Iterator[QdrantHttp]:
    with qdrant_http(grpc=True) as running:
        yield running


@pytest.fixture(scope="module")
def expected(server: QdrantHttp) -> Callable[[str], list[Any]]:
    """The points of a run that nothing disturbed, by version of the documents."""
    options = ServerOptions()
    _ingest(server, options, "calm")
    first = _points(server, "calm")
    _ingest(server, options, "calm", " changed")
    second = _points(server, "calm")
    assert len(first) > 100
    assert first != second
    return lambda version: second if version else first


@pytest.fixture(params=[False, True], ids=["rest", "grpc"])
def options(request: pytest.FixtureRequest, server: QdrantHttp) -> Iterator[ServerOptions]:
    yield ServerOptions(grpc=request.param, grpc_port=server.grpc_port, retry_s=30)
    server.faults.clear()
    server.start()
    delete_collection(server.url, "docs")


def _goes_away(server: QdrantHttp, method: str, path: str, skip: int) -> threading.Event:
    """Stop the server in the middle of a request (whether it is applied is open)."""
    gone = threading.Event()
    seen = itertools.count()

    def reached(request: Any) -> bool:
        # (A rule's own `skip` is counted after this was asked.)
        if next(seen) < skip:
            return False
        gone.set()
        return True

    server.fail(method=method, path_contains=path, when=reached, delay=0.05, times=1, after=True)
    return gone


def _stopped_when(
    server: QdrantHttp, gone: threading.Event, back_after_s: float | None
) -> threading.Thread:
    def act() -> None:
        assert gone.wait(20)
        server.stop()
        if back_after_s is not None:
            threading.Event().wait(back_after_s)
            server.start()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


@pytest.mark.parametrize("path", ["/points", "/points/scroll"], ids=["writing", "reading"])
def test_the_run_goes_on_when_the_server_is_back(
    server: QdrantHttp,
    options: ServerOptions,
    expected: Callable[[str], list[Any]],
    path: str,
) -> None:
    method, skip = ("PUT", 3) if path == "/points" else ("POST", 0)
    acting = _stopped_when(server, _goes_away(server, method, f"docs@v1{path}", skip), 0.6)
    report = _ingest(server, options)
    acting.join()
    assert (report.new, report.failed) == (COUNT, ())
    assert _points(server, "docs") == expected("")


def test_an_update_goes_on_too(
    server: QdrantHttp, options: ServerOptions, expected: Callable[[str], list[Any]]
) -> None:
    _ingest(server, options)
    acting = _stopped_when(server, _goes_away(server, "PUT", "docs@v1/points", 1), 0.6)
    report = _ingest(server, options, version=" changed")
    acting.join()
    assert (report.changed, report.unchanged) == (COUNT // 3, COUNT - COUNT // 3)
    assert _points(server, "docs") == expected("changed")


def test_a_run_without_a_server_ends_and_is_continued(
    server: QdrantHttp, options: ServerOptions, expected: Callable[[str], list[Any]]
) -> None:
    short = ServerOptions(grpc=options.grpc, grpc_port=options.grpc_port, retry_s=1.5)
    acting = _stopped_when(server, _goes_away(server, "PUT", "docs@v1/points", 3), None)
    with pytest.raises(StoreFault, match=r"it was tried for \d+ s") as caught:
        _ingest(server, short)
    assert "A run that is repeated goes on from there" in str(caught.value)
    acting.join()
    server.start()
    written = len(_points(server, "docs"))
    assert 0 < written < len(expected(""))
    report = _ingest(server, options)
    assert report.unchanged > 0  # it does not begin anew
    assert report.unchanged + report.new + report.changed == COUNT
    assert _points(server, "docs") == expected("")
