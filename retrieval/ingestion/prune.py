"""Deletes what a source no longer has, but never what could not be read this time."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from retrieval.ingestion.prepare import file_of, has_line
from retrieval.ingestion.seen_documents import SeenDocuments
from retrieval.readers.stdlib_docs import SOURCE_NAME
from retrieval.types import Document, Index, Problem

GONE, SPARED, FOREIGN = 0, 1, 2
"""What becomes of a stored document that was not read: deleted; kept, since its file is there;
kept, since it came from elsewhere. Of several passages' verdicts the greatest holds."""

_PAGE = 1_000


class PruneScope(Protocol):
    """Which stored documents belong to the source of a run."""

    def owns(self, document_id: str, source: str) -> bool:
        """Whether a stored document came from the same source."""
        ...

    def spares(self, source: str, was_read: Callable[[str], bool]) -> bool:
        """Whether it must stay: its file is still there and was not read.

        Args:
            source: where the stored document came from.
            was_read: whether a document of this run came from the file of that absolute path.
        """
        ...


def prune_scope(
    source: str | os.PathLike[str] | Iterable[Document], problems: Sequence[Problem]
) -> PruneScope:
    """What pruning may touch when this source is indexed.

    A file or folder: documents with a source in it. "python-docs": documents of its names.
    Documents given by a program: all of the collection (of the tenant).

    Args:
        source: as for `retrieval.ingest`.
        problems: the list that the reader appends to; read when pruning begins.
    """
    if isinstance(source, str) and source == SOURCE_NAME:
        return _PythonDocs()
    if isinstance(source, (str, os.PathLike)):
        return _Below(Path(os.path.normpath(Path(source).absolute())), problems)
    return _Everything()


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many documents pruning deleted, and what it left, in sentences."""

    documents: int = 0
    notices: tuple[str, ...] = ()


def prune(index: Index, scope: PruneScope, seen: SeenDocuments, *, tenant: str | None) -> Pruned:
    """Delete the scope's documents that are not among those seen.

    A killed call is continued by the next run with the same source.
    """
    page: list[tuple[str, str]] = []
    for stored in index.document_sources(tenant=tenant):
        page.append(stored)
        if len(page) == _PAGE:
            _judge(page, scope, seen)
            page.clear()
    _judge(page, scope, seen)
    for ids in seen.judged(GONE):
        index.delete_documents(ids, tenant=tenant)
    notices: list[str] = []
    if foreign := seen.count(FOREIGN):
        documents = "1 document" if foreign == 1 else f"{foreign:,} documents"
        notices.append(f"{documents} of other sources were left alone by pruning.")
    if spared := seen.count(SPARED):
        documents = "1 document was" if spared == 1 else f"{spared:,} documents were"
        notices.append(
            f"{documents} not pruned although not read: the files are still there, or what they "
            "lie in could not be read."
        )
    return Pruned(seen.count(GONE), tuple(notices))


def _judge(page: list[tuple[str, str]], scope: PruneScope, seen: SeenDocuments) -> None:
    if not page:
        return
    read = seen.has_ids(list({document_id for document_id, _ in page}))
    verdicts: dict[str, int] = {}
    for document_id, source in dict.fromkeys(page):
        if document_id in read:
            continue
        if not scope.owns(document_id, source):
            verdict = FOREIGN
        elif scope.spares(source, seen.has_file):
            verdict = SPARED
        else:
            verdict = GONE
        verdicts[document_id] = max(verdict, verdicts.get(document_id, GONE))
    seen.judge(verdicts)


class _Everything:
    def owns(self, document_id: str, source: str) -> bool:
        return True

    def spares(self, source: str, was_read: Callable[[str], bool]) -> bool:
        return False


class _PythonDocs:
    """Names of the standard library, each of which is its own source."""

    def owns(self, document_id: str, source: str) -> bool:
        if source != document_id or not all(part.isidentifier() for part in source.split(".")):
            return False
        top = source.split(".", 1)[0]
        return top in sys.stdlib_module_names or hasattr(builtins, top)

    def spares(self, source: str, was_read: Callable[[str], bool]) -> bool:
        return False


class _Below:
    """A file, or a folder and all below it, with the ids that reading it gives.

    Ids count too, since a source need not be a path: what a program gave under the name
    "shutil.copy" did not come from a file of that name in the current folder.
    """

    def __init__(self, root: Path, problems: Sequence[Problem]) -> None:
        self._root = root
        self._problems = problems
        self._closed: set[Path] | None = None

    def owns(self, document_id: str, source: str) -> bool:
        if not source or _PythonDocs().owns(document_id, source):
            return False
        path = _path(source)
        if path == self._root:
            name = path.name
        elif self._root in path.parents:
            name = path.relative_to(self._root).as_posix()
        else:
            return False
        if not path.suffix:
            return False
        if has_line(source) and (path == self._root or name == "corpus.jsonl"):
            return True  # rows of a file that was given, or of a BEIR folder: their own ids
        return document_id == name or document_id.startswith(f"{name}#")

    def spares(self, source: str, was_read: Callable[[str], bool]) -> bool:
        path = _path(source)
        if self._closed is None:  # files and folders that could not be read, or not in full
            self._closed = {_path(problem.source) for problem in self._problems if problem.source}
        if path in self._closed or not self._closed.isdisjoint(path.parents):
            return True
        if not os.path.lexists(path):
            return False
        # A row that has left its file is gone; a whole file that is there is not.
        return not has_line(source) or not was_read(file_of(source))


def _path(source: str) -> Path:
    return Path(os.path.normpath(file_of(source)))
