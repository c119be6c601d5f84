"""Collections of format 1, as version 0.1 wrote them before layouts and storage were kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from maintenance_help import fill, make_manifest

from retrieval.errors import ManifestCorrupt, ManifestMismatch, StoreLocked
from retrieval.index.store import Store
from retrieval.maintenance.upgrade import upgrade_collection
from retrieval.types import Layout, Storage


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    with place.create(make_manifest()) as index:
        fill(index, 30)
    path = tmp_path / "store" / "docs" / "manifest.json"
    values = json.loads(path.read_text())
    del values["layout"], values["storage"]
    path.write_text(json.dumps({**values, "format_version": 1}))
    return place


def test_nothing_is_upgraded_by_itself(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "store" / "docs" / "manifest.json"
    before = path.read_bytes()
    with pytest.raises(ManifestMismatch, match="format version 1") as caught:
        store.open("docs")
    assert "retrieval upgrade" in caught.value.fix
    assert path.read_bytes() == before


def test_an_upgrade_keeps_every_passage(store: Store) -> None:
    done = upgrade_collection("docs", store=store)
    assert (done.before, done.after) == (1, 2)
    manifest = store.manifest("docs")
    assert (manifest.layout, manifest.storage) == (Layout(), Storage(quantization="none"))
    with store.open("docs") as index:
        assert index.count() == 30
        fill(index, 40)
        assert index.count() == 40
    assert upgrade_collection("docs", store=store).before == 2  # nothing left to do


def test_what_is_open_or_unknown_is_not_upgraded(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "store" / "docs" / "manifest.json"
    old = path.read_text()
    path.write_text(json.dumps({**json.loads(old), "format_version": 99}))
    with pytest.raises(ManifestMismatch, match="format version 99"):
        upgrade_collection("docs", store=store)
    path.write_text("{}")
    with pytest.raises(ManifestCorrupt):
        upgrade_collection("docs", store=store)
    path.write_text(old)
    upgrade_collection("docs", store=store)
    with store.open("docs"), pytest.raises(StoreLocked):
        upgrade_collection("docs", store=store)


def test_a_server_keeps_its_manifest_in_the_collection() -> None:
    from doubles.qdrant_http import qdrant_http
    from qdrant_client import QdrantClient

    with qdrant_http() as server:
        store = Store(server.url)
        with store.create(make_manifest()) as index:
            fill(index, 10)
            physical = index.physical
        client = QdrantClient(url=server.url, check_compatibility=False)
        values = dict(client.get_collection(physical).config.metadata["retrieval_manifest"])
        del values["layout"], values["storage"]
        old = {**values, "format_version": 1}
        client.update_collection(physical, metadata={"retrieval_manifest": old})
        client.close()
        with pytest.raises(ManifestMismatch, match="format version 1"):
            store.open("docs")
        assert upgrade_collection("docs", store=store).before == 1
        with store.open("docs") as index:
            assert index.count() == 10
