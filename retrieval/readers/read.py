"""`read`: a file, a BEIR folder, a tree of files, or `python-docs` → documents, one by one."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from retrieval.errors import CorpusError, InvalidInput
from retrieval.readers.files import Unreadable, why
from retrieval.readers.formats import READABLE, is_readable
from retrieval.readers.opening import Within, list_folder, place, real_folders
from retrieval.readers.options import ColumnsLike, ReadOptions
from retrieval.readers.reading import OnError, ProblemCallback, Reading, SourceFile
from retrieval.readers.stdlib_docs import SOURCE_NAME, python_docs
from retrieval.types import Document, Problem

_logger = logging.getLogger(__name__)


def read(
    source: str | os.PathLike[str],
    *,
    on_error: OnError = "skip",
    on_problem: ProblemCallback | None = None,
    encoding: str | None = None,
    columns: ColumnsLike | None = None,
    all_files: bool = False,
    follow_links: bool = False,
    within: Sequence[str | os.PathLike[str]] | None = None,
) -> Iterator[Document]:
    """Documents of a source, one after the other, in the same order on every run.

    A text, markdown, HTML, PDF, Word (docx), PowerPoint (pptx) or EPUB file is one document; its
    id is its path below `source`. PDF, Word and PowerPoint need the extra `files`; of a PDF file
    or presentation `pages` says where its pages or slides begin. A JSONL, CSV or TSV file has one
    document per row, with the fields `text` (or `contents`, `content`), `title`, `id` (or `_id`),
    and all others as metadata. A row's id is the one it gives, with the file's path before it where
    the file is one of a tree (`data/faq.jsonl#17`); without one it is `path#line`. A folder with
    corpus.jsonl beside queries.jsonl or qrels/ is a BEIR folder: only its corpus is read. In other
    folders hidden files are skipped, and files of other kinds are counted in a problem for each
    suffix. Symbolic links are followed, also out of the folder; each folder is read once, so a
    loop ends.

    Args:
        source: a file or folder; "python-docs" is the documentation of Python's standard library
            (a folder of that name is "./python-docs").
        on_error: "skip" reports what cannot be used and goes on; "raise" stops at the first. Files
            of a kind that is not read, and pages with pictures alone, are never an error.
        on_problem: called with each `Problem`; without it they are logged as warnings.
        encoding: of text files without a byte order mark; by default UTF-8, for HTML what it
            declares, and where a file is neither, a guess that is reported. PDF, Word, PowerPoint
            and EPUB files declare their own.
        columns: of tables and JSON Lines, which are text, title and id, as {"text": ["question",
            "answer"], "title": "subject", "id": "nr"}; several texts are joined by blank lines.
        all_files: of a folder also hidden files, node_modules, build folders and what .gitignore
            names.
        follow_links: of a folder also links that lead out of it.
        within: folders; for sources that others name or write to. What does not really lie in one
            of them is not read but a problem: links are followed where they stay inside, and what
            is exchanged for a link while it is read is refused. Without it links are followed
            wherever they lead, each folder once. A hard link cannot be told from a file.

    Returns:
        An iterator; each file is read when its first document is asked for.

    Raises:
        CorpusError: at once where the source does not exist or cannot be read at all; while
            reading, with `on_error="raise"`, at what cannot be used.
        InvalidInput: an argument's value cannot be used.
        MissingExtra: while reading, with `on_error="raise"`, at a file that needs the extra.

    Example:
        >>> from pathlib import Path
        >>> from retrieval import read_documents
        >>> _ = Path("rules.md").write_text("# Travel\\n\\nPaid back in ten days.")
        >>> [(document.id, document.title) for document in read_documents("rules.md")]
        [('rules.md', 'Travel')]
    """
    options = ReadOptions.of(encoding, columns, all_files, follow_links)
    if isinstance(source, str) and source == SOURCE_NAME:
        _check_on_error(on_error)
        return python_docs()
    reading, is_folder = _begin(source, on_error, on_problem, options, within)
    files = reading.files(is_folder=is_folder)
    return (document for file in files for document in reading.documents(file))


def list_files(
    source: str | os.PathLike[str],
    *,
    on_problem: ProblemCallback | None = None,
    options: ReadOptions | None = None,
) -> list[SourceFile]:
    """The files that `read` would read, in its order, without reading them.

    Raises:
        CorpusError, InvalidInput: as `read`, at once.
    """
    reading, is_folder = _begin(source, "skip", on_problem, options or ReadOptions())
    return list(reading.files(is_folder=is_folder))


def read_file(
    file: SourceFile,
    *,
    on_problem: ProblemCallback | None = None,
    options: ReadOptions | None = None,
) -> Iterator[Document]:
    """The documents of one file of a source, as `read` would give them.

    Repeated ids are only seen within the file.
    """
    reading = Reading(file.path.parent, "skip", on_problem or _log, options or ReadOptions())
    return reading.documents(file)


def _begin(
    source: str | os.PathLike[str],
    on_error: OnError,
    on_problem: ProblemCallback | None,
    options: ReadOptions,
    within: Sequence[str | os.PathLike[str]] | None = None,
) -> tuple[Reading, bool]:
    """A run over a source that was checked, and whether that is a folder."""
    _check_on_error(on_error)
    root = Path(source) if os.fspath(source) else None
    if root is None:
        raise CorpusError(
            "the source is empty, expected the path of a file or folder",
            fix=f"Give a path, or {SOURCE_NAME!r}.",
        )
    folders = real_folders(within)
    is_folder = _check(root, folders)
    return Reading(root, on_error, on_problem or _log, options, folders), is_folder


def _check_on_error(on_error: OnError) -> None:
    if on_error not in ("skip", "raise"):
        raise InvalidInput(
            f"on_error is {on_error!r}, expected 'skip' or 'raise'", fix="Use one of the two."
        )


def _check(root: Path, within: Within) -> bool:
    """Whether the source is a folder.

    Raises:
        CorpusError: it does not exist, is of no kind that is read, or the system refuses.
    """
    try:
        if within is not None:
            place(root, within)
        status = root.stat()
    except Unreadable as bad:
        raise CorpusError(
            f"the source {str(root)!r} {bad.reason}", fix="Check the path and its permissions."
        ) from bad
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
            names = {entry.name for entry in list_folder(root, within)}
            (root / "corpus.jsonl").exists()  # a folder that lists its names may still be closed
        except (OSError, Unreadable) as error:
            reason = why(error) if isinstance(error, OSError) else error.reason
            raise CorpusError(
                f"the folder {str(root)!r} {reason}",
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
    if not is_readable(root):
        kind = f"the suffix {root.suffix!r}" if root.suffix else "no suffix"
        raise CorpusError(
            f"the file {str(root)!r} has {kind}; expected one of {READABLE}",
            fix="Convert it to one of these, or rename it if it is one.",
        )
    return False


def _log(problem: Problem) -> None:
    _logger.warning("not read: %s", problem)
