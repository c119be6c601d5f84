"""The embedded index as a store: creating, reopening, one owner, threads, forks, panics."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidBatch,
    InvalidInput,
    ManifestCorrupt,
    ManifestMismatch,
    StoreDenied,
    StoreFault,
    StoreLocked,
)
from retrieval.index.embedded import points as edge_points
from retrieval.index.embedded import shard as edge_shard
from retrieval.index.embedded.index import (
    EmbeddedIndex,
    delete_collection,
    list_collections,
    read_manifest,
)
from retrieval.index.point_store import PointData, SparseTerms
from retrieval.types import Layout, LexicalWeights, Manifest, Passage, Storage

Manifests = Callable[..., Manifest]
Passages = Callable[..., list[Passage]]
Vectors = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]


def python(script: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip


# --- creating, opening, deleting ------------------------------------------------------------


def test_everything_is_there_after_reopening(
    tmp_path: Path, manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    given = passages(600, metadata={"n": [1, 2.0, True, None], "中": "文"}, headings=("h",))
    with EmbeddedIndex.create(tmp_path / "new" / "store", "docs", manifest()) as index:
        index.upsert(given, vectors(600))
        index.delete_documents(["d1"])
        before = index.search(mode="hybrid", limit=20, vector=vectors(1)[0], text="cat")
        created = index.manifest
    with EmbeddedIndex.open(tmp_path / "new" / "store", "docs", expect=manifest()) as index:
        assert index.manifest == created
        assert list(index.passages()) == sorted(given[:1] + given[2:], key=lambda p: p.id)
        after = index.search(mode="hybrid", limit=20, vector=vectors(1)[0], text="cat")
        assert [c.passage for c in after] == [c.passage for c in before]
        assert index.count({"n": True}) == 599
        index.upsert(given[1:2], vectors(1))
        assert index.count() == 600


def test_what_is_written_is_kept_without_closing(
    tmp_path: Path, manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    index = EmbeddedIndex.create(tmp_path, "docs", manifest())
    index.upsert(passages(10), vectors(10))
    del index
    gc.collect()
    with EmbeddedIndex.open(tmp_path, "docs") as again:
        assert again.count() == 10


def test_open_or_create(tmp_path: Path, manifest: Manifests) -> None:
    for _ in range(2):
        with EmbeddedIndex.open_or_create(tmp_path, "docs", manifest()) as index:
            assert index.count() == 0
    with pytest.raises(CollectionExists, match="'docs'"):
        EmbeddedIndex.create(tmp_path, "docs", manifest())
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "file").write_text("mine")
    with pytest.raises(CollectionExists):
        EmbeddedIndex.create(tmp_path, "foreign", manifest("foreign"))
    assert (tmp_path / "foreign" / "file").read_text() == "mine"


def test_a_mismatch_names_every_field_and_changes_nothing(
    tmp_path: Path, manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    with EmbeddedIndex.create(tmp_path, "docs", manifest()) as index:
        index.upsert(passages(3), vectors(3))
    stored = (tmp_path / "docs" / "manifest.json").read_bytes()
    other = manifest()
    other = dataclasses.replace(
        other,
        encoder=dataclasses.replace(
            other.encoder, model="e5", fingerprint="sha256:2", dimension=16
        ),
        splitter=dataclasses.replace(other.splitter, max_tokens=None),
        created="1999-01-01",
    )
    with pytest.raises(ManifestMismatch) as caught:
        EmbeddedIndex.open_or_create(tmp_path, "docs", other)
    message = str(caught.value)
    for part in (
        "encoder.model is 'bge-test', asked for 'e5'",
        "encoder.dimension is 8, asked for 16",
        "splitter.max_tokens is 200, asked for None",
        "Nothing was changed",
        "new collection",
    ):
        assert part in message
    assert "created" not in message
    assert (tmp_path / "docs" / "manifest.json").read_bytes() == stored
    with EmbeddedIndex.open(tmp_path, "docs") as index:
        assert index.count() == 3


def test_the_same_weights_by_another_name_are_no_mismatch(
    tmp_path: Path, manifest: Manifests
) -> None:
    EmbeddedIndex.create(tmp_path, "docs", manifest()).close()
    other = manifest()
    other = dataclasses.replace(
        other, encoder=dataclasses.replace(other.encoder, model="/models/x")
    )
    with EmbeddedIndex.open(tmp_path, "docs", expect=other) as index:
        assert index.manifest.encoder.model == "bge-test"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "-x", "x" * 65, "ü", "a b", "a\n"]
)
def test_names_stay_within_the_store(tmp_path: Path, manifest: Manifests, name: str) -> None:
    store = tmp_path / "store"
    calls: list[Callable[[], object]] = [
        lambda: EmbeddedIndex.create(store, name, manifest(name)),
        lambda: EmbeddedIndex.open(store, name),
        lambda: read_manifest(store, name),
        lambda: delete_collection(store, name),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match="collection name"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_must_name_the_collection(tmp_path: Path, manifest: Manifests) -> None:
    with pytest.raises(InvalidInput, match="'other'"):
        EmbeddedIndex.create(tmp_path, "docs", manifest("other"))
    EmbeddedIndex.create(tmp_path, "docs", manifest()).close()
    (tmp_path / "docs").rename(tmp_path / "renamed")
    with pytest.raises(ManifestCorrupt, match="Rename the folder back to 'docs'"):
        EmbeddedIndex.open(tmp_path, "renamed")


def test_collections_are_listed_and_deleted(tmp_path: Path, manifest: Manifests) -> None:
    assert list_collections(tmp_path / "none") == []
    for name in ("b", "a"):
        EmbeddedIndex.create(tmp_path, name, manifest(name)).close()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("mine")
    assert list_collections(tmp_path) == ["a", "b"]
    with pytest.raises(CollectionNotFound, match="'a', 'b'"):
        EmbeddedIndex.open(tmp_path, "c")
    with pytest.raises(CollectionNotFound, match="no such folder"):
        EmbeddedIndex.open(tmp_path / "none", "c")
    with pytest.raises(CollectionNotFound):
        delete_collection(tmp_path, "notes")
    assert (tmp_path / "notes" / "todo.txt").exists()
    with EmbeddedIndex.open(tmp_path, "a"), pytest.raises(StoreLocked):
        delete_collection(tmp_path, "a")
    delete_collection(tmp_path, "a")
    left = sorted(p.name for p in tmp_path.iterdir() if p.name != ".aliases.lock")
    assert left == ["b", "notes"]


def test_the_manifest_can_be_read_while_the_collection_is_open(
    tmp_path: Path, manifest: Manifests
) -> None:
    with EmbeddedIndex.create(tmp_path, "docs", manifest()) as index:
        assert read_manifest(tmp_path, "docs") == index.manifest


def test_a_store_that_is_a_file(tmp_path: Path, manifest: Manifests) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for call in (
        lambda: EmbeddedIndex.create(file, "docs", manifest()),
        lambda: EmbeddedIndex.open(file, "docs"),
        lambda: list_collections(file),
    ):
        with pytest.raises(InvalidInput, match="is a file, expected a folder"):
            call()


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_no_permission(tmp_path: Path, manifest: Manifests) -> None:
    EmbeddedIndex.create(tmp_path / "store", "docs", manifest()).close()
    (tmp_path / "store").chmod(0o500)
    root = os.geteuid() == 0  # whom permissions do not bind
    if root:
        os.seteuid(65534)
    try:
        for call in (
            lambda: EmbeddedIndex.create(tmp_path / "store", "new", manifest("new")),
            lambda: EmbeddedIndex.open(tmp_path / "store", "docs") if root else os.open("/", 1),
            lambda: EmbeddedIndex.create(tmp_path / "store" / "deeper", "docs", manifest()),
        ):
            with pytest.raises((StoreDenied, IsADirectoryError)) as caught:
                call()
            assert isinstance(caught.value, IsADirectoryError) or "no permission" in str(
                caught.value
            )
    finally:
        if root:
            os.seteuid(0)
        (tmp_path / "store").chmod(0o700)


# --- damage ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "empty"),
        ("{", "not JSON"),
        ("[]", "a list, not an object"),
        (b"\xff\xfe", "not UTF-8"),
        ({"encoder": None}, "'encoder' holds nothing"),
        ({"bm25": {"language": "english"}}, "missing: bm25.tokenizer, bm25.avg_len"),
        ({"extra": 1}, "unknown: extra"),
        ({"collection": 5}, "collection is 5, expected str"),
        ({"format_version": "1"}, "format_version is '1'"),
        ({"format_version": True}, "format_version is True"),
    ],
)
def test_a_corrupt_manifest_is_named(
    tmp_path: Path, manifest: Manifests, content: Any, problem: str
) -> None:
    EmbeddedIndex.create(tmp_path, "docs", manifest()).close()
    file = tmp_path / "docs" / "manifest.json"
    if isinstance(content, dict):
        content = json.dumps({**json.loads(file.read_text()), **content})
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ManifestCorrupt, match=problem) as caught:
        EmbeddedIndex.open(tmp_path, "docs")
    assert str(file) in str(caught.value)
    with pytest.raises(ManifestCorrupt):
        EmbeddedIndex.open_or_create(tmp_path, "docs", manifest())
    assert list_collections(tmp_path) == ["docs"]
    delete_collection(tmp_path, "docs")
    assert list_collections(tmp_path) == []


def test_a_missing_manifest_is_no_new_collection(tmp_path: Path, manifest: Manifests) -> None:
    EmbeddedIndex.create(tmp_path, "docs", manifest()).close()
    (tmp_path / "docs" / "manifest.json").unlink()
    with pytest.raises(ManifestCorrupt, match="the file is missing"):
        EmbeddedIndex.open(tmp_path, "docs")
    with pytest.raises((ManifestCorrupt, CollectionExists)):
        EmbeddedIndex.open_or_create(tmp_path, "docs", manifest())


def test_a_newer_format_is_refused(tmp_path: Path, manifest: Manifests) -> None:
    EmbeddedIndex.create(tmp_path, "docs", manifest()).close()
    file = tmp_path / "docs" / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 99}))
    with pytest.raises(ManifestMismatch, match="format version 99"):
        EmbeddedIndex.open(tmp_path, "docs")


def _remove_segments(shard: Path) -> None:
    import shutil

    shutil.rmtree(shard / "segments")
    shutil.rmtree(shard / "wal")


def _cut(pattern: str) -> Callable[[Path], None]:
    def cut(shard: Path) -> None:
        for file in shard.glob(pattern):
            os.truncate(file, 0)

    return cut


@pytest.mark.parametrize(
    "damage",
    [
        _remove_segments,
        _cut("edge_config.json"),
        _cut("segments/*/segment.json"),
        _cut("segments/*/payload_storage/tracker.dat"),
        _cut("wal/open-*"),
    ],
    ids=["no segments", "config", "segment", "payloads", "log"],
)
def test_damaged_files_are_a_fault_and_never_an_empty_collection(
    tmp_path: Path,
    manifest: Manifests,
    passages: Passages,
    vectors: Vectors,
    damage: Callable[[Path], None],
) -> None:
    with EmbeddedIndex.create(tmp_path, "docs", manifest()) as index:
        index.upsert(passages(50), vectors(50))
    damage(tmp_path / "docs" / "shard")
    for _ in range(2):  # a failed opening leaves no lock behind
        with pytest.raises(StoreFault, match="backup"):
            EmbeddedIndex.open(tmp_path, "docs")


def test_a_panic_is_translated_and_the_shard_not_used_again(
    tmp_path: Path, manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    index = EmbeddedIndex.create(tmp_path, "docs", manifest())
    index.upsert(passages(5), vectors(5))
    uneven: Any = SimpleNamespace(indices=(1, 2), values=(1.0,))  # past the check of SparseTerms
    point = PointData(passages(1, 77)[0].id, vectors(1)[0], uneven, {}, 100)
    with pytest.raises(StoreFault, match="panicked on write"):
        index._points.write([point])
    for call in (index.count, lambda: index.upsert(passages(1), vectors(1)), index.optimize):
        with pytest.raises(StoreFault, match="Close it and open it again"):
            call()
    index.close()


def test_uneven_terms_never_reach_the_engine() -> None:
    for indices, values in (((1, 2), (1.0,)), ((1, 1), (1.0, 2.0)), ((1,), (float("nan"),))):
        with pytest.raises(InvalidBatch):
            SparseTerms(indices, values)
    with pytest.raises(InvalidBatch, match="32 bits"):
        SparseTerms((2**32,), (1.0,))


def test_a_closed_index_says_so(tmp_path: Path, manifest: Manifests) -> None:
    index = EmbeddedIndex.create(tmp_path, "docs", manifest())
    index.close()
    index.close()
    with pytest.raises(StoreFault, match="is closed"):
        index.count()


# --- one owner, threads, forks --------------------------------------------------------------

HOLD = """
    import sys
    from pathlib import Path
    from retrieval.index.embedded.index import EmbeddedIndex
    index = EmbeddedIndex.open(Path(sys.argv[1]), "docs")
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_second_opener_is_told_who_has_it(tmp_path: Path, manifest: Manifests) -> None:
    with (
        EmbeddedIndex.create(tmp_path, "docs", manifest()),
        pytest.raises(StoreLocked, match="already open in this process"),
    ):
        EmbeddedIndex.open(tmp_path, "docs")
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreLocked, match=f"open in process {holder.pid} since"):
            EmbeddedIndex.open(tmp_path, "docs")
        assert read_manifest(tmp_path, "docs").collection == "docs"
        holder.kill()
    EmbeddedIndex.open(tmp_path, "docs").close()


def test_the_engines_own_lock_is_in_plain_words_too(tmp_path: Path, manifest: Manifests) -> None:
    index = EmbeddedIndex.create(tmp_path, "docs", manifest())
    (tmp_path / "docs" / "lock").unlink()  # our lock gone, Edge's still held
    with pytest.raises(StoreLocked, match="another process"):
        EmbeddedIndex.open(tmp_path, "docs")
    index.close()
    EmbeddedIndex.open(tmp_path, "docs").close()


def test_many_threads_at_once(
    tmp_path: Path, manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    faults: list[BaseException] = []
    with EmbeddedIndex.create(tmp_path, "docs", manifest()) as index:

        def work(number: int) -> None:
            try:
                for round_ in range(5):
                    index.upsert(passages(20, 100 * number + 20 * round_), vectors(20))
                    found = index.search(mode="hybrid", limit=10, vector=vectors(1)[0], text="cat")
                    assert len(found) == 10
                    index.document_states()
            except BaseException as error:  # noqa: BLE001
                faults.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert faults == []
        assert index.count() == 600


def test_closing_waits_for_the_call_of_another_thread(tmp_path: Path, manifest: Manifests) -> None:
    index = EmbeddedIndex.create(tmp_path, "docs", manifest())
    points = index._points
    assert isinstance(points, edge_points.EdgePoints)
    with points._use("search"):
        closing = threading.Thread(target=index.close)
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
        assert index.count() == 0  # the thread that is in may go on
    closing.join(10)
    assert not closing.is_alive()
    with pytest.raises(StoreFault, match="is closed"):
        index.count()


def test_a_forked_child_is_refused_and_harms_nothing(tmp_path: Path, manifest: Manifests) -> None:
    script = """
        import gc, os, sys
        sys.path.insert(0, sys.argv[2])
        from pathlib import Path
        from retrieval.errors import StoreFault
        from retrieval.index.embedded.index import EmbeddedIndex
        index = EmbeddedIndex.open(Path(sys.argv[1]), "docs")
        index._points._guard.acquire()   # as another thread might at the fork
        child = os.fork()
        if child == 0:
            try:
                index.count()
            except StoreFault as fault:
                assert "forked" in str(fault) and "spawn" in str(fault), fault
                index.close()
                del index
                gc.collect()
                sys.exit(7)
            sys.exit(1)
        index._points._guard.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert index.count() == 0
        index.close()
        EmbeddedIndex.open(Path(sys.argv[1]), "docs").close()
        print("fine")
    """
    EmbeddedIndex.create(tmp_path, "docs", manifest()).close()
    done = python(script, tmp_path, ROOT)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# --- the approximate index ------------------------------------------------------------------


def test_hnsw_finds_what_a_scan_finds(
    tmp_path: Path,
    manifest: Manifests,
    passages: Passages,
    vectors: Vectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edge_shard, "EXACT_KB", 64)
    monkeypatch.setattr(edge_shard, "_FULL_SCAN_KB", 16)
    rows = vectors(4_000, 32)
    given = passages(4_000, metadata={"even": True})
    given = [dataclasses.replace(p, metadata={"even": i % 2 == 0}) for i, p in enumerate(given)]
    with EmbeddedIndex.create(tmp_path, "docs", manifest(dimension=32)) as index:
        index.upsert(given, rows)
        states = index.document_states()
        index.optimize()
        points = index._points
        assert isinstance(points, edge_points.EdgePoints)
        assert points._shard is not None
        assert points._shard.info().indexed_vectors_count >= 4_000
        assert index.document_states() == states
        queries = vectors(30, 32, seed=5)
        for where, chosen in ((None, np.arange(4_000)), ({"even": True}, np.arange(0, 4_000, 2))):
            hits = 0
            for query in queries:
                order = chosen[np.argsort(-(rows[chosen] @ query))[:10]]
                found = index.search(mode="dense", limit=10, vector=query, where=where)
                hits += len({c.passage.id for c in found} & {given[i].id for i in order})
            assert hits / 300 >= 0.97


def test_searching_and_reading_do_not_import_the_client(
    tmp_path: Path, manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    with EmbeddedIndex.create(tmp_path, "docs", manifest()) as index:
        index.upsert(passages(5), vectors(5))
    script = """
        import sys
        import numpy as np
        from retrieval.index.embedded.index import EmbeddedIndex
        with EmbeddedIndex.open(sys.argv[1], "docs") as index:
            vector = np.ones(8, dtype=np.float32)
            assert len(index.search(mode="hybrid", limit=3, vector=vector, text="cat")) == 3
            assert len(index.vectors([c.id for c in index.passages()])) == index.count() == 5
            assert len(index.document_states()) == 5
        print([name for name in ("qdrant_client", "torch", "pydantic") if name in sys.modules])
    """
    done = python(script, tmp_path)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


@pytest.mark.parametrize("quantization", ["none", "int8", "binary"])
def test_every_way_of_storing_reopens_and_finds(
    tmp_path: Path,
    manifest: Manifests,
    passages: Passages,
    vectors: Vectors,
    monkeypatch: pytest.MonkeyPatch,
    quantization: Any,
) -> None:
    monkeypatch.setattr(edge_shard, "EXACT_KB", 64)
    monkeypatch.setattr(edge_shard, "_FULL_SCAN_KB", 16)
    storage = Storage(
        quantization=quantization, oversampling=4.0, hnsw_m=8, hnsw_ef_construct=64, search_ef=200,
        on_disk=quantization == "int8", fields={"even": "keyword", "n": "number"},
    )  # fmt: skip
    made = manifest(dimension=32, layout=Layout(lexical=True, token_dimension=4), storage=storage)
    rows, tokens = vectors(1_500, 32), [vectors(3, 4, seed=i) for i in range(1_500)]
    terms = [
        LexicalWeights(np.array([i % 50], np.int32), np.array([1 + i / 2_000], np.float32))
        for i in range(1_500)
    ]
    given = [
        dataclasses.replace(p, metadata={"even": i % 2 == 0, "n": i})
        for i, p in enumerate(passages(1_500))
    ]
    with EmbeddedIndex.create(tmp_path, "docs", made) as index:
        index.upsert(given, rows, lexical=terms, token_vectors=tokens)
        assert index.status().indexed == 0
        index.optimize()
    with EmbeddedIndex.open(tmp_path, "docs", expect=made) as index:
        status = index.status()
        assert (status.points, status.indexed, status.state) == (1_500, 1_500, "ok")
        assert {"document_id", "metadata.n", "metadata_flags.even"} <= set(status.fields)
        assert status.disk_bytes is not None
        assert status.disk_bytes > rows.nbytes
        assert status.free_bytes is not None
        assert status.notes == ()
        hits = 0
        for query in vectors(20, 32, seed=9):
            order = np.argsort(-(rows @ query))[:10]
            found = index.search(mode="dense", limit=10, vector=query)
            hits += len({c.passage.id for c in found} & {given[i].id for i in order})
            assert [c.score for c in found] == pytest.approx(
                sorted((float(rows[int(c.passage.document_id[1:])] @ query) for c in found),
                       reverse=True), abs=2e-6)  # fmt: skip
        # one bit for each of 32 dimensions says little; binary is for vectors of many hundreds
        assert hits / 200 >= (0.4 if quantization == "binary" else 0.95)
        even = index.search(mode="dense", limit=20, vector=rows[1], where={"even": True})
        assert all(c.passage.metadata["even"] for c in even)
        assert index.count({"n": {"gte": 1_000}, "even": False}) == 250
        weights = LexicalWeights(np.array([7], np.int32), np.array([1.0], np.float32))
        (best,) = index.search(mode="lexical", limit=1, lexical=weights)
        assert best.passage.document_id == "d1457"


def test_a_tenants_own_graph_is_searched(
    tmp_path: Path,
    manifest: Manifests,
    passages: Passages,
    vectors: Vectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """There is no graph over all: within a tenant's, recall is what it is without tenants."""
    monkeypatch.setattr(edge_shard, "EXACT_KB", 64)
    monkeypatch.setattr(edge_shard, "_FULL_SCAN_KB", 16)
    made = manifest(dimension=32, layout=Layout(tenants=True))
    with EmbeddedIndex.create(tmp_path, "docs", made) as index:
        rows = {owner: vectors(1_500, 32, seed) for seed, owner in enumerate("ab")}
        for owner in "ab":
            index.upsert(passages(1_500), rows[owner], tenant=owner)
        index.optimize()
        assert index.status().indexed == 3_000
        for owner in "ab":
            hits = 0
            for query in vectors(20, 32, seed=5):
                order = np.argsort(-(rows[owner] @ query))[:10]
                found = index.search(mode="dense", limit=10, vector=query, tenant=owner)
                hits += len({c.passage.document_id for c in found} & {f"d{i}" for i in order})
            assert hits / 200 >= 0.95


@pytest.mark.parametrize("name", ["shards", "replicas", "write_consistency"])
def test_what_only_a_server_has_is_refused(tmp_path: Path, manifest: Manifests, name: str) -> None:
    made = manifest(storage=Storage(**{name: 2}))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=f"{name}=2 was given") as caught:
        EmbeddedIndex.create(tmp_path, "docs", made)
    assert "Qdrant server" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_a_version_has_its_own_folder(
    tmp_path: Path, manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    with (
        EmbeddedIndex.create(tmp_path, "docs", manifest()) as first,
        EmbeddedIndex.create(tmp_path, "docs@v2", manifest()) as second,
    ):
        second.upsert(passages(3), vectors(3))
        assert (first.collection, first.count()) == ("docs", 0)
        assert first.physical != "docs@v2"
        assert (second.collection, second.physical, second.count()) == ("docs", "docs@v2", 3)
    with EmbeddedIndex.open(tmp_path, "docs@v2") as second:
        assert (second.collection, second.physical, second.count()) == ("docs", "docs@v2", 3)
    with EmbeddedIndex.open(tmp_path, "docs") as first:
        assert first.physical != "docs@v2"
        assert first.count() == 0


def test_status_of_a_shard_that_a_panic_broke(
    tmp_path: Path, manifest: Manifests, vectors: Vectors
) -> None:
    with EmbeddedIndex.create(tmp_path, "docs", manifest()) as index:
        uneven: Any = SimpleNamespace(indices=(1, 2), values=(1.0,))
        with pytest.raises(StoreFault, match="panicked"):
            index._points.write([PointData(str(uuid.UUID(int=1)), vectors(1)[0], uneven, {}, 100)])
        status = index.status()
        assert status.state == "failed"
        assert "open again" in status.notes[0]
