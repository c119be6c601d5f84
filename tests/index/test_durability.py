"""Kills and full disks: what was acknowledged is there, and nothing blocks the next run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from retrieval.errors import DiskFull
from retrieval.index.embedded.index import EmbeddedIndex, list_collections
from retrieval.index.embedded.points import MIN_FREE_BYTES
from retrieval.types import Manifest, Passage

Manifests = Callable[..., Manifest]
Passages = Callable[..., list[Passage]]
Vectors = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]

WRITER = """
    import sys, uuid
    from pathlib import Path
    import numpy as np
    from retrieval.index.embedded.index import EmbeddedIndex
    from retrieval.types import Passage
    index = EmbeddedIndex.open(Path(sys.argv[1]), "docs")
    rng = np.random.default_rng(0)
    print("ready", flush=True)
    for batch in range(10_000):
        ids = range(batch * 40, batch * 40 + 40)
        passages = [
            Passage(str(uuid.uuid5(uuid.NAMESPACE_URL, f"d{i}#0")), f"d{i}", 0, f"cat number {i}",
                    0, 5, document_hash="h", metadata={"batch": batch})
            for i in ids
        ]
        index.upsert(passages, rng.standard_normal((40, 8), dtype=np.float32))
        if batch >= 3:
            index.delete_documents([f"d{(batch - 3) * 40}"])
        print(batch, flush=True)
        if batch % 4 == 3:
            index.optimize()
"""


@pytest.mark.parametrize(("acknowledged", "pause"), [(0, 0), (1, 0.002), (4, 0.01), (13, 0.005)])
def test_what_was_acknowledged_survives_a_kill(
    tmp_path: Path,
    manifest: Manifests,
    passages: Passages,
    vectors: Vectors,
    acknowledged: int,
    pause: float,
) -> None:
    EmbeddedIndex.create(tmp_path, "docs", manifest()).close()
    done = -1
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as writer:  # fmt: skip
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        while done < acknowledged - 1:
            done = int(writer.stdout.readline())
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout:  # what it acknowledged before the kill arrived
            done = int(line)
    with EmbeddedIndex.open(tmp_path, "docs") as index:
        found = {p.document_id: p for p in index.passages()}
        deleted = {f"d{batch * 40}" for batch in range(done - 2)}
        # the batch that the kill cut off may have deleted already, though it was not acknowledged
        in_flight = {f"d{(done - 2) * 40}"}
        expected = {f"d{i}" for i in range((done + 1) * 40)} - deleted - in_flight
        assert expected <= found.keys()
        assert not deleted & found.keys()
        assert all(p.text == f"cat number {name[1:]}" for name, p in found.items())
        assert index.count() == len(found)
        # and it goes on as if nothing had been
        index.upsert(passages(50, 10**6), vectors(50))
        index.optimize()
        assert index.count() == len(found) + 50
        for mode in ("dense", "sparse", "hybrid"):
            hits = index.search(mode=mode, limit=20, vector=vectors(1)[0], text="cat")
            assert len(hits) == 20


KILLED_WHILE_CREATING = """
    import os, signal, sys
    from pathlib import Path
    import retrieval.index.embedded.index as embedded
    import retrieval.index.embedded.folder as store
    from retrieval.index.bm25 import bm25_info
    from retrieval.types import EncoderInfo, Manifest, SplitterInfo
    step = sys.argv[2]

    def die(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

    if step == "before the shard":
        embedded.create_shard = die
    elif step == "before the manifest":
        store.write_manifest = die
    elif step == "before the rename":
        Path.rename = die
    elif step == "after the rename":
        store.sync_folder = die
    encoder = EncoderInfo("bge-test", "sha256:1", 8, "cls", True, "q: ", "", 512)
    manifest = Manifest("docs", encoder, SplitterInfo(200, 20), bm25_info("en"))
    embedded.EmbeddedIndex.create(Path(sys.argv[1]), "docs", manifest)
"""


@pytest.mark.parametrize(
    "step", ["before the shard", "before the manifest", "before the rename", "after the rename"]
)
def test_a_killed_create_blocks_nothing(tmp_path: Path, manifest: Manifests, step: str) -> None:
    script = textwrap.dedent(KILLED_WHILE_CREATING)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), step], cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert list_collections(tmp_path) == (["docs"] if step == "after the rename" else [])
    with EmbeddedIndex.open_or_create(tmp_path, "docs", manifest()) as index:
        assert index.count() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["docs"]


# --- full disks -----------------------------------------------------------------------------


def test_nothing_is_written_where_space_is_short(
    tmp_path: Path, manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    free = 200_000_000

    def free_space(path: Path) -> int:
        assert path.exists()
        return free

    with EmbeddedIndex.create(tmp_path, "docs", manifest(), free_space=free_space) as index:
        index.upsert(passages(10), vectors(10))
        free = 64 * 1024 * 1024 + 1_000
        with pytest.raises(DiskFull, match=r"67\.1 MB are free") as caught:
            index.upsert(passages(10, 10), vectors(10))
        assert "another one" in str(caught.value)
        free = 1_000
        for call in (index.optimize, lambda: index.delete_documents(["d1"])):
            with pytest.raises(DiskFull):
                call()
        assert index.count() == 10
        assert len(index.search(mode="hybrid", limit=5, vector=vectors(1)[0], text="cat")) == 5
        free = 200_000_000
        index.upsert(passages(10, 10), vectors(10))
        assert index.count() == 20
    free = 1_000
    with pytest.raises(DiskFull, match="open the collection"):
        EmbeddedIndex.open(tmp_path, "docs", free_space=free_space)
    with pytest.raises(DiskFull, match="create the collection"):
        EmbeddedIndex.create(tmp_path, "more", manifest("more"), free_space=free_space)
    assert list_collections(tmp_path) == ["docs"]
    EmbeddedIndex.open(tmp_path, "docs").close()


def test_the_need_grows_with_the_batch(
    tmp_path: Path, manifest: Manifests, passages: Passages, vectors: Vectors
) -> None:
    with EmbeddedIndex.create(
        tmp_path, "docs", manifest(), free_space=lambda _: 100_000_000, min_free_bytes=50_000_000
    ) as index:
        index.upsert(passages(1, text="x" * 1_000_000), vectors(1))
        with pytest.raises(DiskFull):
            index.upsert(passages(20, text="x" * 1_000_000), vectors(20))
        assert index.count() == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Factory: `small_disk(megabytes)`, an empty disk of that size."""
    folder = tmp_path / "small"
    folder.mkdir()

    def make(megabytes: int) -> Path:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
        try:
            mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command here")
        if mounted.returncode != 0:
            pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
        return folder

    yield make
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


FILLER = """
    import sys, uuid
    from pathlib import Path
    import numpy as np
    from retrieval.errors import DiskFull
    from retrieval.index.embedded.index import EmbeddedIndex
    from retrieval.index.bm25 import bm25_info
    from retrieval.types import EncoderInfo, Manifest, Passage, SplitterInfo
    encoder = EncoderInfo("bge-test", "sha256:1", 384, "cls", True, "q: ", "", 512)
    manifest = Manifest("docs", encoder, SplitterInfo(200, 20), bm25_info("en"))
    index = EmbeddedIndex.create(sys.argv[1], "docs", manifest, min_free_bytes=int(sys.argv[2]))
    rng = np.random.default_rng(0)
    written = 0
    try:
        for batch in range(1_000):
            passages = [
                Passage(str(uuid.uuid5(uuid.NAMESPACE_URL, str(i))), f"d{i}", 0,
                        " ".join(f"word{n}" for n in rng.integers(0, 5_000, 100)), 0, 5,
                        document_hash="h")
                for i in range(written, written + 300)
            ]
            index.upsert(passages, rng.standard_normal((300, 384), dtype=np.float32))
            written += 300
    except DiskFull as full:
        print(full, file=sys.stderr)
    try:
        index.optimize()
    except DiskFull:
        pass
    assert index.count() >= written
    index.close()
    print(written)
"""


COUNT = """
    import sys
    from retrieval.errors import DiskFull
    from retrieval.index.embedded.index import EmbeddedIndex
    try:
        with EmbeddedIndex.open(sys.argv[1], "docs") as index:
            print(index.count(), len(index.document_states()), len(list(index.passages())))
    except DiskFull as full:
        print(full)
"""


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """In its own process, which a wrong answer here would end by SIGBUS."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_disk_that_fills_up_is_an_error_and_not_the_end(
    small_disk: Callable[[int], Path],
) -> None:
    disk = small_disk(100)
    done = run(FILLER, disk, MIN_FREE_BYTES)
    assert done.returncode == 0, (done.returncode, done.stderr)
    written = int(done.stdout)
    assert written >= 300
    assert "kept free for safety" in done.stderr
    assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize >= MIN_FREE_BYTES * 0.9
    again = run(COUNT, disk)
    assert again.stdout.split() == [str(written)] * 3, (again.returncode, again.stderr)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_opening_where_nothing_is_left_is_an_error_and_not_the_end(
    small_disk: Callable[[int], Path],
) -> None:
    """Edge fills the holes of its vector file while opening: 30 MB where 6 MB are free."""
    disk = small_disk(32)
    done = run(FILLER, disk, 6_000_000)
    assert done.returncode == 0, (done.returncode, done.stderr)
    refused = run(COUNT, disk)
    assert "open the collection may take" in refused.stdout, (refused.returncode, refused.stderr)
    grown = ["mount", "-o", "remount,size=96m", str(disk)]
    subprocess.run(grown, check=True)
    again = run(COUNT, disk)
    assert again.stdout.split() == [done.stdout.strip()] * 3, (again.returncode, again.stderr)
