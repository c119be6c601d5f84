"""A source in portions: files that one task reads, and parcels of documents that go on from there.

The corpus room's own reader lists the files and reads them, so ids, problems and metadata are those
of a run without Ray. A file is read from its beginning by one task: where an id is repeated the
first row counts, and only who reads in order knows which that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from retrieval.distributed.messages import Parcel, Portion, SourceFile
from retrieval.readers import read as readers
from retrieval.readers.read import list_files
from retrieval.types import Document, Problem

PORTION_BYTES = 8_000_000
PORTION_FILES = 256
"""A task reads so many small files; a larger one is a portion by itself."""
PARCEL_CHARACTERS = 500_000
"""Characters of a parcel, some 500 passages; a longer document is a parcel by itself."""


def files_of(source: Path, encoding: str | None) -> tuple[list[SourceFile], list[Problem]]:
    """The files that hold a source's documents, and what cannot be read.

    Raises:
        CorpusError: the source does not exist or cannot be read at all.
        InvalidInput: no such encoding.
    """
    problems: list[Problem] = []
    found = []
    for file in list_files(source, on_problem=problems.append, encoding=encoding):
        path = file.path
        try:
            size = path.stat().st_size
        except OSError:
            size = 0  # whoever reads it says what is wrong
        found.append(SourceFile(str(path.absolute()), str(path), file.name, file.row_prefix, size))
    return found, problems


def portions_of(files: Iterable[SourceFile]) -> list[Portion]:
    """Files in the order of the source, small ones joined."""
    portions: list[Portion] = []
    waiting: list[SourceFile] = []
    size = 0
    for file in files:
        if waiting and (size + file.bytes > PORTION_BYTES or len(waiting) >= PORTION_FILES):
            portions.append(Portion(tuple(waiting)))
            waiting, size = [], 0
        waiting.append(file)
        size += file.bytes
    if waiting:
        portions.append(Portion(tuple(waiting)))
    return portions


def read_portion(
    portion: Portion, encoding: str | None, batch: int, characters: int = PARCEL_CHARACTERS
) -> Iterator[Parcel]:
    """The documents of a portion in parcels; problems come with the parcel after them."""
    problems: list[Problem] = []

    def documents() -> Iterator[Document]:
        for file in portion.files:
            problems_before = len(problems)
            path = Path(file.path)
            prefix = _text(file.path)
            whole = readers.SourceFile(path, file.name, file.row_prefix)
            for document in readers.read_file(whole, on_problem=problems.append, encoding=encoding):
                yield replace(document, source=_as_named(document.source, prefix, file.shown))
            for place in range(problems_before, len(problems)):
                problem = problems[place]
                source = _as_named(problem.source, prefix, file.shown)
                problems[place] = replace(problem, source=source)

    for group in grouped(documents(), batch, characters):
        yield Parcel(tuple(group), tuple(problems))
        problems.clear()
    if problems:
        yield Parcel((), tuple(problems))


def grouped(
    documents: Iterable[Document], batch: int, characters: int = PARCEL_CHARACTERS
) -> Iterator[Sequence[Document]]:
    """Documents in groups of at most `batch` and about so many characters."""
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
