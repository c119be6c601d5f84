"""The table of jobs: SQLite, in the service's state folder.

A job is durable once `add` has returned. What jobs read is beside it, see `app.jobs.sources`.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from app.jobs.state_dir import translated
from app.types import Job
from retrieval import IngestReport
from retrieval.errors import DiskFull, StoreDenied, StoreFault
from retrieval.types import Problem

DATABASE = "jobs.sqlite"
ENDED = ("done", "failed", "cancelled")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which they were accepted
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    starts INTEGER NOT NULL DEFAULT 0,         -- how often the job began to run
    spec TEXT NOT NULL,                        -- JSON of JobSpec
    job TEXT NOT NULL                          -- JSON of Job
);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, number);
"""
_MARKS = ", ".join("?" * len(ENDED))


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a job does.

    tenant: the tenant of the documents. prune: also delete what the source no longer has. path: of
        a
    file or folder on the service's machine; None for what was sent.
    """

    id: str
    key_id: str
    collection: str
    tenant: str | None = None
    prune: bool = False
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A job as it is on disk. starts: how often it began to run."""

    spec: JobSpec
    job: Job
    starts: int = 0


class JobTable:
    """All jobs that are remembered. Each call opens the file anew; calls must not overlap.

    Args:
        folder: of the service's state.

    Raises:
        DiskFull, StoreDenied, StoreFault: from each call that cannot read or write the table.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / DATABASE

    def create(self) -> None:
        """Make the folder and the table, for their owner alone; jobs that ran wait again."""
        with translated(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file.touch(mode=0o600)
        with self._database() as database:
            database.executescript(f"PRAGMA journal_mode = WAL; {_SCHEMA}")
            database.execute("UPDATE jobs SET state = 'waiting' WHERE state = 'running'")

    def add(self, kept: Kept) -> None:
        """Write down a new job; durable when this returns."""
        self._write(
            "INSERT INTO jobs (id, state, starts, spec, job) VALUES (?, ?, ?, ?, ?)",
            kept.job.id,
            kept.job.state,
            kept.starts,
            json.dumps(asdict(kept.spec)),
            json.dumps(asdict(kept.job)),
        )

    def update(self, job: Job, starts: int) -> None:
        """Write down how a job is now."""
        self._write(
            "UPDATE jobs SET state = ?, starts = ?, job = ? WHERE id = ?",
            job.state,
            starts,
            json.dumps(asdict(job)),
            job.id,
        )

    def get(self, job_id: str) -> Kept | None:
        """A job; None where there is none of that id."""
        return next(iter(self._read("WHERE id = ?", job_id)), None)

    def next(self, without: Collection[str]) -> Kept | None:
        """The job that has waited longest, of those not left out."""
        waiting = (job_id for job_id in self.waiting() if job_id not in without)
        first = next(waiting, None)
        return None if first is None else self.get(first)

    def newest(self) -> list[Job]:
        """All jobs, newest first."""
        return [kept.job for kept in self._read("ORDER BY number DESC")]

    def waiting(self) -> list[str]:
        """Ids of the jobs that wait, oldest first."""
        return [kept.job.id for kept in self._read("WHERE state = 'waiting' ORDER BY number")]

    def forget(self, history: int, *, keep: Collection[str]) -> None:
        """Delete all but the newest `history` jobs that ended, and those to `keep`."""
        self._write(
            f"DELETE FROM jobs WHERE state IN ({_MARKS}) AND id NOT IN (SELECT value FROM "
            f"json_each(?)) AND number NOT IN (SELECT number FROM jobs WHERE state IN ({_MARKS}) "
            "ORDER BY number DESC LIMIT ?)",
            *ENDED,
            json.dumps(list(keep)),
            *ENDED,
            history,
        )

    def _read(self, clause: str, *values: object) -> list[Kept]:
        if not self._file.exists():
            return []
        with self._database() as database:
            rows = database.execute(
                f"SELECT spec, job, state, starts FROM jobs {clause}", values
            ).fetchall()
        return [
            Kept(JobSpec(**json.loads(spec)), replace(_job(job), state=state), starts)
            for spec, job, state, starts in rows
        ]

    def _write(self, statement: str, *values: object) -> None:
        with self._database() as database:
            database.execute(statement, values)

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        with _errors(self._file):
            database = sqlite3.connect(self._file, isolation_level=None)
            try:
                database.execute("PRAGMA synchronous = FULL")  # a commit is on disk
                yield database
            finally:
                database.close()


def _job(text: str) -> Job:
    fields: dict[str, Any] = json.loads(text)
    report = fields["report"]
    if report is not None:
        report["failed"] = tuple(Problem(**one) for one in report["failed"])
        report["notices"] = tuple(report["notices"])
        report["duplicate_examples"] = tuple((a, b) for a, b in report["duplicate_examples"])
        fields["report"] = IngestReport(**report)
    return Job(**fields)


@contextlib.contextmanager
def _errors(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorname", "")
        if code.startswith("SQLITE_FULL"):
            raise DiskFull(
                f"the disk of {str(file)!r} is full, and the job cannot be written there",
                fix="Make room, or choose another folder with the setting state_dir.",
            ) from error
        if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
            raise StoreDenied(
                f"the file {str(file)!r} cannot be used: {error}",
                fix="Give the service the right to write there, or set state_dir to another "
                "folder.",
            ) from error
        raise StoreFault(
            f"the table of jobs in {str(file)!r} cannot be used: {error}",
            fix="Move the file away (jobs that wait are lost with it), or set state_dir to "
            "another folder.",
        ) from error
