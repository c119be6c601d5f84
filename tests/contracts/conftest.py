"""Every implementation of `Index`, behind one factory."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retrieval.index.collection import CollectionIndex
from retrieval.index.embedded import EmbeddedIndex
from retrieval.index.server import ServerIndex, delete_collection
from retrieval.index.sparse import bm25_info
from retrieval.types import EncoderInfo, Manifest, Passage, SplitterInfo

DIMENSION = 8


def make_manifest(collection: str, language: str = "en", dimension: int = DIMENSION) -> Manifest:
    encoder = EncoderInfo("bge-test", "sha256:1", dimension, "cls", True, "q: ", "", 512)
    return Manifest(collection, encoder, SplitterInfo(200, 20), bm25_info(language))


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


@pytest.fixture(scope="module", params=["embedded", "memory", "server"])
def new_index(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., CollectionIndex]]:
    """Factory: `new_index(language="en", dimension=8)`, a new empty collection each time."""
    opened: list[CollectionIndex] = []
    url = os.environ.get("QDRANT_URL", "")
    if request.param == "server" and not url:
        pytest.skip("QDRANT_URL names no Qdrant server")
    store = tmp_path_factory.mktemp("store") if request.param == "embedded" else Path()

    def make(language: str = "en", dimension: int = DIMENSION) -> CollectionIndex:
        name = f"test-{uuid.uuid4().hex}"
        manifest = make_manifest(name, language, dimension)
        index: CollectionIndex
        if request.param == "embedded":
            index = EmbeddedIndex.create(store, name, manifest)
        elif request.param == "memory":
            from qdrant_client import QdrantClient

            index = ServerIndex.create(QdrantClient(":memory:"), name, manifest)
        else:
            index = ServerIndex.create(
                url, name, manifest, api_key=os.environ.get("QDRANT_API_KEY")
            )
        opened.append(index)
        return index

    yield make
    for index in opened:
        index.close()
        if request.param == "server":
            delete_collection(url, index.collection, api_key=os.environ.get("QDRANT_API_KEY"))


@pytest.fixture
def index(new_index: Callable[..., CollectionIndex]) -> CollectionIndex:
    return new_index()
