"""One owner of a collection at a time, and a plain word on who it is."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from retrieval._files import os_errors
from retrieval.errors import StoreLocked

LOCK = "lock"


class CollectionLock:
    """One owner of a collection: an flock, freed by the system when the process ends."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    @classmethod
    def acquire(cls, path: Path) -> CollectionLock:
        """Become the owner of the collection in the folder `path`.

        Raises:
            StoreLocked: it has one; the message says which process.
        """
        file = path / LOCK
        with os_errors(f"lock the collection {path}"):
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.stat()  # it may have been deleted between opening and locking
            except BlockingIOError:
                owner = _owner(handle)
                os.close(handle)
                raise locked(path, owner) from None
            except BaseException:
                os.close(handle)
                raise
        me = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        # who holds it is for messages only: a full disk must not keep a collection from opening
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(me).encode(), 0)
        return cls(handle)

    def is_of(self, path: Path) -> bool:
        """Whether the folder `path` is the one that was locked: not removed, nor another now."""
        if self._handle is None:
            return False
        try:
            there = (path / LOCK).stat()
        except OSError:
            return False
        return os.path.samestat(os.fstat(self._handle), there)

    def release(self) -> None:
        """Give the collection up; a second call does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            # closing is enough, and unlike LOCK_UN does not free the parent's lock after a fork
            os.close(handle)

    def __del__(self) -> None:
        self.release()


def locked(path: Path, owner: dict[str, object] | None = None) -> StoreLocked:
    """The error for a collection that is open elsewhere."""
    what = f"the collection {path.name!r} in {path.parent}"
    pid = (owner or {}).get("pid")
    since = f" since {owner['since']}" if owner and "since" in owner else ""
    if pid == os.getpid():
        return StoreLocked(
            f"{what} is already open in this process{since}",
            fix="Use the index that is open, or close() it first.",
        )
    if isinstance(pid, int) and owner and owner.get("host") == socket.gethostname():
        if not _alive(pid):
            return StoreLocked(
                f"{what} was opened by process {pid}, which has ended, but a process forked "
                "from it still holds it",
                fix="End that process, then try again.",
            )
        who = f"process {pid}"
    else:
        who = f"process {pid} on {owner['host']}" if owner and pid else "another process"
    return StoreLocked(
        f"{what} is open in {who}{since}; the embedded engine allows one process at a time",
        fix="Wait until it ends or stop it, or let one process serve the collection (or a Qdrant "
        "server) to all others.",
    )


def _owner(handle: int) -> dict[str, object] | None:
    try:
        owner = json.loads(os.pread(handle, 1_000, 0))
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
