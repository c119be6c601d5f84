"""`read`: a file, a BEIR folder, a tree of files, or `python-docs` → documents, one by one."""

from __future__ import annotations

import codecs
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from retrieval._validate import surrogate_at
from retrieval.errors import CorpusError, InvalidInput, MissingExtra
from retrieval.readers.docx import parse_docx
from retrieval.readers.epub import parse_epub
from retrieval.readers.files import (
    Unreadable,
    is_beir,
    is_inside_beir,
    is_text_encoding,
    read_bytes,
    walk,
    why,
)
from retrieval.readers.jsonl_csv import Row, read_csv, read_jsonl
from retrieval.readers.pdf import parse_pdf
from retrieval.readers.pptx import parse_pptx
from retrieval.readers.stdlib_docs import SOURCE_NAME, python_docs
from retrieval.readers.text import Content, parse_html, parse_markdown, parse_text
from retrieval.types import Document, Problem

OnError = Literal["skip", "raise"]
ProblemCallback = Callable[[Problem], None]

_DOCUMENT_FORMATS: dict[str, tuple[str, Callable[[bytes, str | None], Content]]] = {
    ".txt": ("text", parse_text),
    ".text": ("text", parse_text),
    ".rst": ("text", parse_text),
    ".md": ("markdown", parse_markdown),
    ".markdown": ("markdown", parse_markdown),
    ".html": ("html", parse_html),
    ".htm": ("html", parse_html),
    ".xhtml": ("html", parse_html),
}
# Read from their files part by part, which say themselves how their text is encoded.
_PACKAGE_FORMATS: dict[str, tuple[str, Callable[[Path], Content]]] = {
    ".pdf": ("pdf", parse_pdf),
    ".docx": ("docx", parse_docx),
    ".pptx": ("pptx", parse_pptx),
    ".epub": ("epub", parse_epub),
}
_ROW_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv")
READABLE = "txt, rst, md, html, pdf, docx, pptx, epub, jsonl, csv and tsv"
_NO_TEXT = {
    "html": "has no text in its main part",
    "docx": "has no text",
    "pptx": "has no text on its slides",
    "epub": "has no text in its chapters",
}
MOST_PROBLEMS_PER_FILE = 100
"""Bad rows of one file that are named one by one; the rest is counted."""

_logger = logging.getLogger(__name__)


def read(
    source: str | os.PathLike[str],
    *,
    on_error: OnError = "skip",
    on_problem: ProblemCallback | None = None,
    encoding: str | None = None,
) -> Iterator[Document]:
    """Documents of a source, one after the other, in the same order on every run.

    A text, markdown, HTML, PDF, Word (docx), PowerPoint (pptx) or EPUB file is one document; its
    id is its path below `source`. PDF, Word and PowerPoint need the extra `files`; of a PDF file
    or presentation `pages` says where its pages or slides begin. A JSONL, CSV or TSV file has a
    document a row, with the fields `text` (or `contents`, `content`), `title`, `id` (or `_id`),
    and all others as metadata. A row's id is the one it gives, with the file's path before it
    where the file is one of a tree (`data/faq.jsonl#17`); without one it is `path#line`. A folder
    with corpus.jsonl beside queries.jsonl or qrels/ is a BEIR folder: its corpus alone is read.
    In other folders hidden files are passed over, and files of other kinds are counted in a
    problem for each suffix.

    Args:
        source: a file or folder; "python-docs" is the documentation of Python's standard library
            (a folder of that name is "./python-docs").
        on_error: "skip" reports what cannot be used and goes on; "raise" stops at the first. Files
            of a kind that is not read, and pages with pictures alone, are never an error.
        on_problem: called with each `Problem`; without it they are logged as warnings.
        encoding: of text files without a byte order mark; by default UTF-8, for HTML what it
            declares. PDF, Word, PowerPoint and EPUB files say their own.

    Raises:
        CorpusError: at once where the source does not exist or cannot be read at all; while
            reading, with `on_error="raise"`, at what cannot be used.
        InvalidInput: an argument's value cannot be used.
        MissingExtra: while reading, with `on_error="raise"`, at a file that needs the extra.
    """
    if isinstance(source, str) and source == SOURCE_NAME:
        _check_settings(on_error, encoding)
        return python_docs()
    reading, is_folder = _begin(source, on_error, on_problem, encoding)
    files = reading.files(is_folder=is_folder)
    return (document for file in files for document in reading.documents(file))


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that holds documents. Ids of documents follow from `name`, its path below the source,
    and ids of rows begin with `row_prefix`."""

    path: Path
    name: str
    row_prefix: str


def list_files(
    source: str | os.PathLike[str],
    *,
    on_problem: ProblemCallback | None = None,
    encoding: str | None = None,
) -> list[SourceFile]:
    """The files that `read` would read, in its order, without reading them.

    Raises:
        CorpusError, InvalidInput: as `read`, at once.
    """
    reading, is_folder = _begin(source, "skip", on_problem, encoding)
    return list(reading.files(is_folder=is_folder))


def read_file(
    file: SourceFile, *, on_problem: ProblemCallback | None = None, encoding: str | None = None
) -> Iterator[Document]:
    """The documents of one file of a source, as `read` would give them.

    Repeated ids are only seen within the file.
    """
    encoding = _check_settings("skip", encoding)
    reading = _Reading(file.path.parent, "skip", on_problem or _log, encoding)
    return reading.documents(file)


def _begin(
    source: str | os.PathLike[str],
    on_error: OnError,
    on_problem: ProblemCallback | None,
    encoding: str | None,
) -> tuple[_Reading, bool]:
    """A run over a source that was checked, and whether that is a folder."""
    encoding = _check_settings(on_error, encoding)
    root = Path(source) if os.fspath(source) else None
    if root is None:
        raise CorpusError(
            "the source is empty, expected the path of a file or folder",
            fix=f"Give a path, or {SOURCE_NAME!r}.",
        )
    is_folder = _check(root)
    return _Reading(root, on_error, on_problem or _log, encoding), is_folder


def _check_settings(on_error: OnError, encoding: str | None) -> str | None:
    """The encoding by Python's own name for it; "UTF8" is "utf-8"."""
    if on_error not in ("skip", "raise"):
        raise InvalidInput(
            f"on_error is {on_error!r}, expected 'skip' or 'raise'", fix="Use one of the two."
        )
    if encoding is not None and not is_text_encoding(encoding):
        raise InvalidInput(
            f"Python knows no text encoding named {encoding!r}",
            fix="Use a name such as utf-8, latin-1, cp1252, gb18030 or shift_jis.",
        )
    return None if encoding is None else codecs.lookup(encoding).name


def _check(root: Path) -> bool:
    """Whether the source is a folder.

    Raises:
        CorpusError: it does not exist, is of no kind that is read, or the system refuses.
    """
    try:
        status = root.stat()
    except FileNotFoundError:
        raise CorpusError(
            f"there is no file or folder {str(root)!r} (looked in {str(Path.cwd())!r})",
            fix=f"Check the path. Python's own documentation is the source {SOURCE_NAME!r}.",
        ) from None
    except (OSError, ValueError) as error:
        reason = why(error) if isinstance(error, OSError) else str(error)
        raise CorpusError(
            f"the source {str(root)!r} {reason}", fix="Check the path and its permissions."
        ) from error
    if stat.S_ISDIR(status.st_mode):
        try:
            names = {entry.name for entry in root.iterdir()}
            (root / "corpus.jsonl").exists()  # a folder that lists its names may still be closed
        except OSError as error:
            raise CorpusError(
                f"the folder {str(root)!r} {why(error)}",
                fix="Give yourself the right to read and enter it.",
            ) from error
        if {"queries.jsonl", "qrels"} <= names and "corpus.jsonl" not in names:
            raise CorpusError(
                f"the folder {str(root)!r} has queries.jsonl and qrels/ but no corpus.jsonl: "
                "a BEIR folder without its documents",
                fix="Add corpus.jsonl, or give the place of the documents it belongs to.",
            )
        return True
    if not stat.S_ISREG(status.st_mode):
        raise CorpusError(
            f"the source {str(root)!r} is neither a file nor a folder",
            fix="Write what comes from the pipe or device to a file, and give that.",
        )
    if not _is_readable(root):
        kind = f"the suffix {root.suffix!r}" if root.suffix else "no suffix"
        raise CorpusError(
            f"the file {str(root)!r} has {kind}; expected one of {READABLE}",
            fix="Convert it to one of these, or rename it if it is one.",
        )
    return False


def _is_readable(path: Path) -> bool:
    return path.suffix.lower() in (*_DOCUMENT_FORMATS, *_PACKAGE_FORMATS, *_ROW_SUFFIXES)


def _log(problem: Problem) -> None:
    _logger.warning("not read: %s", problem)


@dataclass(slots=True)
class _Reading:
    """One run over a source: what was seen, and where problems go."""

    root: Path
    on_error: OnError
    on_problem: ProblemCallback
    encoding: str | None
    seen: set[str] = field(default_factory=set)

    def files(self, *, is_folder: bool) -> Iterator[SourceFile]:
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
        for path, _ in walk(self.root, lambda path, reason: self._problem(path, reason)):
            if is_inside_beir(path, self.root, beir):
                continue
            if not _is_readable(path):
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
                    f"{files} {kind} and were passed over (this is the first); {READABLE} are read",
                )
            )
        if not readable:
            self._problem(self.root, f"holds no file that can be read; {READABLE} are")

    def documents(self, file: SourceFile) -> Iterator[Document]:
        path, name, row_prefix = file.path, file.name, file.row_prefix
        if surrogate_at(name) is not None:
            self._problem(path, "has a name that is not valid UTF-8; rename it")
            return
        suffix = path.suffix.lower()
        try:
            if suffix not in _ROW_SUFFIXES:
                yield from self._whole(path, name, suffix)
            else:
                yield from self._rows(path, name, suffix, row_prefix)
        except Unreadable as bad:
            self._problem(path, bad.reason, bad.line)
        except MissingExtra as missing:
            if self.on_error == "raise":
                raise
            self._problem(path, f"was not read. {missing}")

    def _whole(self, path: Path, name: str, suffix: str) -> Iterator[Document]:
        if suffix in _PACKAGE_FORMATS:
            kind, parse_file = _PACKAGE_FORMATS[suffix]
            content = parse_file(path)
        else:
            kind, parse = _DOCUMENT_FORMATS[suffix]
            content = parse(read_bytes(path), self.encoding)
        if not content.text.strip():
            raise Unreadable(_NO_TEXT.get(kind, "is empty"))
        if not self._is_new(name, path, None):
            return
        for reason in content.failures:
            self._problem(path, reason)
        for reason in content.notes:
            self.on_problem(Problem(_shown(path), reason))
        metadata = {**content.metadata, "path": name, "format": kind}
        yield Document(name, content.text, content.title, metadata, _shown(path), content.pages)

    def _rows(self, path: Path, name: str, suffix: str, prefix: str) -> Iterator[Document]:
        bad_rows = 0
        rows_read = 0

        def on_bad_row(bad: Unreadable) -> None:
            nonlocal bad_rows
            bad_rows += 1
            if bad_rows <= MOST_PROBLEMS_PER_FILE or self.on_error == "raise":
                self._problem(path, bad.reason, bad.line)

        rows: Iterator[Row]
        if suffix in (".csv", ".tsv"):
            delimiters = ",;\t" if suffix == ".csv" else "\t"
            rows = read_csv(path, self.encoding, on_bad_row, delimiters=delimiters)
        else:
            rows = read_jsonl(path, self.encoding, on_bad_row)
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
                str(problem), fix="Mend it, or use on_error='skip' to leave it out and go on."
            )
        self.on_problem(problem)


def _repeated(identity: str) -> str:
    return f"the document id {identity!r} was read before in this run; the first is kept"


def _shown(path: Path) -> str:
    """The path as text that can be stored and printed, whatever bytes its name has."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")
