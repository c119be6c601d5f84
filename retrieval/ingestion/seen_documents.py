"""The ids and content digests of the documents that a run has seen, in a temporary file."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator

from retrieval.errors import DiskFull, StoreFault

_CACHE_KIB = 16 * 1024
_PAGE = 500


class SeenDocuments:
    """Ids, contents and files of one run. Memory is bounded; the file goes with the run.

    SQLite's private temporary database (the name "") is in the system's folder for temporary
    files, is gone when the process is, however it ends, and stays in memory while it is small.
    Ids and paths are kept as 128-bit digests.
    """

    def __init__(self) -> None:
        # Used by one thread after the other, never by two at once.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        with _sqlite_errors():
            for setting in (
                "journal_mode = OFF",
                "synchronous = OFF",
                "temp_store = FILE",
                f"cache_size = -{_CACHE_KIB}",
            ):
                self._db.execute(f"PRAGMA {setting}")
            for table in (
                "ids (key BLOB PRIMARY KEY) WITHOUT ROWID",
                "files (key BLOB PRIMARY KEY) WITHOUT ROWID",
                "contents (key BLOB PRIMARY KEY, id BLOB) WITHOUT ROWID",
                "gone (id TEXT PRIMARY KEY, verdict INTEGER) WITHOUT ROWID",
            ):
                self._db.execute(f"CREATE TABLE {table}")
            # One transaction for everything: there is nothing to roll back to.
            self._db.execute("BEGIN")

    def add_id(self, document_id: str) -> bool:
        """Whether the id is seen for the first time."""
        return self._add("ids", document_id)

    def has_ids(self, document_ids: list[str]) -> set[str]:
        """Those of the ids that were seen."""
        keys = {_digest(one): one for one in document_ids}
        marks = ",".join("?" * len(keys))
        with _sqlite_errors():
            rows = self._db.execute(f"SELECT key FROM ids WHERE key IN ({marks})", list(keys))
            return {keys[key] for (key,) in rows}

    def add_file(self, path: str) -> None:
        """A file that a document came from."""
        self._add("files", path)

    def has_file(self, path: str) -> bool:
        """Whether a document came from it."""
        with _sqlite_errors():
            found = self._db.execute("SELECT 1 FROM files WHERE key = ?", [_digest(path)])
            return found.fetchone() is not None

    def add_content(self, text: str, document_id: str) -> str | None:
        """The id of the document that had this text before; None for the first."""
        key, own = _digest(text), document_id.encode("utf-8", "surrogatepass")
        with _sqlite_errors():
            added = self._db.execute("INSERT OR IGNORE INTO contents VALUES (?, ?)", [key, own])
            if added.rowcount:
                return None
            found = self._db.execute("SELECT id FROM contents WHERE key = ?", [key]).fetchone()
        return str(found[0].decode("utf-8", "surrogatepass"))

    def judge(self, verdicts: dict[str, int]) -> None:
        """Note what becomes of documents; of several verdicts on one the greatest holds."""
        with _sqlite_errors():
            self._db.executemany(
                "INSERT INTO gone VALUES (?, ?) ON CONFLICT (id) DO UPDATE "
                "SET verdict = max(verdict, excluded.verdict)",
                list(verdicts.items()),
            )

    def judged(self, verdict: int) -> Iterator[list[str]]:
        """The documents of one verdict, in id order, a page at a time."""
        after = ""
        while True:
            with _sqlite_errors():
                rows = self._db.execute(
                    "SELECT id FROM gone WHERE verdict = ? AND id > ? ORDER BY id LIMIT ?",
                    [verdict, after, _PAGE],
                ).fetchall()
            if not rows:
                return
            yield [one for (one,) in rows]
            after = rows[-1][0]

    def count(self, verdict: int) -> int:
        """How many documents have a verdict."""
        with _sqlite_errors():
            found = self._db.execute("SELECT count(*) FROM gone WHERE verdict = ?", [verdict])
            return int(found.fetchone()[0])

    def close(self) -> None:
        """Drop everything."""
        self._db.close()

    def _add(self, table: str, text: str) -> bool:
        with _sqlite_errors():
            added = self._db.execute(f"INSERT OR IGNORE INTO {table} VALUES (?)", [_digest(text)])
            return added.rowcount == 1


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@contextlib.contextmanager
def _sqlite_errors() -> Iterator[None]:
    """The one place where SQLite's errors become the library's."""
    try:
        yield
    except sqlite3.Error as error:
        if "full" in str(error):
            raise DiskFull(
                "no space left for the list of documents seen in this run, which lies in the "
                "folder for temporary files",
                fix="Free some space there, or name another folder in SQLITE_TMPDIR; what was "
                "acknowledged before is kept, run again to go on.",
            ) from error
        raise StoreFault(
            f"the list of documents seen in this run could not be kept ({error})",
            fix="Check the folder for temporary files (TMPDIR); what was acknowledged before is "
            "kept, run again to go on.",
        ) from error
