"""One run over a source: its files in order, the documents of each, and where problems go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Literal

from retrieval._validate import is_blank, surrogate_at
from retrieval.errors import CorpusError, MissingExtra
from retrieval.readers.files import Unreadable, read_bytes
from retrieval.readers.formats import DOCUMENTS, NO_TEXT, PACKAGES, READABLE, ROWS, is_readable
from retrieval.readers.json_file import json_document, read_json
from retrieval.readers.jsonl_csv import read_csv, read_jsonl
from retrieval.readers.opening import Within, opened
from retrieval.readers.options import ReadOptions
from retrieval.readers.rows import DocumentRow
from retrieval.readers.text import Content
from retrieval.readers.walking import is_beir, is_inside_beir, walk
from retrieval.types import Document, Problem

OnError = Literal["skip", "raise"]
ProblemCallback = Callable[[Problem], None]

MOST_PROBLEMS_PER_FILE = 100
"""Bad rows of one file that are named one by one; the rest is counted."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that holds documents. Ids of documents follow from `name`, its path below the source,
    and ids of rows begin with `row_prefix`."""

    path: Path
    name: str
    row_prefix: str


@dataclass(slots=True)
class Reading:
    """One run over a source: what was seen, and where problems go."""

    root: Path
    on_error: OnError
    on_problem: ProblemCallback
    options: ReadOptions
    within: Within = None
    seen: set[str] = field(default_factory=set)

    def files(self, *, is_folder: bool) -> Iterator[SourceFile]:
        """The files that hold documents, in a fixed order."""
        if not is_folder:
            yield SourceFile(self.root, self.root.name, "")
        elif is_beir(self.root):
            yield SourceFile(self.root / "corpus.jsonl", "corpus.jsonl", "")
        else:
            yield from self._tree()

    def _tree(self) -> Iterator[SourceFile]:
        unknown: Counter[str] = Counter()
        example: dict[str, Path] = {}
        beir: dict[Path, bool] = {}
        readable = 0
        left_out: list[Path] = []
        walked = walk(self.root, self._problem, self.within, self.options, left_out.append)
        for path, _ in walked:
            if is_inside_beir(path, self.root, beir):
                continue
            if not is_readable(path):
                suffix = path.suffix.lower()
                unknown[suffix] += 1
                example.setdefault(suffix, path)
                continue
            readable += 1
            name = path.relative_to(self.root).as_posix()
            yield SourceFile(path, name, f"{name}#")
        for suffix in sorted(unknown):
            number = unknown[suffix]
            kind = f"the suffix {suffix}" if suffix else "no suffix"
            files = "1 file has" if number == 1 else f"{number} files have"
            self.on_problem(
                Problem(
                    _shown(example[suffix]),
                    f"{files} {kind} and were skipped (this is the first); {READABLE} are read",
                )
            )
        if left_out:
            which = "is" if len(left_out) == 1 else f"is one of {len(left_out):,} that are"
            self.on_problem(
                Problem(
                    _shown(left_out[0]),
                    f"{which} left out as packages, builds or named by .gitignore; all_files "
                    "(--all-files) reads them",
                    is_note=True,
                )
            )
        if not readable:
            self._problem(self.root, f"holds no file that can be read; {READABLE} are")

    def documents(self, file: SourceFile) -> Iterator[Document]:
        """The documents of one file."""
        path, name, row_prefix = file.path, file.name, file.row_prefix
        if surrogate_at(name) is not None:
            self._problem(path, "has a name that is not valid UTF-8; rename it")
            return
        suffix = path.suffix.lower()
        try:
            with opened(path, self.within) as stream:
                if suffix == ".json" and (whole := self._one_json(stream)) is not None:
                    yield from self._document(whole, path, name, "json")
                elif suffix not in ROWS:
                    yield from self._whole(stream, path, name, suffix)
                else:
                    yield from self._rows(stream, path, name, suffix, row_prefix)
        except Unreadable as bad:
            self._problem(path, bad.reason, bad.line)
        except MissingExtra as missing:
            if self.on_error == "raise":
                raise
            self._problem(path, f"was not read. {missing}")

    def _whole(self, file: BinaryIO, path: Path, name: str, suffix: str) -> Iterator[Document]:
        if suffix in PACKAGES:
            kind, parse_file = PACKAGES[suffix]
            content = parse_file(file)
        else:
            kind, parse = DOCUMENTS[suffix]
            content = parse(read_bytes(file), self.options.codec)
        yield from self._document(content, path, name, kind)

    def _document(self, content: Content, path: Path, name: str, kind: str) -> Iterator[Document]:
        if is_blank(content.text):
            raise Unreadable(NO_TEXT.get(kind, "is empty"))
        if not self._is_new(name, path, None):
            return
        for reason in content.failures:
            self._problem(path, reason)
        for reason in content.notes:
            self.on_problem(Problem(_shown(path), reason, is_note=True))
        metadata = {**content.metadata, "path": name, "format": kind}
        yield Document(name, content.text, content.title, metadata, _shown(path), content.pages)

    def _one_json(self, file: BinaryIO) -> Content | None:
        """A JSON file that is one document; None where it is a list of them."""
        data = read_bytes(file)
        file.seek(0)
        return json_document(data, self.options)

    def _rows(
        self, file: BufferedReader, path: Path, name: str, suffix: str, prefix: str
    ) -> Iterator[Document]:
        bad_rows = 0
        rows_read = 0

        def on_bad_row(bad: Unreadable) -> None:
            nonlocal bad_rows
            bad_rows += 1
            if bad_rows <= MOST_PROBLEMS_PER_FILE or self.on_error == "raise":
                self._problem(path, bad.reason, bad.line)

        def on_note(reason: str) -> None:
            self.on_problem(Problem(_shown(path), reason, is_note=True))

        rows: Iterator[DocumentRow]
        if suffix in (".csv", ".tsv"):
            delimiters = ",;\t" if suffix == ".csv" else "\t"
            rows = read_csv(file, self.options, on_bad_row, on_note, delimiters=delimiters)
        elif suffix == ".json":
            rows = read_json(read_bytes(file), self.options, on_bad_row)
        else:
            rows = read_jsonl(file, self.options, on_bad_row, on_note)
        for row in rows:
            rows_read += 1
            identity = f"{prefix}{row.id}" if row.id else f"{name}#{row.line}"
            if identity in self.seen:
                on_bad_row(Unreadable(_repeated(identity), row.line))
                continue
            self.seen.add(identity)
            source = f"{_shown(path)}:{row.line}"
            yield Document(identity, row.text, row.title, row.metadata, source)
        if bad_rows > MOST_PROBLEMS_PER_FILE:
            more = bad_rows - MOST_PROBLEMS_PER_FILE
            self._problem(
                path, f"has {more} more bad rows; the first {MOST_PROBLEMS_PER_FILE} are named"
            )
        if not rows_read and not bad_rows:
            raise Unreadable("has no rows")

    def _is_new(self, identity: str, path: Path, line: int | None) -> bool:
        if identity in self.seen:
            self._problem(path, _repeated(identity), line)
            return False
        self.seen.add(identity)
        return True

    def _problem(self, path: Path, reason: str, line: int | None = None) -> None:
        problem = Problem(_shown(path), reason, line)
        if self.on_error == "raise":
            raise CorpusError(
                str(problem), fix="Correct it, or use on_error='skip' to leave it out and go on."
            )
        self.on_problem(problem)


def _repeated(identity: str) -> str:
    return f"the document id {identity!r} was read before in this run; the first is kept"


def _shown(path: Path) -> str:
    """The path as text that can be stored and printed, whatever bytes its name has."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
