"""Keys that may not do everything: tokens for some collections, and keys that may only read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from doubles.qdrant_http import QdrantHttp, qdrant_http

from retrieval import Store
from retrieval.errors import CollectionNotFound, StoreDenied
from retrieval.index.server.index import ServerIndex
from retrieval.types import Manifest

Manifests = Callable[..., Manifest]


@pytest.fixture
def double(manifest: Manifests) -> Iterator[QdrantHttp]:
    with qdrant_http(api_key="all") as running:
        ServerIndex.create(running.url, "docs", manifest(), api_key="all").close()
        running.faults.tokens = {
            "name-only": {"docs": "rw"},
            "version-only": {"docs@v1": "rw"},
            "both": {"docs": "r", "docs@v1": "r"},
            "writes": {"docs": "rw", "docs@v1": "rw"},
            "other": {"other": "rw"},
            "reads": "r",
        }
        yield running


def _store(double: QdrantHttp, key: str) -> Store:
    return Store(double.url, api_key=key)


def test_a_token_with_both_names_opens_the_collection(double: QdrantHttp) -> None:
    with _store(double, "both").open("docs") as index:
        assert index.count() == 0
    assert _store(double, "both").names() == ["docs"]


@pytest.mark.parametrize(
    ("key", "named"), [("name-only", "'docs@v1'"), ("version-only", "'docs'"), ("other", "'docs'")]
)
def test_the_name_that_a_token_lacks_is_said(double: QdrantHttp, key: str, named: str) -> None:
    with pytest.raises(StoreDenied, match="token for some collections only") as caught:
        _store(double, key).open("docs")
    assert named in str(caught.value)
    assert "retrieval switch" not in str(caught.value)


def test_what_is_not_there_is_still_said(double: QdrantHttp) -> None:
    for key in ("all", "reads"):
        with pytest.raises(CollectionNotFound, match="make it first"):
            _store(double, key).open("nothing")


@pytest.mark.parametrize(
    ("key", "may"),
    [("all", True), ("writes", True), ("both", False), ("reads", False), ("other", False)],
)
def test_whether_a_key_may_write_is_found_out_without_writing(
    double: QdrantHttp, key: str, may: bool
) -> None:
    store = _store(double, key)
    for name in ("docs", "docs@v1"):
        if may:
            store.check_writable(name)
        else:
            with pytest.raises(StoreDenied):
                store.check_writable(name)
    if key == "all":
        store.check_writable("not-made-yet")
