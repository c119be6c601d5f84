"""What jobs leave on disk, and how a job's documents are read from it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from app.jobs.state_dir import UPLOADING, state_folder, translated
from app.jobs.uploads import ParseLimits, read_uploads, safe_suffix
from app.settings.settings import Settings
from app.types import Job, JobSource
from retrieval import Document, IngestReport
from retrieval.errors import CorpusError, InvalidInput
from retrieval.types import Problem

_JOB = "job.json"
_DOCUMENTS = "documents.jsonl"
_PROBLEMS = "problems.json"
_FILES = "files"
_NAMES = "files.json"
__all__ = [
    "JobDocuments",
    "JobFiles",
    "JobSpec",
    "Kept",
    "documents_of",
    "parse_limits",
    "state_folder",
]
MOST_PROBLEMS = 1000
"""Problems of one job that are named."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a job does. One of the last three is given.

    documents_file: JSON lines of documents. files_dir: a folder of uploads, see `documents_of`.
    path: on the service's machine.
    """

    id: str
    key_id: str
    collection: str
    tenant: str | None = None
    prune: bool = False
    documents_file: Path | None = None
    files_dir: Path | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """A job as it is on disk. starts: how often it began to run."""

    spec: JobSpec
    job: Job
    starts: int


@dataclass(frozen=True, slots=True)
class JobDocuments:
    """What a job reads: `read` gives the documents anew each time; problems were met before."""

    read: Callable[[], Iterator[Document]]
    problems: tuple[Problem, ...] = ()

    def report(self, report: IngestReport) -> IngestReport:
        """The report of ingesting them, with the problems of reading them."""
        return replace(report, failed=(*self.problems, *report.failed))


def parse_limits(settings: Settings) -> ParseLimits:
    """The limits of parsing one uploaded file."""
    return ParseLimits(seconds=settings.parse_timeout_s, memory_mb=settings.parse_memory_mb)


def documents_of(spec: JobSpec, limits: ParseLimits, cancelled: threading.Event) -> JobDocuments:
    """The documents of a job that has some, or files; files are parsed once, into JSON lines.

    Raises:
        CorpusError: none of the files holds anything that can be read.
        Cancelled: `cancelled` was set meanwhile.
    """
    if spec.documents_file is not None:
        file = spec.documents_file
        return JobDocuments(lambda: _documents(file))
    if spec.files_dir is None:
        raise InvalidInput(
            f"the job {spec.id!r} reads a path", fix="Give its path to the ingestion."
        )
    home = spec.files_dir.parent
    parsed, told = home / _DOCUMENTS, home / _PROBLEMS
    with translated(home):
        if not parsed.exists():
            _parse(spec.files_dir, home, limits, cancelled)
        problems = tuple(Problem(**one) for one in json.loads(told.read_bytes()))
        empty = parsed.stat().st_size == 0
    if empty:
        first = str(problems[0]) if problems else "they are empty"
        raise CorpusError(
            f"no document could be read from the uploaded files: {first}",
            fix="Send files of another kind, or mend them; the limits of parsing are the settings "
            "parse_timeout_s and parse_memory_mb.",
        )
    return JobDocuments(lambda: _documents(parsed), problems)


def _parse(files_dir: Path, home: Path, limits: ParseLimits, cancelled: threading.Event) -> None:
    problems: list[Problem] = []
    names = json.loads((home / _NAMES).read_bytes())
    files = [(one["name"], files_dir / one["file"]) for one in names]
    read = read_uploads(files, limits, on_problem=problems.append, cancelled=cancelled)
    try:
        partial = home / f"{_DOCUMENTS}.partial"
        _write(partial, read)
    finally:
        read.close()
    if len(problems) > MOST_PROBLEMS:
        more = f"and {len(problems) - MOST_PROBLEMS:,} more problems"
        problems[MOST_PROBLEMS:] = [Problem("the uploaded files", more)]
    _write_whole(home / _PROBLEMS, [asdict(one) for one in problems])
    # Last: where it is, all is.
    partial.replace(home / _DOCUMENTS)


class JobFiles:
    """The folders of jobs.

    Args:
        folder: of all jobs; made when it is needed, for its owner alone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(
        self,
        job_id: str,
        source: JobSource,
        *,
        key_id: str,
        collection: str,
        tenant: str | None,
        prune: bool,
    ) -> JobSpec:
        """Write down what a job reads; uploads are moved here.

        Raises:
            InvalidInput: there is nothing to read, or more than one kind of thing.
            DiskFull, StoreDenied
        """
        given = [source.documents is not None, source.files is not None, source.path is not None]
        if sum(given) != 1:
            raise InvalidInput(
                "a job needs documents, files or a path, and one of them alone",
                fix="Send one of them; start a job for each.",
            )
        home = self._folder / job_id
        documents_file = files_dir = None
        try:
            with translated(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                home.mkdir(mode=0o700)
                if source.documents is not None:
                    documents_file = home / _DOCUMENTS
                    _write(documents_file, source.documents)
                if source.files is not None:
                    files_dir = home / _FILES
                    _take_files(files_dir, home / _NAMES, source.files)
        except BaseException:
            self.remove(job_id)
            raise
        return JobSpec(
            job_id, key_id, collection, tenant, prune, documents_file, files_dir, source.path
        )

    def keep(self, kept: Kept) -> None:
        """Write a job down; whole or not at all.

        Raises:
            DiskFull, StoreDenied
        """
        home = self._folder / kept.job.id
        spec = asdict(kept.spec)
        for name in ("documents_file", "files_dir"):
            # Relative, so that the folder can be moved.
            spec[name] = None if spec[name] is None else spec[name].name
        with translated(home):
            _write_whole(
                home / _JOB, {"spec": spec, "job": asdict(kept.job), "starts": kept.starts}
            )

    def sweep(self) -> None:
        """Delete uploads that no job had taken over when the last process ended."""
        for left in self._folder.parent.glob(f"{UPLOADING}*"):
            shutil.rmtree(left, ignore_errors=True)

    def load(self) -> list[Kept]:
        """All jobs, oldest first. Folders that were not complete when the process ended go.

        Raises:
            StoreDenied
        """
        found: list[Kept] = []
        with translated(self._folder):
            homes = list(self._folder.iterdir()) if self._folder.is_dir() else []
            for home in homes:
                kept = _load(home)
                if kept is None:
                    shutil.rmtree(home, ignore_errors=True)
                else:
                    found.append(kept)
        return sorted(found, key=lambda kept: (kept.job.created, kept.job.id))

    def drop_sources(self, job_id: str) -> None:
        """Delete what an ended job has read."""
        home = self._folder / job_id
        shutil.rmtree(home / _FILES, ignore_errors=True)
        for name in (_DOCUMENTS, f"{_DOCUMENTS}.partial", _PROBLEMS, _NAMES):
            with contextlib.suppress(OSError):
                (home / name).unlink()

    def remove(self, job_id: str) -> None:
        """Delete a job's folder."""
        shutil.rmtree(self._folder / job_id, ignore_errors=True)


def _take_files(folder: Path, names: Path, files: Iterable[tuple[str, Path]]) -> None:
    folder.mkdir(mode=0o700)
    listed: list[dict[str, str]] = []
    for number, (given, path) in enumerate(files, start=1):
        own = f"{number:04}{safe_suffix(given)}"
        shutil.move(path, folder / own)
        with (folder / own).open("rb") as file:
            os.fsync(file.fileno())
        listed.append({"name": given, "file": own})
    _write_whole(names, listed)
    if not listed:
        raise InvalidInput("no file was sent", fix="Send at least one, in the field 'files'.")


def _load(home: Path) -> Kept | None:
    try:
        found = json.loads((home / _JOB).read_bytes())
        spec, job = found["spec"], found["job"]
        for name in ("documents_file", "files_dir"):
            spec[name] = None if spec[name] is None else home / spec[name]
        job["report"] = _report(job["report"])
        return Kept(JobSpec(**spec), Job(**job), int(found["starts"]))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def _report(fields: dict[str, Any] | None) -> IngestReport | None:
    if fields is None:
        return None
    fields["failed"] = tuple(Problem(**one) for one in fields["failed"])
    fields["notices"] = tuple(fields["notices"])
    fields["duplicate_examples"] = tuple((a, b) for a, b in fields["duplicate_examples"])
    return IngestReport(**fields)


def _documents(file: Path) -> Iterator[Document]:
    with file.open(encoding="ascii") as lines:
        for line in lines:
            fields = json.loads(line)
            yield Document(**{**fields, "pages": tuple(fields["pages"])})


def _write(file: Path, documents: Iterable[Document]) -> None:
    with file.open("w", encoding="ascii") as out:
        for document in documents:
            fields = {
                "id": document.id,
                "text": document.text,
                "title": document.title,
                "metadata": dict(document.metadata),
                "source": document.source,
                "pages": list(document.pages),
            }
            out.write(json.dumps(fields) + "\n")
        out.flush()
        os.fsync(out.fileno())


def _write_whole(file: Path, value: object) -> None:
    """Replace a file at once; on disk when it returns."""
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("w", encoding="utf-8") as out:
        json.dump(value, out)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
