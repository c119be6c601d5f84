"""Names of collections in a folder: none meets the store's own files, or leads out of it."""

from __future__ import annotations

import json
import os
import string
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from maintenance_help import fill
from maintenance_help import make_manifest as manifest

from retrieval.errors import CollectionExists, CollectionNotFound, InvalidInput, RetrievalError
from retrieval.index.embedded import folder
from retrieval.index.embedded.aliases import ALIASES, EARLIER_ALIASES
from retrieval.index.manifest import prepare_manifest
from retrieval.index.store import Store

OWN = """aliases.json @aliases.json .aliases.lock lock manifest.json shard .creating-a
.deleting-docs-1 .aliases.json.0.tmp @damaged-1-aliases.json""".split()  # noqa: SIM905
ODD = """con CON nul.txt Aux com1 LPT9.tar.gz docs. docs.. . .. ... ../x a/b a\\b /etc C: docs:x -a
_a docs@v1 docs@v2 docs@v0 docs@v01 docs@v999999999 docs@v9999999999 @v1 docs@v1@v2 docs@V2 ｄｏｃｓ
dócs K ſ ١ ² ~ ~root $HOME %2e%2e con@v2 Docs DOCS""".split()  # noqa: SIM905
ODD += ["a\0b", "docs ", " docs", "docs\n", "do\u0301cs", "docs\u202e", "\ud800", ""]
ODD += ["a" * 64, "a" * 65, "a" * 64 + "@v123456789"]
NAMES = (
    st.sampled_from([*OWN, *ODD])
    | st.text(max_size=80)
    | st.text(string.ascii_letters + string.digits + "._-@v", min_size=1, max_size=80)
)


def make(root: Path, name: str) -> None:
    """A collection without an engine's files: what is asked is where it lies."""
    made = prepare_manifest(name, manifest(folder.split_name(name)[0]))
    folder.create_folder(root, name, made, lambda path: path.mkdir())[1].release()


@settings(deadline=None, max_examples=50)
@given(st.lists(NAMES, min_size=1, max_size=6))
@example(["aliases.json"])
@example(["docs@v1", "docs@v999999999"])
def test_no_name_leads_out_of_the_store_or_onto_its_own_files(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "store"
        make(root, "docs")
        make(root, "docs@v7")
        folder.switch(root, "docs", "docs@v7")
        own = {ALIASES: (root / ALIASES).read_bytes(), ".aliases.lock": b""}
        made = {"docs", "docs@v7"}
        for name in names:
            try:
                make(root, name)
                made.add(name)
            except (InvalidInput, CollectionExists):
                assert name not in made or (root / name).is_dir()
        assert os.listdir(place) == ["store"]  # noqa: PTH208
        assert {entry.name for entry in root.iterdir()} == made | set(own)
        assert {name: (root / name).read_bytes() for name in own} == own
        assert folder.current(root, "docs") == "docs@v7"
        for name in made:
            assert folder.read_manifest(root, name).collection == name.split("@")[0]
        for name in {name.split("@")[0] for name in made}:
            try:
                folder.delete_collection(root, name)
            except CollectionNotFound:  # versions of which none is the current one
                folder.switch(root, name, folder.list_versions(root, name)[-1])
                folder.delete_collection(root, name)
        assert {entry.name for entry in root.iterdir()} == set(own)


@settings(deadline=None, max_examples=100)
@given(NAMES)
def test_reading_switching_and_deleting_touch_nothing_but_collections(name: str) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "store"
        make(root, "docs")
        (Path(place) / "x").mkdir()
        (Path(place) / "x" / "manifest.json").write_text("{}")
        before = sorted(Path(place).rglob("*"))
        for call in (folder.read_manifest, folder.current, folder.list_versions):
            try:
                call(root, name)
                known = True
            except (InvalidInput, CollectionNotFound):
                known = False
            assert not known or name in ("docs", "docs@v1") or call is folder.list_versions
        if name not in ("docs", "docs@v1"):
            with pytest.raises((InvalidInput, CollectionNotFound)):
                folder.delete_collection(root, name)
            with pytest.raises((InvalidInput, CollectionNotFound)):
                folder.switch(root, "docs", name)
        assert sorted(Path(place).rglob("*")) == before


def test_a_collection_called_like_the_stores_file_harms_no_other(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.create(manifest()).close()
    with store.create(manifest("aliases.json")) as index:
        fill(index, 2)
    assert store.names() == ["aliases.json", "docs"]
    store.create(manifest(), version="docs@v2").close()
    store.switch("docs", "docs@v2")
    assert store.current("docs") == "docs@v2"
    store.create(manifest("aliases.json"), version="aliases.json@v2").close()
    store.switch("aliases.json", "aliases.json@v2")
    store.rollback("aliases.json")
    with store.open("aliases.json") as index:
        assert index.count() == 2
    store.delete("aliases.json")
    assert store.names() == ["docs"]


def test_the_earlier_file_of_aliases_is_read_and_goes_with_the_next_change(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for version in (None, "docs@v2", "docs@v3"):
        store.create(manifest(), version=version).close()
    (tmp_path / EARLIER_ALIASES).write_text('{"docs": "docs@v2"}')
    assert store.current("docs") == "docs@v2"
    with pytest.raises(CollectionExists):
        store.create(manifest("aliases.json"))
    store.switch("docs", "docs@v3")
    assert json.loads((tmp_path / ALIASES).read_text()) == {"docs": "docs@v3"}
    assert not (tmp_path / EARLIER_ALIASES).exists()
    (tmp_path / EARLIER_ALIASES).write_text('{"docs": "docs@v2"}')  # killed before it went
    assert store.current("docs") == "docs@v3"
    store.rollback("docs")
    assert not (tmp_path / EARLIER_ALIASES).exists()


@pytest.mark.parametrize("name", ["con", "Lpt9.a.b", "docs."])
def test_names_that_windows_does_not_have_are_not_made_but_read(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path)
    with pytest.raises(InvalidInput, match="on Windows"):
        store.create(manifest(name))
    assert list(tmp_path.iterdir()) == []
    store.create(manifest("before")).close()
    (tmp_path / "before").rename(tmp_path / name)  # made by an earlier version
    path = tmp_path / name / "manifest.json"
    path.write_text(path.read_text().replace('"before"', json.dumps(name)))
    assert store.names() == [name]
    with store.open_or_create(manifest(name)) as index:
        fill(index, 1)
    store.create(manifest(name), version=f"{name}@v2").close()
    store.switch(name, f"{name}@v2")
    store.delete(name)
    assert store.names() == []


def test_a_file_system_that_folds_case_has_one_collection_of_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are looked up as such a file system does."""
    store = Store(tmp_path / "store")
    store.create(manifest()).close()
    store.create(manifest("Other")).close()  # where case is told apart nothing is refused
    store.create(manifest("other")).close()
    store.delete("Other")
    real = os.stat

    def folding(path: Any, *args: Any, **options: Any) -> os.stat_result:
        try:
            return real(path, *args, **options)
        except FileNotFoundError:
            given = Path(path)
            for number in range(len(given.parts) - 1):
                parent = Path(*given.parts[: number + 1])
                names = os.listdir(parent) if parent.is_dir() else []  # noqa: PTH208
                part = given.parts[number + 1]
                same = [name for name in names if name.lower() == part.lower()]
                if part not in names and same:
                    rest = given.parts[number + 2 :]
                    return folding(parent.joinpath(same[0], *rest), *args, **options)
            raise

    monkeypatch.setattr(os, "stat", folding)
    assert (tmp_path / "store" / "DOCS").exists()
    for name in ("Docs", "DOCS"):
        with pytest.raises(CollectionExists, match=f"does not tell the name '{name}' from 'docs'"):
            store.create(manifest(name))
        with pytest.raises(CollectionExists):
            store.create(manifest(name), version=f"{name}@v2")
        for call in (store.open, store.manifest, store.delete, store.current):
            with pytest.raises(CollectionNotFound, match="it holds 'docs', 'other'"):
                call(name)
    assert store.names() == ["docs", "other"]
    store.open("docs").close()
    store.create(manifest("docs-2")).close()


def test_a_store_cannot_be_where_no_path_is(tmp_path: Path) -> None:
    for place in (f"{tmp_path}/a\0b", f"{tmp_path}/{'x' * 300}"):
        with pytest.raises(RetrievalError):
            Store(place).create(manifest())
