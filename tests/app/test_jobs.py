"""Jobs: what was accepted is done, once, whatever ends the process in between."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import pytest

from app.errors import Conflict, NotHere, Overloaded, Stopping
from app.jobs.jobs import MOST_STARTS, MOST_WAITING, Jobs, RunJob
from app.jobs.sources import documents_of
from app.jobs.storage import DATABASE, JobSpec
from app.jobs.uploads import ParseLimits
from app.types import Job, JobSource
from retrieval import Document, IngestProgress, IngestReport
from retrieval.errors import CorpusError, DiskFull, InvalidInput, StoreDenied
from retrieval.types import Problem

ROOT = Path(__file__).resolve().parents[2]
Progress = Callable[[IngestProgress], None]
DOCUMENTS = [Document(f"d{i}", f"text {i} \udcff\0", metadata={"n": i}) for i in range(3)]


def report_of(spec: JobSpec, read: int) -> IngestReport:
    return IngestReport(
        collection=spec.collection,
        read=read,
        new=read,
        changed=0,
        unchanged=0,
        failed=(Problem("a.txt", "is empty", 3),),
        passages=read,
        tokens=10 * read,
        truncated_passages=0,
        seconds=0.5,
        notices=("one",),
        duplicate_examples=(("a", "b"),),
    )


def reading(spec: JobSpec, home: Path, progress: Progress, cancelled: Event) -> IngestReport:
    """A run that reads all documents of the job."""
    given = documents_of(home, ParseLimits(seconds=30, memory_mb=1024), cancelled)
    read = 0
    for _ in given.read():
        read += 1
        progress(IngestProgress(read, None, read, read, 0.1))
    return given.report(report_of(spec, read))


def held(started: Event) -> RunJob:
    """A run that goes on until it is stopped."""

    def run(spec: JobSpec, home: Path, progress: Progress, cancelled: Event) -> IngestReport:
        started.set()
        while True:
            progress(IngestProgress(1, None, 1, 1, 0.1))
            time.sleep(0.005)

    return run


@contextmanager
def running(folder: Path, run: RunJob, **options: int) -> Iterator[Jobs]:
    jobs = Jobs(folder, run, **options)
    jobs.open()
    try:
        yield jobs
    finally:
        jobs.close(10)


def started(jobs: Jobs, source: JobSource | None = None, **options: object) -> Job:
    source = source or JobSource(documents=DOCUMENTS)
    return jobs.start(source, key_id="k", collection="docs", **options)  # type: ignore[arg-type]


def ended(jobs: Jobs, job_id: str) -> Job:
    async def last() -> Job:
        return [job async for job in jobs.watch(job_id)][-1]

    return asyncio.run(asyncio.wait_for(last(), 60))


def test_a_job_reads_its_documents_as_they_were_sent(tmp_path: Path) -> None:
    seen: list[Document] = []

    def run(spec: JobSpec, home: Path, progress: Progress, cancelled: Event) -> IngestReport:
        assert (spec.tenant, spec.prune, spec.key_id) == ("acme", True, "k")
        seen.extend(documents_of(home, ParseLimits(), cancelled).read())
        return report_of(spec, len(seen))

    with running(tmp_path, run) as jobs:
        job = started(jobs, tenant="acme", prune=True)
        assert (job.state, job.collection, job.key_id) == ("waiting", "docs", "k")
        done = ended(jobs, job.id)
    assert seen == DOCUMENTS
    assert (done.state, done.documents, done.total_documents) == ("done", 3, 3)
    assert done.report == report_of(JobSpec("x", "k", "docs"), 3)
    assert done.finished is not None


def test_history_survives_and_sources_do_not_stay(tmp_path: Path) -> None:
    with running(tmp_path, reading) as jobs:
        done = ended(jobs, started(jobs).id)
        assert list((tmp_path / "jobs").iterdir()) == []
    with running(tmp_path, reading) as again:
        assert again.list() == [done]


def test_history_is_bounded_and_newest_first(tmp_path: Path) -> None:
    with running(tmp_path, reading, history=3) as jobs:
        ids = [started(jobs).id for _ in range(5)]
        ended(jobs, ids[-1])
        deadline = time.monotonic() + 10
        while len(jobs.list()) > 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [job.id for job in jobs.list()] == ids[:1:-1]
        with pytest.raises(NotHere, match="there is no job"):
            jobs.get(ids[0])


def test_files_are_parsed_and_their_problems_reported(tmp_path: Path) -> None:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    (uploads / "a").write_bytes(b"first text")
    (uploads / "b").write_bytes(b"%PDF-1.4 broken")
    files = [("../one.txt", uploads / "a"), ("two.pdf", uploads / "b")]
    with running(tmp_path, reading) as jobs:
        done = ended(jobs, started(jobs, JobSource(files=files)).id)
    assert done.report is not None
    assert done.report.read == 1
    assert done.report.failed[0].source == "two.pdf"
    assert list(uploads.iterdir()) == []  # the job took them over


def test_nothing_readable_fails_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with running(tmp_path, reading) as jobs:
        done = ended(jobs, started(jobs, JobSource(files=[("e.txt", tmp_path / "a")])).id)
    assert done.state == "failed"
    assert done.problem is not None
    assert "e.txt" in done.problem
    assert done.fix


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (CorpusError("the source is odd", fix="Mend it."), "the source is odd"),
        (RuntimeError("secret"), "the service has a fault (RuntimeError)"),
        (MemoryError(), "the service has a fault (MemoryError)"),
    ],
)
def test_a_failing_job_does_not_end_the_others(
    tmp_path: Path, error: Exception, problem: str
) -> None:
    def run(spec: JobSpec, home: Path, progress: Progress, cancelled: Event) -> IngestReport:
        if spec.collection == "docs":
            raise error
        return report_of(spec, 0)

    with running(tmp_path, run) as jobs:
        failed = ended(jobs, started(jobs).id)
        good = jobs.start(JobSource(documents=[]), key_id="k", collection="other")
        assert ended(jobs, good.id).state == "done"
    assert (failed.state, failed.problem) == ("failed", problem)
    assert failed.fix


def test_cancelling(tmp_path: Path) -> None:
    runs = Event()
    with running(tmp_path, held(runs)) as jobs:
        first, second = started(jobs), started(jobs)
        assert runs.wait(10)
        assert jobs.cancel(second.id).state == "cancelled"
        jobs.cancel(first.id)
        assert ended(jobs, first.id).state == "cancelled"
        with pytest.raises(Conflict, match="cancelled"):
            jobs.cancel(first.id)
    with running(tmp_path, reading) as again:
        assert {job.state for job in again.list()} == {"cancelled"}


def test_watching_shows_changes_and_ends(tmp_path: Path) -> None:
    go = Event()

    def run(spec: JobSpec, home: Path, progress: Progress, cancelled: Event) -> IngestReport:
        go.wait(10)
        progress(IngestProgress(7, None, 9, 1, 0.1))
        return report_of(spec, 7)

    async def watch(jobs: Jobs, job_id: str) -> list[str]:
        states: list[str] = []
        async for job in jobs.watch(job_id):
            states.append(job.state)
            if job.state == "running":
                go.set()
        return states

    with running(tmp_path, run) as jobs:
        states = asyncio.run(watch(jobs, started(jobs).id))
    assert states[-1] == "done"
    assert "running" in states
    with pytest.raises(NotHere):
        asyncio.run(watch(jobs, "../../etc"))


def test_too_many_waiting_are_refused(tmp_path: Path) -> None:
    runs = Event()
    with running(tmp_path, held(runs)) as jobs:
        started(jobs)
        assert runs.wait(10)
        for _ in range(MOST_WAITING):
            started(jobs, JobSource(path="/data"))
        with pytest.raises(Overloaded):
            started(jobs)


@pytest.mark.parametrize("source", [JobSource(), JobSource(documents=[], path="/x")])
def test_one_kind_of_source(tmp_path: Path, source: JobSource) -> None:
    with running(tmp_path, reading) as jobs:
        with pytest.raises(InvalidInput, match="only one of them"):
            started(jobs, source)
        assert jobs.list() == []


def test_a_stop_is_no_end(tmp_path: Path) -> None:
    runs = Event()
    for _ in range(MOST_STARTS + 1):  # orderly stops do not count
        with running(tmp_path, held(runs)) as jobs:
            job = jobs.list()[0] if jobs.list() else started(jobs)
            assert runs.wait(10)
            runs.clear()
        assert jobs.get(job.id).state == "waiting"
    with pytest.raises(Stopping):
        started(jobs)
    with running(tmp_path, reading) as last:
        assert ended(last, job.id).state == "done"


def test_what_was_not_accepted_is_swept_up(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "job-half").mkdir(parents=True)
    (tmp_path / "jobs" / "job-half" / "documents.jsonl").write_text("{")
    (tmp_path / "upload-left").mkdir()
    with running(tmp_path, reading) as jobs:
        assert jobs.list() == []
    assert list(tmp_path.glob("**/*half*")) == []
    assert not (tmp_path / "upload-left").exists()


def test_a_state_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    jobs = Jobs(tmp_path / "file" / "state", reading)
    with pytest.raises(StoreDenied, match="cannot be used"):
        started(jobs)
    assert jobs.list() == []
    jobs.close()


def test_a_full_disk_refuses_the_job_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with running(tmp_path, reading) as jobs:
        # a disk cannot be filled here: the system's last step of writing says that it is full
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match="full"):
            started(jobs)
        monkeypatch.undo()
        assert jobs.list() == []
        assert list((tmp_path / "jobs").iterdir()) == []
        assert ended(jobs, started(jobs).id).state == "done"


CHILD = """
import sys, time, threading
from pathlib import Path
import retrieval
from app.jobs.sources import documents_of
from app.jobs.jobs import Jobs
from app.types import JobSource
from app.jobs.uploads import ParseLimits
folder = Path(sys.argv[1])
def run(spec, home, progress, cancelled):
    def slowly(now):
        progress(now)
        if sys.argv[2] == "slow":
            print("written", now.documents, flush=True)
            time.sleep(0.5)
    given = documents_of(home, ParseLimits(), cancelled)
    return retrieval.ingest(given.read(), "docs", store=str(folder / "store"),
                            encoder="all-MiniLM-L6-v2", threads=1, progress=slowly)
jobs = Jobs(folder / "state", run)
jobs.open()
if sys.argv[2] == "slow":
    documents = [retrieval.Document(f"d{i}", f"This is sentence number {i}. " * 60)
                 for i in range(40)]
    print("accepted", jobs.start(JobSource(documents=documents), key_id="k", collection="docs").id,
          flush=True)
    time.sleep(600)
deadline = time.monotonic() + 100
while jobs.list()[0].state not in ("done", "failed") and time.monotonic() < deadline:
    time.sleep(0.05)
jobs.close()
with retrieval.open("docs", store=str(folder / "store"), reranker="none") as r:
    found = r.index.document_states([f"d{i}" for i in range(40)])
    print("documents", len(found), jobs.list()[0].state, jobs.list()[0].report.read)
"""


def test_a_job_goes_on_after_kill_9(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "slow"], stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("accepted")
            assert process.stdout.readline().startswith("written")
        finally:
            process.send_signal(signal.SIGKILL)
    with closing(sqlite3.connect(tmp_path / "state" / DATABASE)) as database:
        assert database.execute("SELECT state, starts FROM jobs").fetchall() == [("running", 1)]
    again = subprocess.run(
        [*command, "resume"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=120,
        check=True,
    )
    assert again.stdout.splitlines()[-1] == "documents 40 done 40"


def test_a_job_that_ends_the_process_again_and_again_is_given_up(tmp_path: Path) -> None:
    with running(tmp_path, reading) as jobs:
        job = ended(jobs, started(jobs).id)
    with closing(sqlite3.connect(tmp_path / DATABASE)) as database, database:
        database.execute("UPDATE jobs SET state = 'running', starts = ?", [MOST_STARTS])
    with running(tmp_path, reading) as again:
        failed = ended(again, job.id)
    assert failed.state == "failed"
    assert failed.problem is not None
    assert "times while the job ran" in failed.problem
