"""What other programs keep beside ours, under names that could be ours: named, and left alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from doubles.qdrant_http import QdrantHttp, qdrant_http
from qdrant_client import QdrantClient, models

from retrieval import Store
from retrieval.errors import CollectionExists, CollectionNotFound, InvalidInput, ManifestCorrupt
from retrieval.index.manifest import manifest_to_dict, prepare_manifest
from retrieval.types import Manifest, Passage

Manifests = Callable[..., Manifest]
Passages = Callable[..., list[Passage]]
Vectors = Callable[..., Any]


@pytest.fixture(scope="module")
def running() -> Iterator[QdrantHttp]:
    with qdrant_http() as double:
        yield double


@pytest.fixture
def double(running: QdrantHttp) -> Iterator[QdrantHttp]:
    yield running
    for name in running.backend.collections():
        running.backend.delete_collection(name)


@pytest.fixture
def store(double: QdrantHttp) -> Store:
    return Store(double.url)


@pytest.fixture
def others(double: QdrantHttp) -> Iterator[QdrantClient]:
    """Another program's way to the same server."""
    client = QdrantClient(url=double.url, check_compatibility=False)
    yield client
    client.close()


def theirs(client: QdrantClient, name: str, **options: Any) -> None:
    size = models.VectorParams(size=4, distance=models.Distance.DOT)
    client.create_collection(name, vectors_config=size, **options)
    client.upsert(name, [models.PointStruct(id=1, vector=[1.0, 0.0, 0.0, 0.0])], wait=True)


def alias(client: QdrantClient, name: str, target: str) -> None:
    create = models.CreateAlias(collection_name=target, alias_name=name)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])


def aliases(client: QdrantClient) -> dict[str, str]:
    return {one.alias_name: one.collection_name for one in client.get_aliases().aliases}


def test_a_foreign_collection_that_is_called_like_a_version(
    store: Store, others: QdrantClient, manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    with store.create(manifest()) as index:
        index.upsert(passages(2), vectors(2))
    theirs(others, "docs@v2")
    assert store.versions("docs") == ["docs@v1"]
    assert store.foreign("docs") == store.foreign() == ["docs@v2"]
    assert store.next_version("docs") == "docs@v3"
    with pytest.raises(CollectionExists, match=r"taken at .* that this library did not make"):
        store.create(manifest(), version="docs@v2")
    for refused in (
        lambda: store.switch("docs", "docs@v2"),
        lambda: store.delete("docs@v2"),
        lambda: store.rollback("docs"),
    ):
        with pytest.raises(InvalidInput):
            refused()
    store.create(manifest(), version="docs@v3").close()
    store.switch("docs", "docs@v3")
    assert store.rollback("docs") == "docs@v1"  # past theirs
    store.delete("docs")
    assert [one.name for one in others.get_collections().collections] == ["docs@v2"]
    assert others.count("docs@v2").count == 1
    with pytest.raises(CollectionNotFound, match=r"'docs@v2', which this library did not make"):
        store.delete("docs")
    with pytest.raises(CollectionNotFound, match=r"'docs@v2', which this library did not make"):
        store.versions("docs")
    with store.create(manifest()) as index:
        assert index.physical == "docs@v3"


def test_one_that_is_called_like_the_first_version(
    store: Store, others: QdrantClient, manifest: Manifests
) -> None:
    theirs(others, "docs@v1")
    theirs(others, "else")
    alias(others, "docs@v2", "else")
    with store.open_or_create(manifest()) as index:
        assert index.physical == "docs@v3"
    assert aliases(others) == {"docs": "docs@v3", "docs@v2": "else"}
    store.delete("docs")
    assert store.names() == ["docs@v2", "else"]
    assert store.foreign() == ["docs@v1", "docs@v2", "else"]
    assert others.count("docs@v1").count == others.count("docs@v2").count == 1


@pytest.mark.parametrize("aliased", [False, True])
def test_a_name_that_others_have(
    store: Store, others: QdrantClient, manifest: Manifests, aliased: bool
) -> None:
    theirs(others, "theirs" if aliased else "docs")
    if aliased:
        alias(others, "docs", "theirs")
    # what stands beside it under our names does not change whose the name is
    store.create(manifest(), version="docs@v7").close()
    before = aliases(others)
    what = "an alias of 'theirs'" if aliased else "a collection"
    with pytest.raises(CollectionExists, match=f"'docs' is taken at .* by {what} that this"):
        store.create(manifest())
    for call in (lambda: store.open("docs"), lambda: store.open_or_create(manifest())):
        with pytest.raises(ManifestCorrupt, match="not made by this library"):
            call()
    with pytest.raises(InvalidInput, match=r"is not a version of it|is not one that this library"):
        store.delete("docs")
    with pytest.raises(InvalidInput):
        store.switch("docs", "docs@v7")
    with pytest.raises(InvalidInput):
        store.rollback("docs")
    assert store.foreign() == sorted(["docs", "theirs"][: 1 + aliased])
    assert aliases(others) == before
    assert others.count("docs").count == 1
    store.delete("docs@v7")


def test_a_version_whose_manifest_is_of_another_collection(
    store: Store, others: QdrantClient, manifest: Manifests
) -> None:
    """A snapshot of `other` that somebody restored under a name of ours."""
    store.create(manifest()).close()
    made = manifest_to_dict(prepare_manifest("other", manifest("other")))
    theirs(others, "docs@v2", metadata={"retrieval_manifest": made})
    assert store.versions("docs") == ["docs@v1"]
    with pytest.raises(InvalidInput, match="not one that this library made for 'docs'"):
        store.switch("docs", "docs@v2")
    store.delete("docs")
    assert store.foreign() == ["docs@v2"]
    # a damaged one of ours is still ours to delete
    theirs(others, "docs@v3", metadata={"retrieval_manifest": {"half": 1}})
    store.delete("docs@v3")
    assert [one.name for one in others.get_collections().collections] == ["docs@v2"]


def test_a_foreign_folder_that_is_called_like_a_version(
    tmp_path: Path, manifest: Manifests
) -> None:
    store = Store(tmp_path)
    store.create(manifest()).close()
    store.create(manifest("other")).close()
    (tmp_path / "docs@v2").mkdir()
    (tmp_path / "docs@v2" / "letters.txt").write_text("not of ours")
    shutil.copytree(tmp_path / "other", tmp_path / "docs@v3")
    (tmp_path / "photos").mkdir()
    assert store.versions("docs") == ["docs@v1"]
    assert store.foreign("docs") == store.foreign() == ["docs@v2", "docs@v3"]
    assert store.next_version("docs") == "docs@v4"
    for version in ("docs@v2", "docs@v3"):
        with pytest.raises(CollectionNotFound, match="not a version of"):
            store.switch("docs", version)
        with pytest.raises((InvalidInput, CollectionNotFound), match=f"{version}"):
            store.delete(version)
    store.delete("docs")
    assert (tmp_path / "docs@v2" / "letters.txt").read_text() == "not of ours"
    assert (tmp_path / "docs@v3" / "manifest.json").exists()
    assert store.names() == ["other"]


def test_a_version_that_is_being_restored_is_not_made_meanwhile(
    store: Store, others: QdrantClient, manifest: Manifests
) -> None:
    others.create_collection("docs@v1@restoring", vectors_config={}, metadata={"any": 1})
    with store.create(manifest()) as index:
        assert index.physical == "docs@v2"
    assert store.versions("docs") == ["docs@v2"]
