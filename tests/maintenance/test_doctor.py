"""The doctor finds what is wrong, and nothing where all is well."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubles.qdrant_http import qdrant_http
from hashing_encoder import HashingEncoder
from maintenance_help import DIMENSION, fill, make_manifest, passage

import retrieval
from retrieval import Document
from retrieval.index.collection import CollectionIndex
from retrieval.index.point_store import PointData
from retrieval.index.store import Store
from retrieval.index.upsert_checks import point
from retrieval.maintenance.doctor import Diagnosis, examine
from retrieval.types import Layout, Storage


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    with place.create(make_manifest()) as index:
        fill(index, 40)
    return place


def found(diagnosis: Diagnosis, check: str) -> tuple[str, str]:
    finding = next(one for one in diagnosis.findings if one.check == check)
    return finding.state, finding.text


def test_a_sound_collection_is_sound(store: Store) -> None:
    diagnosis = examine("docs", store=store)
    assert diagnosis.state == "ok", diagnosis.findings
    assert diagnosis.points == 40
    assert found(diagnosis, "documents") == ("ok", "20 documents, all whole")
    checks = {one.check for one in diagnosis.findings}
    assert checks >= {"versions", "engine", "payload indexes", "disk", "counts", "payloads",
                      "offsets", "vectors", "BM25 terms", "orphans", "documents"}  # fmt: skip


def test_tenants_have_documents_of_their_own(tmp_path: Path) -> None:
    place = Store(tmp_path)
    manifest = make_manifest(layout=Layout(tenants=True), storage=Storage(fields={"a": "keyword"}))
    with place.create(manifest) as index:
        fill(index, 20, tenant="a")
        fill(index, 20, tenant="b")
    diagnosis = examine("docs", store=place)
    assert diagnosis.state == "ok", diagnosis.findings
    assert found(diagnosis, "documents") == ("ok", "20 documents, all whole")


def test_missing_and_left_over_passages_are_found(store: Store) -> None:
    with store.open("docs") as index:
        victims = [p.id for p in index.passages() if p.document_id == "d3" and p.position == 1]
        index.delete_passages(victims)
        old = dataclasses.replace(passage("d5", 2, 3, "left of before"), document_hash="older")
        index.upsert([old], np.ones((1, DIMENSION), dtype=np.float32))
    diagnosis = examine("docs", store=store)
    assert diagnosis.state == "error"
    assert found(diagnosis, "documents") == ("error", "documents with passages missing: 1 (d3)")
    state, text = found(diagnosis, "orphans")
    assert state == "error"
    assert text.endswith("1 (d5)")
    fixes = {one.fix for one in diagnosis.findings if one.state == "error"}
    assert all("retrieval" in fix for fix in fixes)


def damage(index: CollectionIndex, **changes: Any) -> None:
    """Write one point again as no upsert would."""
    one: PointData = next(index.points())
    payload = {**one.payload, **changes.pop("payload", {})}
    for name in changes.pop("without", ()):
        del payload[name]
    dense = changes.get("dense", one.dense)
    index.write_points([point(one.id, dense, changes.get("sparse", one.sparse), payload)])


@pytest.mark.parametrize(
    ("check", "changes"),
    [
        ("payloads", {"without": ["text"]}),
        ("offsets", {"payload": {"end": 999}}),
        ("BM25 terms", {"payload": {"text": "another text", "start": 0, "end": 12}}),
        ("ids", {"payload": {"position": 7}}),
    ],
)
def test_damage_is_found(store: Store, check: str, changes: dict[str, Any]) -> None:
    with store.open("docs") as index:
        damage(index, **changes)
    diagnosis = examine("docs", store=store)
    state, _ = found(diagnosis, check)
    assert state in ("error", "warning")
    assert diagnosis.state in ("error", "warning")


def test_versions_that_nobody_searches_are_told(store: Store) -> None:
    store.create(make_manifest(), version="docs@v2").close()
    state, text = found(examine("docs", store=store), "versions")
    assert state == "warning"
    assert "docs@v2 take space" in text


def test_vectors_of_other_weights_are_found(tmp_path: Path) -> None:
    place = Store(tmp_path)
    documents = [Document(f"d{n}", f"the {n} animal sleeps") for n in range(30)]
    retrieval.ingest(documents, "docs", store=place, encoder=HashingEncoder())
    right = examine("docs", store=place, encoder=lambda manifest: HashingEncoder())
    assert found(right, "encoder")[0] == "ok"

    class Other(HashingEncoder):
        def encode_passages(self, passages: Any, *, progress: Any = None) -> Any:
            return super().encode_passages([text[::-1] for text in passages])

    wrong = examine("docs", store=place, encoder=lambda manifest: Other())
    state, text = found(wrong, "encoder")
    assert state == "error"
    assert "16 passages encoded anew" in text


def test_a_small_disk_is_told_of(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.index.collection import CollectionIndex as Index

    real = Index.status

    def small(self: Index) -> Any:
        return dataclasses.replace(real(self), free_bytes=1_000)

    monkeypatch.setattr(Index, "status", small)
    state, text = found(examine("docs", store=store), "disk")
    assert state == "warning"
    assert "0.0 MB free" in text


@pytest.mark.parametrize(("version", "state"), [("1.16.0", "warning"), (None, "ok")])
def test_a_server_far_from_the_client_is_told_of(version: str | None, state: str) -> None:
    with qdrant_http(version=version) as server:
        store = Store(server.url)
        with store.create(make_manifest()) as index:
            fill(index, 3)
        told = found(examine("docs", store=store), "server version")
    assert told[0] == state
    assert (version or "qdrant-client") in told[1]
