"""A collection that is deleted and made anew, or removed, while an index has it open."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from doubles.qdrant_http import QdrantHttp, qdrant_http
from qdrant_client import QdrantClient, models

from retrieval.errors import CollectionReplaced
from retrieval.index.collection import CollectionIndex
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.index.manifest import manifest_to_dict
from retrieval.index.server.index import ServerIndex, ServerOptions, delete_collection
from retrieval.types import EncoderInfo, Manifest, Passage

Manifests = Callable[..., Manifest]
Passages = Callable[..., list[Passage]]
Vectors = Callable[..., Any]
Engine = Literal["memory", "rest", "grpc"]

OTHER = EncoderInfo("another", "sha256:2", 8, "mean", True, "", "", 256)


@dataclass
class Place:
    """A server of some kind; `options` reach it."""

    server: Any
    options: ServerOptions
    double: QdrantHttp | None = None

    def create(self, manifest: Manifest) -> ServerIndex:
        return ServerIndex.create(self.server, "docs", manifest, options=self.options)

    def delete(self) -> None:
        delete_collection(self.server, "docs", options=self.options)


@pytest.fixture(scope="module")
def double() -> Iterator[QdrantHttp]:
    with qdrant_http(grpc=True) as running:
        yield running


@pytest.fixture(params=["memory", "rest", "grpc"])
def place(request: pytest.FixtureRequest, double: QdrantHttp) -> Iterator[Place]:
    if request.param == "memory":
        yield Place(QdrantClient(":memory:"), ServerOptions())
        return
    grpc = request.param == "grpc"
    yield Place(double.url, ServerOptions(grpc=grpc, grpc_port=double.grpc_port), double)
    for name in double.backend.collections():
        double.backend.delete_collection(name)
    double.requests.clear()


CALLS: dict[str, Callable[[CollectionIndex, list[Passage], Any], object]] = {
    "dense search": lambda index, _, rows: index.search(mode="dense", limit=3, vector=rows[0]),
    "sparse search": lambda index, *_: index.search(mode="sparse", limit=3, text="cat"),
    "hybrid search": lambda index, _, rows: index.search(
        mode="hybrid", limit=3, vector=rows[0], text="cat"
    ),
    "write": lambda index, some, rows: index.upsert(some, rows),
    "write of points": lambda index, some, rows: index.write_points(
        index._check.points(some, rows, None, None, None)
    ),
    "deletion of passages": lambda index, some, _: index.delete_passages([p.id for p in some]),
    "deletion of documents": lambda index, *_: index.delete_documents(["d0", "d1"]),
    "deletion by a filter": lambda index, *_: index.delete_where({"position": 0}),
    "states": lambda index, *_: index.document_states(["d0", "d1"]),
    "states of all": lambda index, *_: index.document_states(),
    "documents": lambda index, *_: index.document_passages(["d0"]),
    "sources": lambda index, *_: list(index.document_sources()),
    "passages": lambda index, *_: list(index.passages()),
    "points": lambda index, *_: list(index.points()),
    "count": lambda index, *_: index.count(),
    "status": lambda index, *_: index.status(),
    "end of a run": lambda index, *_: index.optimize(),
}


@pytest.mark.parametrize("call", CALLS)
def test_another_collection_under_the_same_name_is_neither_read_nor_changed(
    place: Place, manifest: Manifests, passages: Passages, vectors: Vectors, call: str
) -> None:
    """The encoder is another, its dimension the same: nothing but the id tells them apart."""
    some, rows = passages(3), vectors(3)
    with place.create(manifest()) as opened:
        opened.upsert(some, rows)
        place.delete()
        with place.create(manifest(encoder=OTHER)) as new:
            new.upsert(passages(3, text="a dog"), vectors(3, seed=1))
            before = {point.id: (point.dense.tolist(), point.payload) for point in new.points()}
            with pytest.raises(CollectionReplaced, match="replaced since it was opened") as caught:
                CALLS[call](opened, some, rows)
            assert "'docs@v1'" in str(caught.value)
            assert "Open it again" in caught.value.fix
            after = {point.id: (point.dense.tolist(), point.payload) for point in new.points()}
        assert before == after
        assert len(after) == 3


@pytest.mark.parametrize("call", ["dense search", "write", "deletion of documents", "states"])
def test_a_collection_that_was_deleted(
    place: Place, manifest: Manifests, passages: Passages, vectors: Vectors, call: str
) -> None:
    with place.create(manifest()) as opened:
        place.delete()
        with pytest.raises(CollectionReplaced, match="it was when it was opened"):
            CALLS[call](opened, passages(3), vectors(3))


def test_a_search_and_a_write_are_one_request_each(
    double: QdrantHttp, manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    with ServerIndex.create(double.url, "docs", manifest()) as index:
        for call, most in (("write", 1), ("dense search", 1), ("hybrid search", 2)):
            double.requests.clear()
            CALLS[call](index, passages(3), vectors(3))
            assert len(double.requests) <= most
    delete_collection(double.url, "docs")


def test_a_run_judges_nothing_by_another_collection(
    place: Place, manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    """What the other holds unchanged is not unchanged in the one that was opened."""
    with place.create(manifest()) as opened:
        place.delete()
        with place.create(manifest()) as new:
            new.upsert(passages(3), vectors(3))
            assert all(state.content_hash for state in new.document_states().values())
            with pytest.raises(CollectionReplaced):
                opened.document_states(["d0", "d1", "d2"])


def _of_format_2(client: QdrantClient, manifest: Manifest) -> None:
    client.create_collection(
        "docs@v1",
        vectors_config={"dense": models.VectorParams(size=8, distance=models.Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        metadata={"retrieval_manifest": manifest_to_dict(replace(manifest, format_version=2))},
    )
    create = models.CreateAlias(collection_name="docs@v1", alias_name="docs")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])


def test_a_collection_of_format_2_is_worked_with_as_before(
    manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    client = QdrantClient(":memory:")
    _of_format_2(client, manifest(created="2026-01-01T00:00:00+00:00"))
    with ServerIndex.open_or_create(client, "docs", manifest()) as index:
        assert (index.manifest.format_version, index.manifest.id) == (2, "")
        some, rows = passages(3), vectors(3)
        index.upsert(some, rows)
        for mode in ("dense", "sparse", "hybrid"):
            found = index.search(mode=mode, limit=3, vector=rows[0], text="cat")  # type: ignore[arg-type]
            assert len(found) == 3
        assert index.vectors([some[0].id])[some[0].id] == pytest.approx(rows[0], abs=1e-6)
        assert len(index.document_states(["d0", "d9"])) == 1
        assert [point.dense.size for point in index.points()] == [8, 8, 8]
        index.delete_passages([some[0].id])
        index.delete_documents(["d1"])
        assert index.count() == 1
        # what takes its place has an id, and is told from it
        delete_collection(client, "docs")
        with ServerIndex.create(client, "docs", manifest()) as new:
            for call in ("dense search", "write"):
                with pytest.raises(CollectionReplaced):
                    CALLS[call](index, some, rows)
            assert new.count() == 0


# --- the embedded engine


def _moved(path: Path) -> None:
    path.rename(path.with_name("aside"))


def _made_anew(path: Path) -> None:
    shutil.copytree(path, path.with_name("copy"))
    shutil.rmtree(path)
    path.with_name("copy").rename(path)


@pytest.mark.parametrize("happens", [shutil.rmtree, _moved, _made_anew])
@pytest.mark.parametrize(
    "call",
    ["write", "deletion of passages", "deletion of documents", "deletion by a filter",
     "end of a run"],
)  # fmt: skip
def test_a_folder_that_is_gone_acknowledges_nothing(
    tmp_path: Path,
    manifest: Manifests,
    passages: Passages,
    vectors: Vectors,
    happens: Callable[[Path], None],
    call: str,
) -> None:
    some, rows = passages(3), vectors(3)
    with EmbeddedIndex.create(tmp_path, "docs", manifest()) as one:
        one.upsert(some[:2], rows[:2])
        happens(tmp_path / "docs")
        with pytest.raises(CollectionReplaced, match="removed or replaced") as caught:
            CALLS[call](one, some, rows)
        assert str(tmp_path / "docs") in str(caught.value)
    if (tmp_path / "docs").exists():
        with EmbeddedIndex.open(tmp_path, "docs") as again:
            assert again.count() == 2


def test_a_write_during_which_the_folder_goes_is_not_acknowledged(
    tmp_path: Path,
    manifest: Manifests,
    passages: Passages,
    vectors: Vectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with EmbeddedIndex.create(tmp_path, "docs", manifest()) as index:
        index.upsert(passages(1), vectors(1))
        points = index._points
        convert = "retrieval.index.embedded.points.to_edge_point"

        def and_gone(point: Any) -> Any:
            from retrieval.index.embedded.conversion import to_edge_point

            with contextlib.suppress(FileNotFoundError):
                _moved(tmp_path / "docs")
            return to_edge_point(point)

        monkeypatch.setattr(convert, and_gone)
        with pytest.raises(CollectionReplaced):
            points.write(index._check.points(passages(1), np.asarray(vectors(1)), None, None, None))
