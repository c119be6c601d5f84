"""What jobs read: documents that were sent, and uploads, each job's in its own folder.

    <state>/jobs/<id>/documents.jsonl    documents that were sent, or parsed from files
                      files/0001.pdf …   uploads, under names of this service's own
                      files.json         what the client called them
                      problems.json      what could not be parsed

A folder is complete before its job is written down, and goes when the job has ended.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from app.jobs.parse_worker import document_fields
from app.jobs.state_dir import UPLOADING, translated
from app.jobs.uploads import ParseLimits, read_uploads, safe_suffix
from app.settings.settings import Settings
from app.types import JobSource
from retrieval import Document, IngestReport
from retrieval._files import atomic_write, sync_folder
from retrieval.errors import CorpusError, InvalidInput
from retrieval.types import Problem

MOST_PROBLEMS = 1000
"""Problems of one job that are named."""

_DOCUMENTS = "documents.jsonl"
_PROBLEMS = "problems.json"
_FILES = "files"
_NAMES = "files.json"


@dataclass(frozen=True, slots=True)
class JobDocuments:
    """What a job reads: `read` gives the documents anew each time; problems were met before."""

    read: Callable[[], Iterator[Document]]
    problems: tuple[Problem, ...] = ()

    def report(self, report: IngestReport) -> IngestReport:
        """The report of ingesting them, with the problems of reading them."""
        return replace(report, failed=(*self.problems, *report.failed))


class JobSources:
    """The folders of what jobs read.

    Args:
        state: the service's folder; only its owner can read what is in it.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._folder = state / "jobs"

    def of(self, job_id: str) -> Path:
        """A job's folder."""
        return self._folder / job_id

    def take(self, job_id: str, source: JobSource) -> None:
        """Write down what a job reads; uploads are moved here.

        Raises:
            InvalidInput: there is nothing to read, or more than one kind of thing.
            DiskFull, StoreDenied
        """
        given = [source.documents is not None, source.files is not None, source.path is not None]
        if sum(given) != 1:
            raise InvalidInput(
                "a job needs documents, files or a path, and only one of them",
                fix="Send one of them; start a job for each.",
            )
        if source.path is not None:
            return
        home = self.of(job_id)
        try:
            with translated(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                home.mkdir(mode=0o700)
                if source.documents is not None:
                    _write(home / _DOCUMENTS, source.documents)
                if source.files is not None:
                    _take_files(home, source.files)
                sync_folder(self._folder)
        except BaseException:
            self.remove(job_id)
            raise

    def remove(self, job_id: str) -> None:
        """Delete what a job reads."""
        shutil.rmtree(self.of(job_id), ignore_errors=True)

    def sweep(self, wanted: Collection[str]) -> None:
        """Delete folders of other jobs than these, and uploads that no job had taken over.

        Raises:
            StoreDenied
        """
        with translated(self._folder):
            homes = list(self._folder.iterdir()) if self._folder.is_dir() else []
        left = [home for home in homes if home.name not in wanted]
        for folder in (*left, *self._state.glob(f"{UPLOADING}*")):
            shutil.rmtree(folder, ignore_errors=True)


def parse_limits(settings: Settings) -> ParseLimits:
    """The limits of parsing one uploaded file."""
    return ParseLimits(seconds=settings.parse_timeout_s, memory_mb=settings.parse_memory_mb)


def documents_of(home: Path, limits: ParseLimits, cancelled: threading.Event) -> JobDocuments:
    """The documents in a job's folder; uploaded files are parsed once, into JSON lines.

    Raises:
        CorpusError: none of the files holds anything that can be read.
        Cancelled: `cancelled` was set meanwhile.
    """
    parsed, problems_file = home / _DOCUMENTS, home / _PROBLEMS
    problems: tuple[Problem, ...] = ()
    with translated(home):
        if not parsed.exists():
            _parse(home, limits, cancelled)
        if problems_file.exists():
            problems = tuple(Problem(**one) for one in json.loads(problems_file.read_bytes()))
        nothing = parsed.stat().st_size == 0 and (home / _NAMES).exists()
    if nothing:
        first = str(problems[0]) if problems else "they are empty"
        raise CorpusError(
            f"no document could be read from the uploaded files: {first}",
            fix="Send files of another kind, or correct them; the limits of parsing are "
            "the settings "
            "parse_timeout_s and parse_memory_mb.",
        )
    return JobDocuments(lambda: _documents(parsed), problems)


def _parse(home: Path, limits: ParseLimits, cancelled: threading.Event) -> None:
    problems: list[Problem] = []
    names = json.loads((home / _NAMES).read_bytes())
    files = [(one["name"], home / _FILES / one["file"]) for one in names]
    read = read_uploads(files, limits, on_problem=problems.append, cancelled=cancelled)
    try:
        # The documents appear last: where they are, all is.
        with atomic_write(home / _DOCUMENTS) as out:
            out.writelines(_lines(read))
            if len(problems) > MOST_PROBLEMS:
                more = f"and {len(problems) - MOST_PROBLEMS:,} more problems"
                problems[MOST_PROBLEMS:] = [Problem("the uploaded files", more)]
            with atomic_write(home / _PROBLEMS) as named:
                json.dump([asdict(one) for one in problems], named)
    finally:
        read.close()


def _take_files(home: Path, files: Iterable[tuple[str, Path]]) -> None:
    folder = home / _FILES
    folder.mkdir(mode=0o700)
    listed: list[dict[str, str]] = []
    for number, (given, path) in enumerate(files, start=1):
        own = f"{number:04}{safe_suffix(given)}"
        shutil.move(path, folder / own)
        with (folder / own).open("rb") as file:
            os.fsync(file.fileno())
        listed.append({"name": given, "file": own})
    sync_folder(folder)
    with atomic_write(home / _NAMES) as names:
        json.dump(listed, names)
    if not listed:
        raise InvalidInput("no file was sent", fix="Send at least one, in the field 'files'.")


def _documents(file: Path) -> Iterator[Document]:
    with file.open(encoding="ascii") as lines:
        for line in lines:
            fields = json.loads(line)
            yield Document(**{**fields, "pages": tuple(fields["pages"])})


def _write(file: Path, documents: Iterable[Document]) -> None:
    with atomic_write(file) as out:
        out.writelines(_lines(documents))


def _lines(documents: Iterable[Document]) -> Iterator[str]:
    for document in documents:
        yield json.dumps(document_fields(document)) + "\n"
