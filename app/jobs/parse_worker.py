"""Read one uploaded file in its own process, so that a parser can harm nothing else.

    {"path": "0001.pdf", "memory_mb": 2048, "seconds": 120}        one line of JSON on stdin
    {"document": {…}} | {"problem": {…}} … {"done": true}          lines of JSON on stdout

`app.jobs.uploads` starts it and kills it. The limits are set before the file is looked at, and are
for what reading it takes beyond the process itself; a worker that ends without its last line has
failed. Needs a POSIX system.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from retrieval import Document

OUT_OF_MEMORY = 70
"""The exit code of a worker that reached its limit of memory."""

_PR_SET_PDEATHSIG = 1
_LARGEST_FILE_WRITTEN = 64 * 1024 * 1024
_MOST_FILES_OPEN = 64

Read = Callable[..., Iterator[Any]]


def main(read: Read | None = None) -> int:
    """Read the file that stdin names; the exit code.

    Args:
        read: as `retrieval.read_documents`, which is used where it is None.
    """
    order = json.loads(sys.stdin.readline())
    # Parsers may print: what they do goes to stderr, and the lines have their own stream.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    from retrieval import read_documents

    _limit(int(order["memory_mb"]), float(order["seconds"]))
    try:
        _read(Path(order["path"]), out, read or read_documents)
    except MemoryError:
        # Without unwinding further: there may be no memory to do it with.
        os._exit(OUT_OF_MEMORY)
    _line(out, {"done": True})
    out.close()
    return 0


def document_fields(document: Document) -> dict[str, Any]:
    """The fields of a document, as JSON has them."""
    return {
        "id": document.id,
        "text": document.text,
        "title": document.title,
        "metadata": dict(document.metadata),
        "source": document.source,
        "pages": list(document.pages),
    }


def _read(path: Path, out: TextIO, read: Read) -> None:
    from retrieval.errors import RetrievalError

    def problem(source: str, reason: str, line: int | None) -> None:
        _line(out, {"problem": {"source": source, "reason": reason, "line": line}})

    try:
        for document in read(
            path, on_problem=lambda one: problem(one.source, one.reason, one.line)
        ):
            _line(out, {"document": document_fields(document)})
    except RetrievalError as error:
        problem(str(path), str(error), None)


def _line(out: TextIO, value: dict[str, Any]) -> None:
    # ASCII-escaped, so that any text from a parser can be written.
    out.write(json.dumps(value) + "\n")
    # At once: what was read before a parser fails is kept.
    out.flush()


def _limit(memory_mb: int, seconds: float) -> None:
    memory = _address_space() + memory_mb * 1024 * 1024
    # The parent looks at the clock; this holds also where there is no parent any more.
    cpu = math.ceil(time.process_time() + seconds) + 1
    for kind, soft, hard in (
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, _LARGEST_FILE_WRITTEN, _LARGEST_FILE_WRITTEN),
        (resource.RLIMIT_NOFILE, _MOST_FILES_OPEN, _MOST_FILES_OPEN),
    ):
        _, ceiling = resource.getrlimit(kind)
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))
    if sys.platform == "linux":
        # A service that is killed takes its worker with it.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _address_space() -> int:
    """Bytes that this process has mapped already; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
