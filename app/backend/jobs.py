"""Jobs as callers see them: who may start which, and who may see whose."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from app.backend.access import Access
from app.backend.writes import Writing
from app.batching.deadline import Cancellation, Control, controlled
from app.errors import Forbidden, NotHere
from app.jobs.jobs import Jobs
from app.jobs.sources import documents_of, parse_limits
from app.jobs.storage import JobSpec
from app.settings.settings import Settings
from app.types import Caller, Job, JobSource
from retrieval import IngestProgress, IngestReport

# A job waits for other writers for as long as it takes; cancelling it ends the wait.
PATIENCE_SECONDS = float("inf")


class JobAccess:
    """The jobs of a service, each caller's own.

    Args:
        settings: which folders of this machine may be read.
        access: what callers may do.
        writing: does the work of jobs.
        make: makes what keeps and runs them, given what does the work of one.
    """

    def __init__(
        self,
        settings: Settings,
        access: Access,
        writing: Writing,
        make: Callable[[Callable[..., IngestReport]], Jobs],
    ) -> None:
        self._settings = settings
        self._access = access
        self._writing = writing
        self.all = make(self._run)

    def start(
        self, caller: Caller, source: JobSource, name: str, tenant: str | None, prune: bool
    ) -> Job:
        """Accept a job; blocks until what it needs is on disk.

        Raises:
            Forbidden: a path that is under none of the `ingest_roots`.
        """
        if source.path is not None:
            source = replace(source, path=self._allowed(source.path))
        return self.all.start(
            source, key_id=caller.key_id, collection=name, tenant=tenant, prune=prune
        )

    def seen_by(self, caller: Caller) -> list[Job]:
        """The jobs that a caller may see, newest first."""
        return [job for job in self.all.list() if _may_see(caller, job)]

    def get(self, caller: Caller, job_id: str) -> Job:
        """One of them. Raises NotHere, also for others' jobs."""
        job = self.all.get(job_id)
        if not _may_see(caller, job):
            raise NotHere(
                f"there is no job {job_id!r}",
                fix="Look at the jobs there are: GET /v1/jobs.",
                what="job",
            )
        return job

    def cancel(self, caller: Caller, job_id: str) -> Job:
        """Stop it. Raises NotHere, Conflict where it has ended."""
        self.get(caller, job_id)
        return self.all.cancel(job_id)

    def watch(self, caller: Caller, job_id: str) -> AsyncIterator[Job]:
        """The job, whenever it has changed. Raises NotHere."""
        self.get(caller, job_id)
        return self.all.watch(job_id)

    def _run(
        self,
        spec: JobSpec,
        home: Path,
        progress: Callable[[IngestProgress], None],
        cancelled: Cancellation,
    ) -> IngestReport:
        control = Control(client=spec.key_id, background=True, cancelled=cancelled)
        with controlled(control):
            what = f"the job {spec.id} runs"
            if spec.path is not None:
                return self._writing.upsert(
                    self._allowed(spec.path), spec.collection, tenant=spec.tenant, what=what,
                    prune=spec.prune, progress=progress, patience_s=PATIENCE_SECONDS,
                )  # fmt: skip
            given = documents_of(home, parse_limits(self._settings), cancelled)
            report = self._writing.upsert(
                given.read, spec.collection, tenant=spec.tenant, what=what, prune=spec.prune,
                progress=progress, patience_s=PATIENCE_SECONDS,
            )  # fmt: skip
            return given.report(report)

    def _allowed(self, path: str) -> str:
        """A path on this machine, made absolute, where links lead to what may be read.

        Raises:
            Forbidden: it is under none of the `ingest_roots`.
        """
        try:
            real = Path(path).resolve()
            roots = [root.resolve() for root in self._settings.ingest_roots]
        except (OSError, ValueError, RuntimeError):  # such as a NUL, or links in a circle
            roots = []
        if not any(real.is_relative_to(root) for root in roots):
            raise Forbidden(
                f"the path {path!r} is under none of the folders that jobs may read here",
                fix="Upload the files, or let the operator name their folder in the setting "
                "ingest_roots.",
            )
        return str(real)


def _may_see(caller: Caller, job: Job) -> bool:
    """Whether it is the caller's own, or the caller has no limits."""
    unlimited = caller.write and caller.collections is None and caller.tenant is None
    return unlimited or job.key_id == caller.key_id
