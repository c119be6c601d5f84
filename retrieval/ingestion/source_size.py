"""How large a source is, so that a run can say how long it will take."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from retrieval.readers.opening import real_folders
from retrieval.readers.options import ReadOptions
from retrieval.readers.walking import walk
from retrieval.types import Document

_LINE = re.compile(r":\d+$")


class SourceSize:
    """Which share of a file or folder has been read, by bytes of its files.

    The files are counted in a separate thread, while reading has begun already.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        within: Sequence[str | os.PathLike[str]] | None = None,
        options: ReadOptions | None = None,
    ) -> None:
        self._root = Path(source)
        self._within = real_folders(within)
        self._options = options or ReadOptions()
        self._suffixes: set[str] = set()
        self._bytes: dict[str, int] = {}
        self._counted = False
        self._stopped = False
        self._path = ""
        self._file = 0
        self._file_read = 0
        self._before = 0

    def start(self) -> None:
        """Begin to count."""
        threading.Thread(target=self._count, name="retrieval-size", daemon=True).start()

    def stop(self) -> None:
        """Stop counting."""
        self._stopped = True

    def read(self, document: Document) -> None:
        """Note a document that was read, in the order of reading."""
        path = _LINE.sub("", document.source)
        if path != self._path:
            self._before += self._file
            self._path, self._file_read = path, 0
            try:
                self._file = os.stat(path).st_size  # noqa: PTH116  (a str, once per file)
            except (OSError, ValueError):
                self._file = 0
            self._suffixes.add(os.path.splitext(path)[1].lower())  # noqa: PTH122
        self._file_read += len(document.text) + 20

    def share(self) -> float | None:
        """From above 0 to 1; None while it is unknown."""
        if not self._counted:
            return None
        # Only files of kinds that documents came from: a folder may hold films, too.
        total = sum(self._bytes.get(suffix, 0) for suffix in tuple(self._suffixes))
        read = self._before + min(self._file, self._file_read)
        return min(1.0, read / total) if total and read else None

    def _count(self) -> None:
        with suppress(OSError):  # then the share stays unknown
            if self._root.is_file():
                self._add(self._root, self._root.stat().st_size)
            else:
                files = walk(self._root, lambda path, reason: None, self._within, self._options)
                for path, status in files:
                    if self._stopped:
                        return
                    self._add(path, status.st_size)
            self._counted = True

    def _add(self, path: Path, size: int) -> None:
        suffix = path.suffix.lower()
        self._bytes[suffix] = self._bytes.get(suffix, 0) + size
