"""Ingestion in the background: jobs that run one after another and survive a restart.

    <state>/jobs/<id>/job.json           what the job is and how far it is; written atomically, last
                      documents.jsonl    documents that were sent, or parsed from files
                      files/0001.pdf …   uploads, under names of this service's own
                      files.json         what the client called them

A job is accepted once its folder is complete. Jobs that had not ended when the process did run
again at the next start: ingestion passes over what is written already.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from app.batching.deadline import Cancellation, Cancelled
from app.errors import Conflict, NotHere, Overloaded, Stopping
from app.jobs.storage import JobFiles, JobSpec, Kept
from app.types import Job, JobSource
from retrieval import IngestProgress, IngestReport
from retrieval.errors import RetrievalError

log = logging.getLogger(__name__)

RunJob: TypeAlias = Callable[
    [JobSpec, Callable[[IngestProgress], None], Cancellation], IngestReport
]
"""Does a job's work in the calling thread: ends early, with any error, once the event is set."""

HISTORY = 200
MOST_WAITING = 100
MOST_STARTS = 3
ENDED = ("done", "failed", "cancelled")

__all__ = ["ENDED", "JobSpec", "Jobs", "RunJob"]


@dataclass(slots=True)
class _Entry:
    """A job that is known. cancelled: set to stop it. starts: how often it began to run."""

    spec: JobSpec
    job: Job
    cancelled: Cancellation
    wanted: bool = True
    starts: int = 0

    def kept(self) -> Kept:
        return Kept(self.spec, self.job, self.starts)


class Jobs:
    """All jobs of a service.

    Args:
        state_dir: folder of the service's state; one process at a time uses it.
        run: does a job's work.
        history: so many ended jobs are remembered.
    """

    def __init__(self, state_dir: Path, run: RunJob, *, history: int = HISTORY) -> None:
        self._files = JobFiles(state_dir / "jobs")
        self._run = run
        self._history = history
        self._lock = threading.RLock()
        self._entries: dict[str, _Entry] = {}
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._watchers: dict[str, set[_Watcher]] = {}
        self._runner: threading.Thread | None = None
        self._closing = False

    # --- life

    def open(self) -> None:
        """Take up the jobs of the last run; a second call does nothing.

        Raises:
            StoreDenied, DiskFull: the folder cannot be read or written.
        """
        with self._lock:
            if self._runner is not None or self._closing:
                return
            self._files.sweep()
            for kept in self._files.load():
                entry = _Entry(kept.spec, kept.job, Cancellation(), starts=kept.starts)
                self._entries[kept.job.id] = entry
                if kept.job.state not in ENDED:
                    entry.job = replace(kept.job, state="waiting")
                    self._queue.put(kept.job.id)
            self._runner = threading.Thread(target=self._work, name="jobs", daemon=True)
            self._runner.start()

    def close(self, timeout_s: float | None = 30.0) -> None:
        """Stop at a safe point what runs; it goes on at the next start. Ends all watches."""
        with self._lock:
            self._closing = True
            runner = self._runner
            for entry in self._entries.values():
                if entry.job.state == "running":
                    entry.cancelled.set()
            self._queue.put(None)
        if runner is not None:
            runner.join(timeout_s)
            if runner.is_alive():
                log.warning("a job did not stop in time; it goes on at the next start")
        with self._lock:
            for watchers in self._watchers.values():
                for watcher in watchers:
                    watcher.wake()

    # --- what callers do

    def start(
        self,
        source: JobSource,
        *,
        key_id: str,
        collection: str,
        tenant: str | None = None,
        prune: bool = False,
    ) -> Job:
        """Accept a job: blocks until what it needs is on disk.

        Raises:
            Stopping: the service ends.
            Overloaded: too many jobs wait.
            InvalidInput: the source has nothing, or more than one kind of thing.
            DiskFull, StoreDenied: it cannot be written down.
        """
        self.open()
        with self._lock:
            waiting = sum(entry.job.state == "waiting" for entry in self._entries.values())
        if waiting >= MOST_WAITING:
            raise Overloaded(
                f"{waiting} jobs wait already",
                fix="Wait until some have ended; GET /v1/jobs shows them.",
                retry_after_s=30.0,
            )
        job_id = f"job-{uuid.uuid4().hex}"
        job = Job(id=job_id, collection=collection, state="waiting", created=_now(), key_id=key_id)
        spec = self._files.take(
            job_id, source, key_id=key_id, collection=collection, tenant=tenant, prune=prune
        )
        entry = _Entry(spec, job, Cancellation())
        with self._lock:
            if self._closing:
                self._files.remove(job_id)
                raise Stopping("the service is being stopped", fix="Send it again in a minute.")
            try:
                self._files.keep(entry.kept())
            except BaseException:
                self._files.remove(job_id)
                raise
            self._entries[job_id] = entry
            self._queue.put(job_id)
        return job

    @property
    def watching(self) -> int:
        """How many watches there are."""
        with self._lock:
            return sum(map(len, self._watchers.values()))

    def get(self, job_id: str) -> Job:
        """A job as it is now. Raises NotHere."""
        with self._lock:
            return self._entry(job_id).job

    def spec(self, job_id: str) -> JobSpec:
        """What a job was asked to do. Raises NotHere."""
        with self._lock:
            return self._entry(job_id).spec

    def list(self) -> list[Job]:
        """All jobs, newest first."""
        with self._lock:
            return [entry.job for entry in reversed(self._entries.values())]

    def cancel(self, job_id: str) -> Job:
        """Stop a job; what it has written stays.

        Raises:
            NotHere
            Conflict: it has ended.
        """
        with self._lock:
            entry = self._entry(job_id)
            if entry.job.state in ENDED:
                raise Conflict(
                    f"the job {job_id!r} has ended already: {entry.job.state}",
                    fix="Nothing needs to be done.",
                )
            entry.wanted = False
            if entry.job.state == "waiting":
                self._end(entry, replace(entry.job, state="cancelled"))
            else:
                entry.cancelled.set()
            return entry.job

    async def watch(self, job_id: str) -> AsyncIterator[Job]:
        """The job now, then whenever it has changed, until it, or the service, ends.

        Raises:
            NotHere
        """
        watcher = _Watcher()
        with self._lock:
            self._entry(job_id)
            self._watchers.setdefault(job_id, set()).add(watcher)
        try:
            shown: Job | None = None
            while True:
                with self._lock:
                    job, closing = self._entry(job_id).job, self._closing
                if job != shown:
                    yield job
                    shown = job
                if job.state in ENDED or closing:
                    return
                await watcher.changed()
        finally:
            with self._lock:
                watchers = self._watchers.get(job_id, set())
                watchers.discard(watcher)
                if not watchers:
                    self._watchers.pop(job_id, None)

    # --- the thread that works

    def _work(self) -> None:
        while (job_id := self._queue.get()) is not None:
            with self._lock:
                if self._closing:
                    return
                entry = self._entries.get(job_id)
                if entry is None or entry.job.state != "waiting":
                    continue
            try:
                self._do(entry)
            except Exception:  # such as a disk that became full: the next job may go well
                log.exception("the job %s could not be written down", job_id)

    def _do(self, entry: _Entry) -> None:
        entry.starts += 1
        if entry.starts > MOST_STARTS:
            self._fail(
                entry,
                f"the service ended {MOST_STARTS} times while the job ran",
                "See the service's log for what ended it; then send the documents again.",
            )
            return
        began = time.monotonic()
        self._change(entry, replace(entry.job, state="running"))
        self._files.keep(entry.kept())

        def progress(now: IngestProgress) -> None:
            if entry.cancelled.is_set():
                raise Cancelled
            self._change(
                entry,
                replace(
                    entry.job,
                    documents=now.documents,
                    total_documents=now.total_documents,
                    passages=now.passages,
                    seconds=time.monotonic() - began,
                ),
            )

        try:
            report = self._run(entry.spec, progress, entry.cancelled)
        except Exception as error:  # noqa: BLE001 - whatever it is ends this job, not the others
            self._ended_by(entry, error)
            return
        read = replace(
            entry.job,
            state="done",
            documents=report.read,
            total_documents=report.read,
            passages=report.passages,
            seconds=report.seconds,
            report=report,
        )
        self._end(entry, read)

    def _ended_by(self, entry: _Entry, error: Exception) -> None:
        if entry.cancelled.is_set() and not entry.wanted:
            self._end(entry, replace(entry.job, state="cancelled"))
        elif entry.cancelled.is_set():
            # The service stops: the job goes on at the next start, and this one does not count.
            entry.starts -= 1
            self._change(entry, replace(entry.job, state="waiting"))
            self._files.keep(entry.kept())
        elif isinstance(error, RetrievalError):
            self._fail(entry, error.problem, error.fix)
        else:
            log.error("the job %s failed", entry.job.id, exc_info=error)
            self._fail(
                entry,
                f"the service has a fault ({type(error).__name__})",
                f"Its log says more about {entry.job.id}; what was written before is kept.",
            )

    def _fail(self, entry: _Entry, problem: str, fix: str) -> None:
        self._end(entry, replace(entry.job, state="failed", problem=problem, fix=fix))

    def _end(self, entry: _Entry, job: Job) -> None:
        job = replace(job, finished=_now())
        try:
            self._files.keep(Kept(entry.spec, job, entry.starts))
            self._files.drop_sources(job.id)
        finally:
            self._change(entry, job)
            self._forget_oldest()

    def _change(self, entry: _Entry, job: Job) -> None:
        with self._lock:
            entry.job = job
            for watcher in self._watchers.get(job.id, ()):
                watcher.wake()

    def _forget_oldest(self) -> None:
        with self._lock:
            ended = [job_id for job_id, e in self._entries.items() if e.job.state in ENDED]
            for job_id in ended[: max(0, len(ended) - self._history)]:
                if job_id not in self._watchers:
                    del self._entries[job_id]
                    self._files.remove(job_id)

    def _entry(self, job_id: str) -> _Entry:
        entry = self._entries.get(job_id)
        if entry is None:
            raise NotHere(
                f"there is no job {job_id!r}",
                fix=f"GET /v1/jobs lists them; the last {self._history} that ended are kept.",
                what="job",
            )
        return entry


class _Watcher:
    """Wakes one task of an event loop, from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Let `changed` return. A loop that has ended waits for nothing."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._event.set)

    async def changed(self) -> None:
        """Wait for the next change since the last call."""
        await self._event.wait()
        self._event.clear()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
