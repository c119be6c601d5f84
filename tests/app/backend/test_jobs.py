"""Jobs of callers: what they read, who sees them, and other writers beside them."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from backend_help import ANYONE, DOCUMENTS, Made, Make, ids, run

from app.backend.backend import Backend
from app.errors import Conflict, Forbidden, NotHere
from app.types import Caller, JobSource
from retrieval import Document

Held = tuple[threading.Event, threading.Event]


async def ended(backend: Backend, caller: Caller, job_id: str) -> Any:
    async for job in backend.jobs.watch(caller, job_id):
        last = job
    return last


def test_a_job_writes_documents_and_a_folder(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.txt").write_text("Wasps sting.")
    (root / "b.md").write_text("# Moths\n\nMoths fly at night.")
    backend = make(ingest_roots=(root,)).backend

    async def job(source: JobSource, **options: Any) -> Any:
        started = await backend.jobs.start(ANYONE, source, **options)
        done = await ended(backend, ANYONE, started.id)
        assert (done.state, done.problem) == ("done", None)
        return done.report

    async def go() -> None:
        assert (await job(JobSource(documents=DOCUMENTS))).new == 3
        assert ids(await backend.search(ANYONE, ["bees dance"]))[0] == "bee"
        folder = JobSource(path=str(root))
        report = await job(folder, prune=True)
        assert (report.new, report.pruned) == (2, 0)
        (root / "a.txt").unlink()
        report = await job(folder, prune=True)
        assert (report.unchanged, report.pruned) == (1, 1)
        report = await job(folder, collection="fresh")
        assert (report.new, report.read) == (1, 1)
        assert [one.name for one in await backend.collections.list(ANYONE)] == ["docs", "fresh"]

    run(go())


def test_jobs_read_only_what_they_may_and_are_their_callers_own(make: Make, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
        (folder / "a.txt").write_text("text")
    (root / "link").symlink_to(outside)
    backend = make(ingest_roots=(root,)).backend
    for path in (outside, root / "link", root / ".." / "outside", "/etc", "a\0b", f"{root}2"):
        with pytest.raises(Forbidden, match="under none of the folders"):
            run(backend.jobs.start(ANYONE, JobSource(path=str(path))))
    with pytest.raises(Forbidden):
        run(backend.jobs.start(Caller("r", write=False), JobSource(documents=DOCUMENTS)))
    one, other = Caller("one", collections=("docs",)), Caller("other", collections=("docs",))
    job = run(backend.jobs.start(one, JobSource(documents=DOCUMENTS)))
    assert [known.id for known in backend.jobs.list(one)] == [job.id]
    assert backend.jobs.list(other) == []
    assert [known.id for known in backend.jobs.list(ANYONE)] == [job.id]
    for call in (backend.jobs.get, backend.jobs.watch):
        with pytest.raises(NotHere, match="no job"):
            call(other, job.id)
    with pytest.raises(NotHere):
        run(backend.jobs.cancel(other, job.id))
    assert run(ended(backend, one, job.id)).state == "done"


def test_a_job_follows_no_link_out_of_its_roots(make: Make, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.txt").write_text("Wasps sting.")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "s.txt").write_text("the secret of this machine")
    (root / "file.txt").symlink_to(outside / "s.txt")
    (root / "folder").symlink_to(outside)
    (root / "passwd.txt").symlink_to("/etc/passwd")
    os.mkfifo(root / "pipe.txt")
    backend = make(ingest_roots=(root,)).backend

    async def go() -> None:
        for collection in ("fresh", "fresh"):  # made by its first documents, then written to
            job = await backend.jobs.start(ANYONE, JobSource(path=str(root)), collection=collection)
            done = await ended(backend, ANYONE, job.id)
            assert done.state == "done"
            assert done.report.read == 1
            named = {Path(one.source).name: one.reason for one in done.report.failed}
            assert set(named) == {"file.txt", "folder", "passwd.txt", "pipe.txt"}
            assert "leads out of the folders" in named["passwd.txt"]
        found = await backend.search(ANYONE, ["secret root"], collection="fresh")
        assert ids(found) == ["a.txt"]

    run(go())


@pytest.fixture
def held(filled: Made) -> Iterator[Held]:
    """Two events: the encoder of `filled` has begun, and may go on."""
    begun, go_on = threading.Event(), threading.Event()
    encode = filled.encoder.encode_passages

    def wait(passages: Sequence[str], **options: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return encode(passages, **options)

    filled.encoder.encode_passages = wait  # type: ignore[method-assign]
    yield begun, go_on
    go_on.set()


def test_a_job_that_a_stop_cut_off_goes_on(make: Make, filled: Made, held: Held) -> None:
    begun, go_on = held
    many = [Document(f"d{n}", f"A text, number {n}.") for n in range(300)]
    job = run(filled.backend.jobs.start(ANYONE, JobSource(documents=many)))
    assert begun.wait(20)
    closing = threading.Thread(target=filled.backend.close)
    closing.start()
    while not filled.backend.jobs.all._closing:
        time.sleep(0.01)
    go_on.set()
    closing.join(20)
    assert not closing.is_alive()
    after = make().backend
    assert run(after.ready()).ready  # which opens it, and takes the job up again
    done = run(ended(after, ANYONE, job.id))
    assert (done.state, done.report.read) == ("done", 300)
    assert run(after.collections.get(ANYONE, None)).passages == 303


def test_writers_take_turns_and_a_cancelled_job_ends(
    filled: Made, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.backend.writes.PATIENCE_SECONDS", 0.2)
    backend = filled.backend
    begun, go_on = held

    async def go() -> None:
        many = [Document(f"d{n}", f"A text, number {n}.") for n in range(1200)]
        job = await backend.jobs.start(ANYONE, JobSource(documents=many))
        assert await asyncio.to_thread(begun.wait, 20)
        found = await backend.search(ANYONE, ["bees dance"], mode="sparse")
        assert ids(found)[0] == "bee"  # meanwhile
        with pytest.raises(Conflict, match=f"is being written to .the job {job.id} runs"):
            await backend.documents.delete(ANYONE, ["bee"])
        await backend.jobs.cancel(ANYONE, job.id)
        go_on.set()
        assert (await ended(backend, ANYONE, job.id)).state == "cancelled"
        assert await backend.documents.delete(ANYONE, ["bee"]) == ("bee",)

    run(go())
