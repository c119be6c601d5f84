"""The source of a run as the driver sees it, in Ray's object store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from retrieval.distributed.messages import DocumentBatch, packed
from retrieval.distributed.partitions import file_groups, files_of, grouped
from retrieval.ingestion.input_checks import AnySource, check_reading, is_path
from retrieval.ingestion.seen_documents import SeenDocuments
from retrieval.readers.options import ReadOptions
from retrieval.readers.read import read
from retrieval.readers.stdlib_docs import SOURCE_NAME as PYTHON_DOCS
from retrieval.types import Document, Problem


def check_source(source: AnySource, options: ReadOptions) -> None:
    """Refuse, before Ray is started, what cannot be read at all.

    Raises:
        CorpusError: the source does not exist.
        InvalidInput: how files are read is given for what is text already.
    """
    check_reading(source, options)
    if is_path(source):
        read(source, **options.as_arguments())


@dataclass(frozen=True, slots=True)
class Source:
    """What is read: blocks in Ray's object store, of file groups, or of batches of documents."""

    path: Path | None
    blocks: tuple[Any, ...]
    problems: tuple[Problem, ...]
    first: tuple[Document, ...]
    """The documents that decide what a new collection is."""


def opened(source: AnySource, options: ReadOptions, batch: int, sample: int) -> Source:
    """The source, listed; documents that a program made go into Ray's object store.

    Args:
        batch: documents in a batch, at most.
        sample: how many of the first documents are kept.

    Raises:
        CorpusError: the source cannot be read at all.
    """
    import ray

    if is_path(source):
        path = Path(source)
        files, problems = files_of(path, options)
        blocks = tuple(ray.put(packed(group)) for group in file_groups(files))
        documents = read(path, on_problem=lambda _: None, **options.as_arguments())
        return Source(path, blocks, tuple(problems), tuple(islice(documents, sample)))
    made = read(PYTHON_DOCS) if source == PYTHON_DOCS else cast("Iterable[Document]", source)
    iterator = iter(made)
    first = tuple(islice(iterator, sample))
    problems = []
    batches = grouped(_each_once(chain(first, iterator), problems), batch)
    blocks = tuple(ray.put(packed(DocumentBatch(tuple(part)))) for part in batches)
    return Source(None, blocks, tuple(problems), first)


def _each_once(documents: Iterable[Document], problems: list[Problem]) -> Iterator[Document]:
    """Documents except for those whose id was there before, which become problems."""
    with closing(SeenDocuments()) as seen:
        for document in documents:
            if seen.add_id(document.id):
                yield document
                continue
            reason = f"document id {document.id!r} was read before in this run; the first is kept"
            problems.append(Problem(document.source or document.id, reason))
