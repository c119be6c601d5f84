"""A source in parts: groups of files that one task reads, and batches of their documents.

`retrieval.readers` lists the files and reads them, so ids, problems and metadata are those
of a run without Ray. A file is read from its beginning by one task: where an id is repeated the
first row counts, and only who reads in order knows which that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from retrieval.distributed.messages import DocumentBatch, FileGroup, ListedFile
from retrieval.readers.options import ReadOptions
from retrieval.readers.read import list_files, read_file
from retrieval.readers.reading import SourceFile
from retrieval.types import Document, Problem

GROUP_BYTES = 8_000_000
GROUP_FILES = 256
"""The most files of a group; a file of GROUP_BYTES or more is a group by itself."""
BATCH_CHARACTERS = 500_000
"""Characters of a batch, some 500 passages; a longer document is a batch by itself."""


def files_of(source: Path, options: ReadOptions) -> tuple[list[ListedFile], list[Problem]]:
    """The files that hold a source's documents, and what cannot be read.

    Raises:
        CorpusError: the source does not exist or cannot be read at all.
    """
    problems: list[Problem] = []
    found = []
    for file in list_files(source, on_problem=problems.append, options=options):
        path = file.path
        try:
            size = path.stat().st_size
        except OSError:
            size = 0  # whoever reads it says what is wrong
        found.append(ListedFile(str(path.absolute()), str(path), file.name, file.row_prefix, size))
    return found, problems


def file_groups(files: Iterable[ListedFile]) -> list[FileGroup]:
    """Files in the order of the source, small ones joined."""
    groups: list[FileGroup] = []
    waiting: list[ListedFile] = []
    size = 0
    for file in files:
        if waiting and (size + file.bytes > GROUP_BYTES or len(waiting) >= GROUP_FILES):
            groups.append(FileGroup(tuple(waiting)))
            waiting, size = [], 0
        waiting.append(file)
        size += file.bytes
    if waiting:
        groups.append(FileGroup(tuple(waiting)))
    return groups


def read_group(
    group: FileGroup, options: ReadOptions, batch: int, characters: int = BATCH_CHARACTERS
) -> Iterator[DocumentBatch]:
    """The documents of a group in batches; problems come with the batch after them."""
    problems: list[Problem] = []

    def documents() -> Iterator[Document]:
        for file in group.files:
            problems_before = len(problems)
            path = Path(file.path)
            prefix = _text(file.path)
            whole = SourceFile(path, file.name, file.row_prefix)
            for document in read_file(whole, on_problem=problems.append, options=options):
                yield replace(document, source=_as_named(document.source, prefix, file.shown))
            for place in range(problems_before, len(problems)):
                problem = problems[place]
                source = _as_named(problem.source, prefix, file.shown)
                problems[place] = replace(problem, source=source)

    for part in grouped(documents(), batch, characters):
        yield DocumentBatch(tuple(part), tuple(problems))
        problems.clear()
    if problems:
        yield DocumentBatch((), tuple(problems))


def grouped(
    documents: Iterable[Document], batch: int, characters: int = BATCH_CHARACTERS
) -> Iterator[Sequence[Document]]:
    """Documents in groups of at most `batch` documents and about `characters` characters."""
    group: list[Document] = []
    size = 0
    for document in documents:
        if group and (len(group) >= batch or size + len(document.text) > characters):
            yield group
            group, size = [], 0
        group.append(document)
        size += len(document.text)
    if group:
        yield group


def _as_named(source: str, path: str, shown: str) -> str:
    """A source that begins with a worker's absolute path, as the user named the file."""
    return _text(shown) + source.removeprefix(path) if source.startswith(path) else source


def _text(path: str) -> str:
    return path.encode("utf-8", "backslashreplace").decode("utf-8")
