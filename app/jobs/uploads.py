"""Uploaded files → documents, each file parsed by a process with limits (`app.jobs.parse_worker`).

What a client calls a file is kept as its documents' source and never used as a path. A file that
cannot be parsed, crashes its parser, or needs too much time or memory is a problem of that file.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from app.batching.deadline import Cancelled
from app.jobs.parse_worker import OUT_OF_MEMORY
from retrieval import Document
from retrieval.types import Problem

WORKER = (sys.executable, "-P", "-m", "app.jobs.parse_worker")
MOST_NAME = 200
MOST_SUFFIX = 12
_LOOK_SECONDS = 0.1
_READ_BYTES = 1 << 16
# Of the service's environment, which may hold keys.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH")

ProblemCallback = Callable[[Problem], None]


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """Of one file. seconds: by the clock and of computing. output_mb: of what is read from it."""

    seconds: float = 120.0
    memory_mb: int = 2048
    output_mb: float = 512.0


def read_uploads(
    files: Sequence[tuple[str, Path]],
    limits: ParseLimits,
    *,
    on_problem: ProblemCallback,
    cancelled: threading.Event | None = None,
    worker: Sequence[str] = WORKER,
) -> Generator[Document, None, None]:
    """The documents of uploaded files, in their order.

    Args:
        files: (name given by the client, where the upload is; its suffix there says its kind).
        limits: of each file.
        on_problem: called with what cannot be read, under the name that the client gave.
        cancelled: once set, the worker is killed.
        worker: the command that reads a file.

    Raises:
        Cancelled: `cancelled` was set.
    """
    names: set[str] = set()
    ids: set[str] = set()
    for given, path in files:
        name = safe_name(given)
        if name in names:
            on_problem(Problem(name, "was uploaded more than once; the first file is kept"))
            continue
        names.add(name)
        if path.is_symlink() or not path.is_file():
            on_problem(Problem(name, "is not a regular file"))
            continue
        for document in _one(name, path, limits, on_problem, cancelled, worker):
            if document.id in ids:
                reason = f"the document id {document.id!r} was read before; the first is kept"
                on_problem(Problem(document.source or name, reason))
                continue
            ids.add(document.id)
            yield document


def safe_name(given: str) -> str:
    """A name as it can be shown and stored: its last part, without control characters."""
    text = given.encode("utf-8", "replace").decode("utf-8")
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", text))[-1]
    # Cc, Cf, Cs, Co, Cn: control and format characters, which also turn the direction of writing.
    shown = "".join(c for c in last if unicodedata.category(c)[0] != "C").strip(" .")
    if len(shown) > MOST_NAME:
        suffix = safe_suffix(shown)
        shown = shown[: MOST_NAME - len(suffix)] + suffix
    return shown or "upload"


def safe_suffix(name: str) -> str:
    """The suffix of a client's file name, for the file's own name here; empty for strange ones."""
    found = re.search(r"\.[A-Za-z0-9]+$", name)
    return found[0].lower() if found and len(found[0]) <= MOST_SUFFIX else ""


def _one(
    name: str,
    path: Path,
    limits: ParseLimits,
    on_problem: ProblemCallback,
    cancelled: threading.Event | None,
    worker: Sequence[str],
) -> Iterator[Document]:
    read = 0
    lines = _Worker(path, limits, cancelled, worker).lines()
    try:
        for line in lines:
            if "document" in line:
                document = _document(line["document"], path.name, name)
                read += 1
                yield document
            else:
                on_problem(_problem(line["problem"], path.name, name))
    except _Failed as failed:
        kept = f"; {read:,} documents read before that are kept" if read else ""
        on_problem(Problem(name, f"{failed}{kept}"))
    finally:
        lines.close()


class _Failed(Exception):
    """Why a worker failed."""


class _Worker:
    """One process that reads one file; its lines, until its last one."""

    def __init__(
        self,
        path: Path,
        limits: ParseLimits,
        cancelled: threading.Event | None,
        command: Sequence[str],
    ) -> None:
        self._path = path
        self._limits = limits
        self._cancelled = cancelled
        self._command = command

    def lines(self) -> Generator[dict[str, Any], None, None]:
        """What it writes.

        Raises:
            _Failed: it crashed, or went over a limit.
            Cancelled
        """
        with tempfile.TemporaryFile() as stderr:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=self._path.parent,
                env=_environment(),
                start_new_session=True,
            )
            try:
                yield from self._followed(process)
            finally:
                _kill(process)

    def _followed(self, process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
        assert process.stdin is not None
        assert process.stdout is not None
        limits = self._limits
        order = {
            "path": self._path.name,
            "memory_mb": limits.memory_mb,
            "seconds": limits.seconds,
        }
        # Fits into the pipe, so it cannot block; a worker that has ended already does not matter.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.close()
        buffer = bytearray()
        for part in self._parts(process, process.stdout):
            buffer += part
            if b"\n" not in part:
                continue
            whole, _, rest = bytes(buffer).rpartition(b"\n")
            buffer = bytearray(rest)
            for line in whole.split(b"\n"):
                value = _value(line)
                if "done" in value:
                    return
                yield value
        raise _Failed(self._why(process))

    def _parts(self, process: subprocess.Popen[bytes], out: IO[bytes]) -> Iterator[bytes]:
        """Pieces of the output; time that is spent with a piece elsewhere does not count."""
        left, total = self._limits.seconds, 0
        with selectors.DefaultSelector() as selector:
            selector.register(out, selectors.EVENT_READ)
            while True:
                if self._cancelled is not None and self._cancelled.is_set():
                    raise Cancelled
                if left <= 0:
                    raise _Failed(self._too_slow())
                began = time.monotonic()
                ready = selector.select(min(left, _LOOK_SECONDS))
                part = os.read(out.fileno(), _READ_BYTES) if ready else b""
                left -= time.monotonic() - began
                if ready and not part:
                    return
                total += len(part)
                if total > self._limits.output_mb * 1e6:
                    raise _Failed(
                        f"gives more than {self._limits.output_mb:g} MB of text; split it"
                    )
                if part:
                    yield part

    def _why(self, process: subprocess.Popen[bytes]) -> str:
        """Why a worker that has closed its output without a last line did so."""
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "its parser closed its output before its end"
        if code == OUT_OF_MEMORY:
            return f"needs more than {self._limits.memory_mb:,} MB of memory to be parsed; split it"
        if code == -signal.SIGXCPU:
            return self._too_slow()
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"crashed its parser ({signal.Signals(-code).name}); it may be damaged"
        return f"crashed its parser (exit code {code}); it may be damaged"

    def _too_slow(self) -> str:
        return f"takes longer than {self._limits.seconds:g} s to be parsed; split it"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a worker and all that it may have started, and wait for it."""
    # Its group lives on after it where it has started others.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()


def _environment() -> dict[str, str]:
    """What a worker needs of the environment: no keys, and where this package is."""
    found = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    found["OPENBLAS_NUM_THREADS"] = "1"  # each thread would take its own memory
    found["MALLOC_ARENA_MAX"] = "1"  # and so would each of the C library's arenas
    here = str(Path(__file__).resolve().parents[2])
    found["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [found.get("PYTHONPATH")])])
    return found


def _value(line: bytes) -> dict[str, Any]:
    """One line. What a parser that was taken over may write is not trusted."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not {"document", "problem", "done"} & value.keys():
        raise _Failed("crashed its parser (its output is not a document); it may be damaged")
    return value


def _document(fields: Mapping[str, Any], stored: str, name: str) -> Document:
    try:
        document = Document(**{**fields, "pages": tuple(fields["pages"])})
        metadata = dict(document.metadata)
        texts = (document.id, document.text, document.title, document.source)
        good = all(isinstance(text, str) for text in texts)
    except (TypeError, ValueError, KeyError):
        good = False
    if not good:
        raise _Failed("crashed its parser (its output is not a document); it may be damaged")
    if metadata.get("path") == stored:
        metadata["path"] = name
    return replace(
        document,
        id=_renamed(document.id, stored, name),
        source=_renamed(document.source, stored, name),
        metadata=metadata,
    )


def _problem(fields: Mapping[str, Any], stored: str, name: str) -> Problem:
    reason = str(fields["reason"]).replace(stored, name)
    return Problem(_renamed(str(fields["source"]), stored, name), reason, fields["line"])


def _renamed(text: str, stored: str, name: str) -> str:
    """With the client's name in place of the one the file has here: `0001.csv#7`, `0001.csv:7`."""
    if text == stored or text.startswith((f"{stored}#", f"{stored}:")):
        return name + text[len(stored) :]
    return text
