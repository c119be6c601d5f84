"""Jobs as callers see them: started if the caller may, and seen by their owner."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from app.backend.access import Access
from app.backend.calls import Calls
from app.backend.open_collections import OpenCollections
from app.backend.writes import Writing
from app.batching.deadline import Cancellation, Control, controlled
from app.errors import Forbidden, NotHere
from app.jobs.jobs import Jobs
from app.jobs.sources import documents_of, parse_limits
from app.jobs.state_dir import state_folder
from app.jobs.storage import JobSpec
from app.settings.settings import Settings
from app.types import Caller, Job, JobSource
from retrieval import IngestProgress, IngestReport
from retrieval.errors import CollectionNotFound

# A job waits for other writers for as long as it takes; cancelling it ends the wait.
PATIENCE_SECONDS = float("inf")


class JobAccess:
    """The jobs of a service, each caller's own.

    Args:
        settings: which folders of this machine may be read.
        access: what callers may do.
        calls: admission and threads.
        opened: the collections that are open.
        writing: does the work of jobs.
    """

    def __init__(
        self,
        settings: Settings,
        access: Access,
        calls: Calls,
        opened: OpenCollections,
        writing: Writing,
    ) -> None:
        self._settings = settings
        self._access = access
        self._calls = calls
        self._opened = opened
        self._writing = writing
        self.all = Jobs(state_folder(settings), self._run)

    async def start(
        self,
        caller: Caller,
        source: JobSource,
        *,
        collection: str | None = None,
        tenant: str | None = None,
        prune: bool = False,
    ) -> Job:
        """Ingest in the background. What it takes over is on disk when it returns.

        Raises:
            Forbidden: the caller may not write, or the source is a path that is under none of
                the `ingest_roots`.
        """
        self._access.write(caller)
        name, owner = self._access.about(caller, collection, tenant)

        def start() -> Job:
            try:
                self._access.manifest(caller, name, self._opened.manifest(name))
            except CollectionNotFound:
                if caller.tenant is not None and name in self._access.visible(caller):
                    raise
                # the job makes it
            given = source
            if given.path is not None:
                given = replace(given, path=self._allowed(given.path))
            return self.all.start(
                given, key_id=caller.key_id, collection=name, tenant=owner, prune=prune
            )

        return await self._calls.write(caller, start)

    def list(self, caller: Caller) -> list[Job]:
        """The caller's own jobs, and all of them for a caller without limits; newest first."""
        return [job for job in self.all.list() if _may_see(caller, job)]

    def get(self, caller: Caller, job_id: str) -> Job:
        """One of them.

        Raises:
            NotHere: there is none, or it is another caller's.
        """
        job = self.all.get(job_id)
        if not _may_see(caller, job):
            raise NotHere(
                f"there is no job {job_id!r}",
                fix="GET /v1/jobs lists the jobs.",
                what="job",
            )
        return job

    async def cancel(self, caller: Caller, job_id: str) -> Job:
        """Stop it; what it has written stays.

        Raises:
            NotHere: as `get`.
            Conflict: it has ended.
        """

        def cancel() -> Job:
            self.get(caller, job_id)
            return self.all.cancel(job_id)

        return await self._calls.other(caller, cancel)

    def watch(self, caller: Caller, job_id: str) -> AsyncGenerator[Job, None]:
        """The job now, then whenever it has changed, until it has ended.

        Raises:
            NotHere: as `get`.
        """
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
        with self._access.told(), controlled(control):
            write = partial(
                self._writing.upsert, name=spec.collection, tenant=spec.tenant, prune=spec.prune,
                what=f"the job {spec.id} runs", progress=progress, patience_s=PATIENCE_SECONDS,
            )  # fmt: skip
            if spec.path is not None:
                return write(self._allowed(spec.path), within=self._settings.ingest_roots)
            sent = documents_of(home, parse_limits(self._settings), cancelled)
            return sent.report(write(sent.read))

    def _allowed(self, path: str) -> str:
        """The absolute path, with links resolved, of a file or folder that jobs may read.

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
