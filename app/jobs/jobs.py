"""Ingestion in the background: jobs that run one after another and survive a restart.

A job is accepted once what it reads and its row in the table are on disk. Jobs that had not ended
when the process did run again at the next start: ingestion skips what is written already.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from app.batching.deadline import Cancellation, Cancelled
from app.errors import Conflict, NotHere, Overloaded, Stopping
from app.jobs.sources import JobSources
from app.jobs.storage import ENDED, JobSpec, JobTable, Kept
from app.types import Job, JobSource
from retrieval import IngestProgress, IngestReport
from retrieval.errors import RetrievalError

log = logging.getLogger(__name__)

RunJob: TypeAlias = Callable[
    [JobSpec, Path, Callable[[IngestProgress], None], Cancellation], IngestReport
]
"""Does a job's work in the calling thread, given the folder of what was sent; ends early, with any
error, once the event is set."""

HISTORY = 200
MOST_WAITING = 100
MOST_STARTS = 3


@dataclass(slots=True)
class _Running:
    """The job that runs. cancelled: set to stop it. wanted: False once a caller cancelled it."""

    spec: JobSpec
    job: Job
    starts: int
    cancelled: Cancellation
    wanted: bool = True


class Jobs:
    """All jobs of a service.

    Args:
        state_dir: folder of the service's state; one process at a time uses it.
        run: does a job's work.
        history: how many ended jobs are remembered.
    """

    def __init__(self, state_dir: Path, run: RunJob, *, history: int = HISTORY) -> None:
        self._table = JobTable(state_dir)
        self._sources = JobSources(state_dir)
        self._run = run
        self._history = history
        # Guards all below; notified when a job comes in, or at the end.
        self._changes = threading.Condition(threading.RLock())
        self._running: _Running | None = None
        self._unwritable: set[str] = set()
        self._watchers: dict[str, set[_Watcher]] = {}
        self._runner: threading.Thread | None = None
        self._closing = False

    # --- life

    def open(self) -> None:
        """Take up the jobs of the last run; a second call does nothing.

        Raises:
            StoreDenied, DiskFull, StoreFault: the folder cannot be read or written.
        """
        with self._changes:
            if self._runner is not None or self._closing:
                return
            self._table.create()
            self._sources.sweep(self._table.waiting())
            self._runner = threading.Thread(target=self._work, name="jobs", daemon=True)
            self._runner.start()

    def close(self, timeout_s: float | None = 30.0) -> None:
        """Stop at a safe point what runs; it continues at the next start. Ends all watches."""
        with self._changes:
            self._closing = True
            if self._running is not None:
                self._running.cancelled.set()
            self._changes.notify_all()
        if self._runner is not None:
            self._runner.join(timeout_s)
            if self._runner.is_alive():
                log.warning("a job did not stop in time; it continues at the next start")
        with self._changes:
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
            DiskFull, StoreDenied, StoreFault: it cannot be written down.
        """
        self.open()
        with self._changes:
            waiting = len(self._table.waiting())
        if waiting >= MOST_WAITING:
            raise Overloaded(
                f"{waiting} jobs already wait",
                fix="Wait until some have ended; GET /v1/jobs shows them.",
                retry_after_s=30.0,
            )
        job_id = f"job-{uuid.uuid4().hex}"
        job = Job(id=job_id, collection=collection, state="waiting", created=_now(), key_id=key_id)
        spec = JobSpec(job_id, key_id, collection, tenant, prune, source.path)
        self._sources.take(job_id, source)
        try:
            with self._changes:
                if self._closing:
                    raise Stopping("the service is stopping", fix="Send it again in a minute.")
                self._table.add(Kept(spec, job))
                self._changes.notify_all()
        except BaseException:
            self._sources.remove(job_id)
            raise
        return job

    @property
    def watching(self) -> int:
        """How many watches there are."""
        with self._changes:
            return sum(map(len, self._watchers.values()))

    def get(self, job_id: str) -> Job:
        """A job as it is now. Raises NotHere."""
        with self._changes:
            return self._find(job_id).job

    def list(self) -> list[Job]:
        """All jobs, newest first."""
        with self._changes:
            running = self._running
            return [
                running.job if running is not None and job.id == running.job.id else job
                for job in self._table.newest()
            ]

    def cancel(self, job_id: str) -> Job:
        """Stop a job; what it has written stays.

        Raises:
            NotHere
            Conflict: it has ended.
        """
        with self._changes:
            found = self._find(job_id)
            if found.job.state in ENDED:
                raise Conflict(
                    f"the job {job_id!r} has ended already: {found.job.state}",
                    fix="Nothing needs to be done.",
                )
            if isinstance(found, _Running):
                found.wanted = False
                found.cancelled.set()
                return found.job
            return self._end(replace(found.job, state="cancelled"), found.starts)

    async def watch(self, job_id: str) -> AsyncGenerator[Job, None]:
        """The job now, then whenever it has changed, until it, or the service, ends.

        Raises:
            NotHere
        """
        watcher = _Watcher()
        with self._changes:
            self._find(job_id)
            self._watchers.setdefault(job_id, set()).add(watcher)
        try:
            shown: Job | None = None
            while True:
                with self._changes:
                    job, closing = self._find(job_id).job, self._closing
                if job != shown:
                    yield job
                    shown = job
                if job.state in ENDED or closing:
                    return
                await watcher.changed()
        finally:
            with self._changes:
                watchers = self._watchers.get(job_id, set())
                watchers.discard(watcher)
                if not watchers:
                    self._watchers.pop(job_id, None)

    # --- the thread that works

    def _work(self) -> None:
        while (running := self._next()) is not None:
            try:
                self._do(running)
            except Exception:  # such as a disk that became full: the next job may go well
                log.exception("the job %s could not be stored", running.spec.id)
                self._unwritable.add(running.spec.id)  # not again before the next start
            finally:
                with self._changes:
                    self._running = None
                    self._wake(running.spec.id)

    def _next(self) -> _Running | None:
        """The next job, once there is one; None when the service ends."""
        with self._changes:
            while not self._closing:
                kept = self._table.next(self._unwritable)
                if kept is not None:
                    job = replace(kept.job, state="running")
                    self._running = _Running(kept.spec, job, kept.starts + 1, Cancellation())
                    return self._running
                self._changes.wait()
            return None

    def _do(self, running: _Running) -> None:
        if running.starts > MOST_STARTS:
            self._fail(
                running,
                f"the service ended {MOST_STARTS} times while the job ran",
                "See the service's log for what ended it; then send the documents again.",
            )
            return
        began = time.monotonic()
        with self._changes:
            self._table.update(running.job, running.starts)
            self._wake(running.spec.id)

        def progress(now: IngestProgress) -> None:
            if running.cancelled.is_set():
                raise Cancelled
            with self._changes:
                running.job = replace(
                    running.job,
                    documents=now.documents,
                    total_documents=now.total_documents,
                    passages=now.passages,
                    seconds=time.monotonic() - began,
                )
                self._wake(running.spec.id)

        home = self._sources.of(running.spec.id)
        try:
            report = self._run(running.spec, home, progress, running.cancelled)
        except Exception as error:  # noqa: BLE001 - any error ends this job, not the others
            self._ended_by(running, error)
            return
        done = replace(
            running.job,
            state="done",
            documents=report.read,
            total_documents=report.read,
            passages=report.passages,
            seconds=report.seconds,
            report=report,
        )
        self._end(done, running.starts)

    def _ended_by(self, running: _Running, error: Exception) -> None:
        if running.cancelled.is_set() and not running.wanted:
            self._end(replace(running.job, state="cancelled"), running.starts)
        elif running.cancelled.is_set():
            # The service stops: the job goes on at the next start, and this one does not count.
            with self._changes:
                running.job = replace(running.job, state="waiting")
                self._table.update(running.job, running.starts - 1)
        elif isinstance(error, RetrievalError):
            self._fail(running, error.problem, error.fix)
        else:
            log.error("the job %s failed", running.spec.id, exc_info=error)
            self._fail(
                running,
                f"the service has a fault ({type(error).__name__})",
                f"Its log says more about {running.spec.id}; what was written before is kept.",
            )

    def _fail(self, running: _Running, problem: str, fix: str) -> None:
        failed = replace(running.job, state="failed", problem=problem, fix=fix)
        self._end(failed, running.starts)

    def _end(self, job: Job, starts: int) -> Job:
        job = replace(job, finished=_now())
        with self._changes:
            self._table.update(job, starts)
            self._table.forget(self._history, keep=self._watchers)
        self._sources.remove(job.id)
        with self._changes:
            if self._running is not None and self._running.spec.id == job.id:
                self._running.job = job
            self._wake(job.id)
        return job

    def _wake(self, job_id: str) -> None:
        for watcher in self._watchers.get(job_id, ()):
            watcher.wake()

    def _find(self, job_id: str) -> _Running | Kept:
        if self._running is not None and self._running.spec.id == job_id:
            return self._running
        kept = self._table.get(job_id)
        if kept is None:
            raise NotHere(
                f"there is no job {job_id!r}",
                fix=f"GET /v1/jobs lists them; the last {self._history} that ended are kept.",
                what="job",
            )
        return kept


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
