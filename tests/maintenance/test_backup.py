"""Backups: consistent, whole, and checked before they are believed."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from maintenance_help import fill, make_manifest

from retrieval.errors import CollectionExists, CorpusError, InvalidInput, StoreLocked
from retrieval.index.store import Store
from retrieval.maintenance.backup import backup_collection, restore_collection


@pytest.fixture
def store(tmp_path: Path) -> Store:
    place = Store(tmp_path / "store")
    with place.create(make_manifest()) as index:
        fill(index, 300)
    return place


def state(store: Store, name: str = "docs") -> list[tuple[str, dict[str, object], list[float]]]:
    with store.open(name) as index:
        return [(p.id, p.payload, p.dense.tolist()) for p in index.points()]


def test_a_folder_comes_back_bit_by_bit(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "docs.tar.gz"
    done = backup_collection("docs", path, store=store)
    assert (done.collection, done.points) == ("docs", 300)
    assert done.bytes == path.stat().st_size
    before = state(store)
    with store.open("docs") as index:
        index.delete_documents(["d1", "d2"])
    back = restore_collection(path, "again", store=store)
    assert (back.collection, back.points) == ("again", 300)
    assert state(store, "again") == before
    assert store.manifest("again").collection == "again"
    elsewhere = Store(tmp_path / "elsewhere")
    restore_collection(path, store=elsewhere)
    assert state(elsewhere) == before
    with elsewhere.open("docs") as index:  # and it can be written to
        fill(index, 4)
        index.optimize()


def test_the_current_version_is_what_is_backed_up(store: Store, tmp_path: Path) -> None:
    with store.create(make_manifest(), version="docs@v2") as index:
        fill(index, 10)
    store.switch("docs", "docs@v2")
    backup_collection("docs", tmp_path / "b.tar.gz", store=store)
    to = Store(tmp_path / "to")
    assert restore_collection(tmp_path / "b.tar.gz", store=to).points == 10
    assert to.versions("docs") == ["docs@v1"]


def test_nobody_may_write_meanwhile(store: Store, tmp_path: Path) -> None:
    with store.open("docs"), pytest.raises(StoreLocked):
        backup_collection("docs", tmp_path / "b.tar.gz", store=store)
    assert list(tmp_path.glob("*b.tar.gz*")) == []


def test_what_exists_is_not_replaced(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    backup_collection("docs", path, store=store)
    with pytest.raises(InvalidInput, match="exists already"):
        backup_collection("docs", path, store=store)
    backup_collection("docs", path, store=store, overwrite=True)
    with pytest.raises(CollectionExists):
        restore_collection(path, store=store)
    with pytest.raises(InvalidInput, match=r"ending \.tar\.gz"):
        backup_collection("docs", tmp_path / "b.zip", store=store)


def changed(path: Path, name: str, data: bytes | None, to: str | None = None) -> None:
    """Rewrite one member of a backup, leave it out, or give it another name."""
    with tarfile.open(path) as archive:
        members = [
            (m, (f.read() if (f := archive.extractfile(m)) else b"")) for m in archive.getmembers()
        ]
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for member, content in members:
            if member.name == name:
                if data is None:
                    continue
                content, member.name = data, to or member.name
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_a_damaged_backup_changes_nothing(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "b.tar.gz"
    to = Store(tmp_path / "to")

    whole = tmp_path / "whole.tar.gz"
    backup_collection("docs", whole, store=store)

    def fresh() -> dict[str, object]:
        shutil.copyfile(whole, path)
        with tarfile.open(path) as archive:
            found = archive.extractfile("backup.json")
            assert found is not None
            return dict(json.load(found))

    contents = fresh()
    files = contents["files"]
    assert isinstance(files, dict)
    segment = next(name for name in files if "segment.json" in name)
    changed(path, segment, b"{}")
    with pytest.raises(CorpusError, match=r"segment\.json is not what was backed up"):
        restore_collection(path, store=to)
    fresh()
    changed(path, segment, None)
    with pytest.raises(CorpusError, match="missing from it"):
        restore_collection(path, store=to)
    fresh()
    changed(path, "backup.json", json.dumps({**contents, "files": {"../evil": "0"}}).encode())
    with pytest.raises(CorpusError, match="list of files is not whole"):
        restore_collection(path, store=to)
    evil = {**files, "../evil": "0"}
    changed(path, "backup.json", json.dumps({**contents, "files": evil}).encode())
    with pytest.raises(CorpusError, match="outside of the collection"):
        restore_collection(path, store=to)
    fresh()
    changed(path, "backup.json", json.dumps({**contents, "points": 301}).encode())
    with pytest.raises(CorpusError, match="it gave 300 passages, 301 were backed up"):
        restore_collection(path, store=to)
    fresh()
    path.write_bytes(path.read_bytes()[:-1_000])
    with pytest.raises(CorpusError):
        restore_collection(path, store=to)
    path.write_bytes(b"no archive")
    with pytest.raises(CorpusError, match="not a complete backup"):
        restore_collection(path, store=to)
    assert to.names() == []
    assert not (tmp_path / "evil").exists()
    assert [entry.name for entry in (tmp_path / "to").iterdir() if entry.is_dir()] == []
