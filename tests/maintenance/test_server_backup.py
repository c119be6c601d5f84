"""Backups of a server: whole or refused, verified before they are believed, nothing left behind."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from doubles import snapshots
from doubles.cluster import qdrant_cluster
from doubles.qdrant_http import QdrantHttp, qdrant_http
from maintenance_help import fill, make_manifest

from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    CorpusError,
    DiskFull,
    InvalidInput,
    StoreFault,
)
from retrieval.index.server import snapshots as moving
from retrieval.index.store import Store
from retrieval.maintenance.backup import backup_collection, restore_collection


@pytest.fixture
def server() -> Iterator[QdrantHttp]:
    with qdrant_http() as found:
        yield found


def filled(server: QdrantHttp, name: str = "docs", count: int = 50) -> Store:
    place = Store(server.url)
    with place.create(make_manifest(name)) as index:
        fill(index, count)
    return place


def backed_up(server: QdrantHttp, path: Path) -> Path:
    """A backup of a collection of 50 passages, which is deleted then."""
    place = filled(server)
    backup_collection("docs", path, store=place)
    place.delete("docs")
    return path


def bare(path: Path, to: Path) -> Path:
    """What older versions wrote: the snapshot alone."""
    with tarfile.open(path) as archive:
        found = archive.extractfile("snapshot")
        assert found is not None
        to.write_bytes(found.read())
    return to


def damaged_log(path: Path) -> Path:
    """The same file with a broken write-ahead log in it."""
    data = path.read_bytes()
    assert data.count(snapshots.WAL) == 1
    path.write_bytes(data.replace(snapshots.WAL, bytes(len(snapshots.WAL))))
    return path


def left(server: QdrantHttp) -> dict[str, list[str]]:
    """All that a server has: collections, aliases, and files of snapshots by their place."""
    engine = server.backend.engine
    files = {f"{name}/": sorted(found) for name, found in server.backend.files.items() if found}
    return {**{name: [] for name in {*engine.collections, *engine.aliases}}, **files}


def state(store: Store, name: str = "docs") -> list[tuple[str, dict[str, object], list[float]]]:
    with store.open(name) as index:
        return [(p.id, p.payload, p.dense.tolist()) for p in index.points()]


def test_a_backup_says_what_must_come_back_and_nothing_is_left(
    server: QdrantHttp, tmp_path: Path
) -> None:
    place, path = filled(server), tmp_path / "docs.tar"
    before = state(place)
    done = backup_collection("docs", path, store=place)
    assert (done.points, done.bytes, done.notices) == (50, path.stat().st_size, ())
    assert set(left(server)) == {"docs", "docs@v1"}
    with tarfile.open(path) as archive:
        found = archive.extractfile("backup.json")
        assert found is not None
        contents = json.load(found)
    assert (contents["collection"], contents["points"]) == ("docs", [50, 50])
    assert contents["snapshot"].keys() == {"size", "sha256"}

    place.delete("docs")
    back = restore_collection(path, store=place)
    assert (back.collection, back.points, back.notices) == ("docs", 50, ())
    assert state(place) == before
    assert place.versions("docs") == ["docs@v1"]
    assert set(left(server)) == {"docs", "docs@v1"}  # the upload is gone, too
    uploads = server.calls("POST", "/snapshots/upload")
    assert len(uploads) == 1
    with place.open("docs") as index:  # and it can be written to
        fill(index, 4)


def test_a_cluster_is_refused_through_each_node_before_anything_is_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "docs.tar"
    with qdrant_cluster(nodes=3) as cluster:
        with Store(cluster.urls[0]).create(make_manifest()) as index:
            fill(index, 60)
        for url in cluster.urls:
            with pytest.raises(InvalidInput, match="cluster of 3 nodes") as caught:
                backup_collection("docs", path, store=url)
            assert "retrieval export docs" in caught.value.fix
        assert list(tmp_path.iterdir()) == []
        with qdrant_http() as single:
            backed_up(single, path)
        Store(cluster.urls[0]).delete("docs")
        with pytest.raises(InvalidInput, match="a cluster of 3 nodes") as caught:
            restore_collection(path, store=cluster.urls[1])
        assert "retrieval copy docs" in caught.value.fix
        assert Store(cluster.urls[0]).names() == []


def test_a_collection_that_changes_meanwhile_says_so(
    server: QdrantHttp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, path, fetch = filled(server), tmp_path / "docs.tar", moving._fetch

    def writes(*given: object) -> None:
        fetch(*given)  # type: ignore[arg-type]
        with place.open("docs") as index:
            fill(index, 56)

    monkeypatch.setattr(moving, "_fetch", writes)
    done = backup_collection("docs", path, store=place)
    assert done.points == 56
    assert "from 50 to 56 passages" in done.notices[0]
    place.delete("docs")
    assert restore_collection(path, store=place).points == 50


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda data: data[: len(data) // 2],
    "random": lambda data: bytes((7 * n * n + n) % 251 for n in range(len(data))),
    "a changed byte": lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("kind", [".tar", ".snapshot"])
def test_a_bad_file_is_named_before_anything_is_sent(
    server: QdrantHttp, tmp_path: Path, harm: str, kind: str
) -> None:
    path = backed_up(server, tmp_path / "docs.tar")
    if kind == ".snapshot":
        if harm == "a changed byte":
            pytest.skip("nothing in a server's own snapshot tells")
        path = bare(path, tmp_path / "docs.snapshot")
    path.write_bytes(HARMS[harm](path.read_bytes()))
    server.requests.clear()
    with pytest.raises(CorpusError, match=f"docs{kind} is not a complete backup"):
        restore_collection(path, store=server.url)
    assert server.requests == []
    assert left(server) == {}


def test_a_snapshot_whose_log_is_broken_leaves_no_collection(
    server: QdrantHttp, tmp_path: Path
) -> None:
    good = backed_up(server, tmp_path / "docs.tar")
    bad = damaged_log(bare(good, tmp_path / "bad.snapshot"))
    with pytest.raises(CorpusError, match=r"bad\.snapshot: status 500: .*Can't init WAL") as caught:
        restore_collection(bad, store=server.url)
    assert "nothing is left" in caught.value.problem
    assert left(server) == {}
    assert restore_collection(good, store=server.url).points == 50
    assert Store(server.url).versions("docs") == ["docs@v1"]


def test_a_snapshot_that_the_server_cannot_read_leaves_no_file(
    server: QdrantHttp, tmp_path: Path
) -> None:
    """It lies in the folder of a collection that there is not."""
    path = bare(backed_up(server, tmp_path / "docs.tar"), tmp_path / "x.snapshot")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"0/points.json", b"0/other--.json"))
    with pytest.raises(CorpusError, match=r"x\.snapshot"):
        restore_collection(path, store=server.url)
    assert left(server) == {}


def test_a_bare_snapshot_of_an_older_version_is_restored_unverified(
    server: QdrantHttp, tmp_path: Path
) -> None:
    path = bare(backed_up(server, tmp_path / "docs.tar"), tmp_path / "docs.snapshot")
    done = restore_collection(path, store=server.url)
    assert (done.collection, done.points) == ("docs", 50)
    assert "could not be verified" in done.notices[0]
    assert set(left(server)) == {"docs", "docs@v1"}


def rewritten(path: Path, **changes: object) -> Path:
    """A backup that says something else of itself."""
    with tarfile.open(path) as archive:
        members = [(m, archive.extractfile(m)) for m in archive.getmembers()]
        held = [(m, b"" if file is None else file.read()) for m, file in members]
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for member, data in held:
            if member.name == "backup.json":
                data = json.dumps({**json.loads(data), **changes}).encode()
                member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_another_count_than_was_backed_up_is_refused(server: QdrantHttp, tmp_path: Path) -> None:
    path = rewritten(backed_up(server, tmp_path / "docs.tar"), points=[51, 51])
    with pytest.raises(CorpusError, match=r"docs\.tar gave 50 passages .* 51 were backed up"):
        restore_collection(path, store=server.url)
    assert left(server) == {}


@pytest.mark.parametrize(
    "changes", [{"points": None}, {"snapshot": {}}, {"manifest": None}, {"retrieval_backup": 3}]
)
def test_what_a_backup_says_of_itself_is_checked(
    server: QdrantHttp, tmp_path: Path, changes: dict[str, object]
) -> None:
    path = rewritten(backed_up(server, tmp_path / "docs.tar"), **changes)
    with pytest.raises(CorpusError, match=r"docs\.tar") as caught:
        restore_collection(path, store=server.url)
    assert "Nothing was changed" in caught.value.fix
    assert left(server) == {}


def test_names_are_known_and_checked_before_anything_is_sent(
    server: QdrantHttp, tmp_path: Path
) -> None:
    path = backed_up(server, tmp_path / "docs.tar")
    with pytest.raises(InvalidInput, match="of the collection 'docs', not of 'other'"):
        restore_collection(path, "other", store=server.url)
    with pytest.raises(InvalidInput, match=r"expected the ending \.tar"):
        backup_collection("docs", tmp_path / "docs.snapshot", store=server.url)
    place = filled(server, count=3)
    with pytest.raises(CollectionExists, match="'docs"):
        restore_collection(path, "docs", store=place)
    assert len(state(place)) == 3
    assert set(left(server)) == {"docs", "docs@v1"}


FAULTS: dict[str, tuple[dict[str, object], type[Exception]]] = {
    "cut before": ({"drop": "reset"}, StoreFault),
    "cut after": ({"drop": "close", "after": True}, StoreFault),
    "overloaded": ({"status": 503}, StoreFault),
    "disk full": (
        {"status": 500, "message": "File IO error: No space left on device (os error 28)"},
        DiskFull,
    ),
    "too large": ({"status": 413}, StoreFault),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_restore_that_fails_on_the_way_leaves_nothing(
    server: QdrantHttp, tmp_path: Path, fault: str
) -> None:
    path = backed_up(server, tmp_path / "docs.tar")
    rule, error = FAULTS[fault]
    server.fail(method="POST", path_contains="/snapshots/upload", **rule)  # type: ignore[arg-type]
    with pytest.raises(error):
        restore_collection(path, store=server.url)
    assert left(server) == {}
    assert restore_collection(path, store=server.url).points == 50


@pytest.mark.parametrize("at", ["_send", "_check_restored"])
def test_ctrl_c_leaves_nothing(
    server: QdrantHttp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    path = backed_up(server, tmp_path / "docs.tar")
    real = getattr(moving, at)

    def interrupted(*given: object) -> None:
        real(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(moving, at, interrupted)
    with pytest.raises(KeyboardInterrupt):
        restore_collection(path, store=server.url)
    assert left(server) == {}


class Killed(BaseException):
    """What no cleaning up follows."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let the next restore end after a step as a killed process does: with nothing swept."""

    def after(step: str) -> None:
        real = getattr(moving, step)

        def step_then_end(*given: object) -> None:
            real(*given)
            monkeypatch.undo()
            monkeypatch.setattr(moving.unfinished, "sweep", lambda *_, **__: None)
            raise Killed

        monkeypatch.setattr(moving, step, step_then_end)

    return after


@pytest.mark.parametrize("step", ["_send", "_check_restored"])
def test_what_a_killed_restore_leaves_is_no_collection_and_is_swept_by_the_next(
    server: QdrantHttp,
    tmp_path: Path,
    killed: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    path, place = backed_up(server, tmp_path / "docs.tar"), Store(server.url)
    killed(step)
    with pytest.raises(Killed):
        restore_collection(path, store=place)
    monkeypatch.undo()
    assert set(left(server)) == {"docs@v1", "docs@v1@restoring", "docs@v1/"}
    assert place.names() == []
    for look in (place.versions, place.manifest, place.open, place.delete):
        with pytest.raises(CollectionNotFound, match="there is no collection 'docs'"):
            look("docs")
    with pytest.raises(CollectionNotFound):
        place.open("docs@v1")
    assert restore_collection(path, store=place).points == 50
    assert place.names() == ["docs"]
    assert len(place.versions("docs")) == 1
    kept = set(left(server)) - {"docs"}
    assert kept == set(place.versions("docs"))


def test_a_collection_can_be_made_beside_what_a_killed_restore_left(
    server: QdrantHttp, tmp_path: Path, killed: Callable[[str], None], monkeypatch: object
) -> None:
    path, place = backed_up(server, tmp_path / "docs.tar"), Store(server.url)
    killed("_send")
    with pytest.raises(Killed):
        restore_collection(path, store=place)
    with place.create(make_manifest()) as index:
        assert index.physical == "docs@v2"
        assert index.status().points == 0
    with pytest.raises(CollectionExists):
        restore_collection(path, store=place)
    place.delete("docs")
    assert left(server) == {}


def test_of_two_restores_at_once_one_wins_and_others_are_left_alone(
    server: QdrantHttp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = backed_up(server, tmp_path / "docs.tar")
    place = filled(server, "notes")
    other = tmp_path / "notes.tar"
    backup_collection("notes", other, store=place)
    place.delete("notes")
    real = moving._send
    began: list[str] = []

    def meanwhile(*given: object) -> None:
        real(*given)  # type: ignore[arg-type]
        monkeypatch.setattr(moving, "_send", real)
        began.append(restore_collection(other, store=place).collection)
        began.append(restore_collection(path, store=place).collection)

    monkeypatch.setattr(moving, "_send", meanwhile)
    with pytest.raises(CollectionExists, match="another restore of 'docs'"):
        restore_collection(path, store=place)
    assert began == ["notes", "docs"]
    assert place.names() == ["docs", "notes"]
    assert len(state(place)) == 50
    assert set(left(server)) == {
        "docs",
        "notes",
        *place.versions("docs"),
        *place.versions("notes"),
    }


def until(found: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not found():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_after_a_kill_the_server_may_still_make_the_collection(
    server: QdrantHttp, tmp_path: Path
) -> None:
    path, place = backed_up(server, tmp_path / "docs.tar"), Store(server.url)
    upload = server.fail(method="POST", path_contains="/snapshots/upload", delay=0.3)
    program = (
        "from retrieval.maintenance.backup import restore_collection;"
        f"restore_collection({str(path)!r}, store={server.url!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        until(lambda: upload.hits)
    finally:
        process.kill()
        process.wait()
    until(lambda: "docs@v1" in server.backend.engine.collections)
    assert place.names() == []
    assert restore_collection(path, store=place).points == 50
    assert set(left(server)) == {"docs", *place.versions("docs")}
