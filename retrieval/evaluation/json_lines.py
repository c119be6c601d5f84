"""Writing files of JSON lines: appended to, each line on disk at once, or replaced whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from retrieval._files import os_errors
from retrieval.evaluation.trec import write_atomically


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add a line of JSON; it is on disk when this returns.

    Raises:
        DiskFull, StoreDenied, StoreFault: it could not be written.
    """
    line = f"{json.dumps(record, ensure_ascii=False)}\n".encode()
    with os_errors(f"write {path}"), path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def drop_torn_end(path: Path) -> None:
    """Cut off a last line without an end, so that what is appended begins a line of its own."""
    with os_errors(f"repair {path}"):
        if not path.exists():
            return
        with path.open("r+b") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
                file.flush()
                os.fsync(file.fileno())


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file of JSON lines."""
    lines = (f"{json.dumps(record, ensure_ascii=False)}\n" for record in records)
    write_atomically(path, lambda file: file.writelines(lines))
