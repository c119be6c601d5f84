"""Stores and versions: on a folder, and on a server double when it is asked for."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidInput,
    ManifestCorrupt,
    StoreLocked,
)
from retrieval.index.bm25 import bm25_info
from retrieval.index.server.client import Connection
from retrieval.index.store import ServerOptions, Store
from retrieval.types import EncoderInfo, Manifest, Passage, SplitterInfo

DIMENSION = 8


def manifest(name: str = "docs", model: str = "first") -> Manifest:
    info = EncoderInfo(model, f"sha256:{model}", DIMENSION, "cls", True, "", "", 64)
    return Manifest(name, info, SplitterInfo(64, 0), bm25_info("en"))


def fill(index: object, count: int, word: str = "cat") -> None:
    passages = [
        Passage(
            id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"d{n}")),
            document_id=f"d{n}",
            position=0,
            text=f"a {word} {n}",
            start=0,
            end=len(f"a {word} {n}"),
            document_hash="h",
        )
        for n in range(count)
    ]
    rows = np.random.default_rng(0).standard_normal((count, DIMENSION)).astype(np.float32)
    index.upsert(passages, rows)  # type: ignore[attr-defined]


@pytest.fixture(params=["folder", "server"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "folder":
        yield Store(tmp_path / "store")
        return
    from doubles.qdrant_http import qdrant_http

    with qdrant_http() as server:
        yield Store(server.url)


def test_a_collection_has_versions_and_a_current_one(store: Store) -> None:
    with store.create(manifest()) as index:
        fill(index, 3)
        first = index.physical
    assert store.names() == ["docs"]
    assert store.versions("docs") == [first]
    assert store.current("docs") == first
    second = store.next_version("docs")
    assert second == "docs@v2"
    with store.create(manifest(model="second"), version=second) as index:
        fill(index, 5)
        assert index.collection == "docs"
        assert index.physical == "docs@v2"
    assert store.names() == ["docs"]
    assert store.versions("docs") == [first, second]
    assert store.current("docs") == first
    assert store.manifest("docs").encoder.model == "first"
    assert store.manifest("docs@v2").encoder.model == "second"
    with store.open("docs") as index:
        assert index.count() == 3

    assert store.switch("docs", second) == first
    assert store.current("docs") == second
    with store.open("docs") as index:
        assert index.count() == 5
        assert index.physical == second
    assert store.manifest("docs").encoder.model == "second"

    assert store.rollback("docs") == first
    with store.open("docs") as index:
        assert index.count() == 3
    with pytest.raises(InvalidInput, match="oldest version"):
        store.rollback("docs")


def test_an_open_index_stays_with_its_version(store: Store) -> None:
    with store.create(manifest()) as index:
        fill(index, 3)
    with store.create(manifest(), version="docs@v2") as index:
        fill(index, 5)
    with store.open("docs") as before:
        store.switch("docs", "docs@v2")
        assert before.count() == 3
        with store.open("docs") as after:
            assert after.count() == 5


def test_switching_to_what_is_not_there_changes_nothing(store: Store) -> None:
    store.create(manifest()).close()
    current = store.current("docs")
    with pytest.raises(CollectionNotFound, match="docs@v1"):
        store.switch("docs", "docs@v9")
    store.create(manifest("other")).close()
    with pytest.raises((CollectionNotFound, InvalidInput), match="not a version of"):
        store.switch("docs", store.current("other"))
    assert store.current("docs") == current


def test_a_version_in_use_is_not_deleted_and_a_collection_goes_whole(store: Store) -> None:
    store.create(manifest()).close()
    store.create(manifest("docs2")).close()
    first = store.current("docs")
    store.create(manifest(), version="docs@v2").close()
    store.switch("docs", "docs@v2")
    with pytest.raises(InvalidInput, match="nothing was deleted"):
        store.delete("docs@v2")
    store.delete(first)
    assert store.versions("docs") == ["docs@v2"]
    store.delete("docs")
    assert store.names() == ["docs2"]
    for name in ("docs", "docs@v2"):
        with pytest.raises(CollectionNotFound):
            store.open(name)
    store.create(manifest()).close()
    assert store.names() == ["docs", "docs2"]


def test_a_name_is_taken_once_whatever_its_version(store: Store) -> None:
    store.create(manifest()).close()
    with store.create(manifest(), version="docs@v2") as index:
        fill(index, 2)
    store.switch("docs", "docs@v2")
    with pytest.raises(CollectionExists):
        store.create(manifest())
    with store.open_or_create(manifest()) as index:
        assert index.count() == 2


def test_a_manifest_must_name_the_collection_of_its_version(store: Store) -> None:
    with pytest.raises(InvalidInput, match="names the collection 'docs', expected 'other'"):
        store.create(manifest("docs"), version="other@v2")
    for name in ("docs@2", "docs@v0", "docs@v2/..", "@v2"):
        with pytest.raises(InvalidInput, match="collection name"):
            store.create(manifest("docs"), version=name)


def test_readers_see_the_old_version_or_the_new_one_while_it_is_switched(store: Store) -> None:
    with store.create(manifest()) as index:
        fill(index, 3)
    first = store.current("docs")
    with store.create(manifest(), version="docs@v2") as index:
        fill(index, 5)
    seen: set[str] = set()
    problems: list[BaseException] = []
    stop = threading.Event()

    def read() -> None:
        try:
            while not stop.is_set():
                seen.add(store.current("docs"))
                assert store.names() == ["docs"]
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(10):
        store.switch("docs", "docs@v2")
        store.rollback("docs")
    stop.set()
    for reader in readers:
        reader.join()
    assert not problems
    assert seen <= {first, "docs@v2"}


# --- folders --------------------------------------------------------------------------------


def test_a_delete_that_was_cut_off_brings_no_old_version_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create(manifest()).close()
    store.create(manifest(), version="docs@v2").close()
    store.switch("docs", "docs@v2")
    aliases = (tmp_path / "@aliases.json").read_text()
    store.delete("docs")
    (tmp_path / "@aliases.json").write_text(aliases)  # as if killed before its last step
    assert store.names() == []
    store.create(manifest()).close()
    assert store.current("docs") == "docs@v1"
    store.create(manifest(), version="docs@v2").close()
    assert store.current("docs") == "docs@v1"


def test_a_locked_version_keeps_the_whole_collection(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create(manifest()).close()
    store.create(manifest(), version="docs@v2").close()
    store.switch("docs", "docs@v2")
    with store.open("docs"), pytest.raises(StoreLocked):
        store.delete("docs")
    assert store.versions("docs") == ["docs@v1", "docs@v2"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"docs": 3}', '{"docs": "other"}', '{"docs": "../docs"}']
)
def test_aliases_that_cannot_be_understood_are_not_guessed(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path)
    store.create(manifest()).close()
    (tmp_path / "@aliases.json").write_text(text)
    with pytest.raises((ManifestCorrupt, InvalidInput)):
        store.open("docs")


def test_the_alias_file_says_what_it_means(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create(manifest()).close()
    store.create(manifest(), version="docs@v2").close()
    store.switch("docs", "docs@v2")
    assert json.loads((tmp_path / "@aliases.json").read_text()) == {"docs": "docs@v2"}
    store.switch("docs", "docs@v1")
    assert json.loads((tmp_path / "@aliases.json").read_text()) == {}


# --- what a store is ------------------------------------------------------------------------


def test_a_store_is_a_folder_or_a_url(tmp_path: Path) -> None:
    assert not Store(tmp_path).is_server
    assert Store("http://localhost:6333").is_server
    for wrong in ("", "  ", "ftp://host", "qdrant://host:6333"):
        with pytest.raises(InvalidInput, match="expected a folder"):
            Store(wrong)
    with pytest.raises(InvalidInput, match="expected a folder, a URL or a Store"):
        Store(3)  # type: ignore[arg-type]


def test_options_are_for_servers_and_keys_stay_secret(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is a folder"):
        Store(tmp_path, options=ServerOptions(timeout_s=3))
    store = Store("http://localhost:6333", api_key="hush-hush")
    assert store.options.api_key == "hush-hush"
    assert "hush" not in repr(store) + repr(store.options)
    assert Store.of(store) is store
    with pytest.raises(InvalidInput, match="besides a Store") as caught:
        Store.of(store, "other-key")
    assert "other-key" not in str(caught.value)


def test_options_of_a_server_may_stand_in_its_url() -> None:
    store = Store("https://host:6333?grpc=true&timeout_s=30&read_consistency=2", api_key="key")
    assert store.location == "https://host:6333"
    wanted = ServerOptions(api_key="key", grpc=True, timeout_s=30.0, read_consistency=2)
    assert store.options == wanted
    assert Store("http://host?read_consistency=majority").options.read_consistency == "majority"
    for wrong in ("grpc=maybe", "timeout_s=soon", "speed=fast", "timeout_s=-1"):
        with pytest.raises(InvalidInput, match=wrong.split("=")[0]):
            Store(f"http://host:6333?{wrong}")
    with pytest.raises(InvalidInput, match="where logs and") as caught:
        Store("http://host:6333?api_key=hush")
    assert "hush" not in str(caught.value)
    with pytest.raises(InvalidInput, match="given twice"):
        Store("http://host:6333?grpc=true", options=ServerOptions())


def test_several_addresses_of_one_cluster() -> None:
    store = Store("http://a:6333, https://b:6333,http://a:6333?grpc_port=1,2", api_key="key")
    assert store.location == "http://a:6333,https://b:6333"
    assert store.options == ServerOptions(api_key="key", grpc_port=(1, 2))
    with Connection(store.location, store.options) as connection:
        assert [one.where for one in connection.each()] == ["http://a:6333", "https://b:6333"]
        assert [one.options.grpc_port for one in connection.each()] == [1, 2]
        first = connection.each()[0]
        assert first.each() == (first,)
    for wrong, message in (
        ("http://a:6333,b:6333", "'b:6333' is not the address"),
        ("http://a:6333,", "'' is not the address"),
        ("http://a,http://b?grpc_port=1,2,3", "3 ports for 2 addresses"),
        ("http://a,http://b?grpc_port=1,x", "grpc_port='1,x'"),
    ):
        with pytest.raises(InvalidInput, match=re.escape(message)):
            Store(wrong)


def test_versions_are_counted_and_not_sorted_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.create(manifest()).close()
    makes: Callable[..., object] = store.create
    for number in (2, 10, 9):
        makes(manifest(), version=f"docs@v{number}").close()  # type: ignore[attr-defined]
    assert store.versions("docs") == ["docs@v1", "docs@v2", "docs@v9", "docs@v10"]
    assert store.next_version("docs") == "docs@v11"
    store.switch("docs", "docs@v10")
    assert store.rollback("docs") == "docs@v9"
