"""Every implementation of `Index`, behind one factory.

The legs: `embedded` (Qdrant Edge), `memory` (the server's code over the client's own in-memory
engine), `http` (the same over real sockets, to the double of a server), `cluster` (to one of three
nodes, over which shards and their copies are spread), and `server` where QDRANT_URL names a real
one.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from doubles.cluster import qdrant_cluster
from doubles.qdrant_http import qdrant_http

from retrieval.index.bm25 import bm25_info
from retrieval.index.collection import CollectionIndex
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.index.server.index import ServerIndex, delete_collection
from retrieval.types import (
    EncoderInfo,
    Layout,
    LexicalWeights,
    Manifest,
    Passage,
    SplitterInfo,
    Storage,
)

DIMENSION = 8

Engine = Literal["embedded", "memory", "http", "cluster", "server"]
ENGINES: tuple[Engine, ...] = ("embedded", "memory", "http", "cluster", "server")


def make_manifest(
    collection: str,
    language: str = "en",
    dimension: int = DIMENSION,
    layout: Layout = Layout(),  # noqa: B008  (frozen)
    storage: Storage = Storage(),  # noqa: B008  (frozen)
) -> Manifest:
    encoder = EncoderInfo("bge-test", "sha256:1", dimension, "cls", True, "q: ", "", 512)
    bm25 = bm25_info(language)
    return Manifest(collection, encoder, SplitterInfo(200, 20), bm25, layout, storage)


def make_passage(
    document: str, position: int = 0, text: str = "some text", **changes: Any
) -> Passage:
    fields: dict[str, Any] = {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{document}#{position}")),
        "document_id": document,
        "position": position,
        "text": text,
        "start": 0,
        "end": len(text),
        "document_hash": "sha256:a",
        **changes,
    }
    return Passage(**fields)


@pytest.fixture(scope="session")
def manifest() -> Callable[..., Manifest]:
    return make_manifest


@pytest.fixture(scope="session")
def passage() -> Callable[..., Passage]:
    return make_passage


@pytest.fixture(scope="session")
def lexical() -> Callable[..., LexicalWeights]:
    """Factory: `lexical({7: 0.5, 9: 1.0})`, an encoder's term weights."""

    def make(weights: dict[int, float]) -> LexicalWeights:
        indices = sorted(weights)
        return LexicalWeights(
            np.array(indices, dtype=np.int32),
            np.array([weights[index] for index in indices], dtype=np.float32),
        )

    return make


@contextlib.contextmanager
def running(engine: Engine, store: Path) -> Iterator[Callable[..., CollectionIndex]]:
    """`make(**manifest)` makes a new, empty collection on an engine; all are closed at the end."""
    with contextlib.ExitStack() as stack:
        server: Any = None
        if engine == "http":
            server = stack.enter_context(qdrant_http()).url
        elif engine == "cluster":
            server = stack.enter_context(qdrant_cluster()).urls[0]
        elif engine == "server":
            server = os.environ["QDRANT_URL"]
        api_key = os.environ.get("QDRANT_API_KEY") if engine == "server" else None

        def make(one_shard: bool = False, **options: Any) -> CollectionIndex:
            if engine == "cluster":
                kept: Storage = options.pop("storage", Storage())
                options["storage"] = replace(
                    kept, shards=1 if one_shard else None, replicas=2, write_consistency=2
                )
            manifest = make_manifest(f"test-{uuid.uuid4().hex}", **options)
            name = manifest.collection
            index: CollectionIndex
            if engine == "embedded":
                index = EmbeddedIndex.create(store, name, manifest)
            elif engine == "memory":
                from qdrant_client import QdrantClient

                index = ServerIndex.create(QdrantClient(":memory:"), name, manifest)
            else:
                index = ServerIndex.create(server, name, manifest, api_key=api_key)
                stack.callback(delete_collection, server, name, api_key=api_key)
            stack.callback(index.close)
            return index

        yield make


@pytest.fixture(scope="session")
def run_engine() -> Callable[..., contextlib.AbstractContextManager[Callable[..., Any]]]:
    """`running`, for tests that need several engines at once."""
    return running


@pytest.fixture(scope="module", params=ENGINES)
def new_index(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., CollectionIndex]]:
    """Factory: `new_index(language="en", dimension=8, layout=…, storage=…)`, empty each time."""
    if request.param == "server" and not os.environ.get("QDRANT_URL"):
        pytest.skip("QDRANT_URL names no Qdrant server")
    with running(request.param, tmp_path_factory.mktemp("store")) as make:
        yield make


@pytest.fixture
def index(new_index: Callable[..., CollectionIndex]) -> CollectionIndex:
    return new_index()


@pytest.fixture
def one_shard(new_index: Callable[..., CollectionIndex]) -> CollectionIndex:
    """Where a test knows BM25's scores: a server counts how rare a term is in each shard alone."""
    return new_index(one_shard=True)
