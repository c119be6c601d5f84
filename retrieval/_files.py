"""Files that appear whole or not at all, also after a crash of the machine.

    with os_errors(f"write {path}"), atomic_write(path) as file:
        json.dump(value, file)

A process that is killed while it writes leaves a file `.NAME.….tmp` beside the target. Nothing
reads it and nothing sweeps it: it might be another process's that is still at work.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, TextIO, overload

from retrieval.errors import DiskFull, StoreDenied, StoreFault


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A new path beside `target`, for a file that takes the target's name when the block ends.

    The block makes the file. It and its folder are on disk when the `with` statement is left;
    after an error in the block nothing is left behind and an older target is unchanged.

    Raises:
        OSError: the file cannot be made durable, or cannot get its name.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@overload
def atomic_write(
    target: str | os.PathLike[str], mode: Literal["w"] = "w", *, permissions: int = 0o666
) -> contextlib.AbstractContextManager[TextIO]: ...
@overload
def atomic_write(
    target: str | os.PathLike[str], mode: Literal["wb"], *, permissions: int = 0o666
) -> contextlib.AbstractContextManager[IO[bytes]]: ...
@contextlib.contextmanager
def atomic_write(
    target: str | os.PathLike[str], mode: Literal["w", "wb"] = "w", *, permissions: int = 0o666
) -> Iterator[Any]:
    """An open file, UTF-8 with `\\n` or binary, that replaces `target` when the block ends.

    Args:
        target: the file's final place; its folder must exist.
        mode: "w" for text, "wb" for bytes.
        permissions: of a new file, less the process' umask, from its first byte on.

    Raises:
        OSError: the file cannot be written; an older target is unchanged.
    """
    text: dict[str, Any] = {} if mode == "wb" else {"encoding": "utf-8", "newline": "\n"}
    with atomic_path(target) as path:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with os.fdopen(os.open(path, flags, permissions), mode, **text) as file:
            yield file


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make names in a folder durable: files that were made, renamed or deleted there."""
    if os.name == "nt":  # a folder cannot be opened there; NTFS keeps a journal of names
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        # some network file systems refuse to sync a folder; they order renames themselves
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def os_errors(action: str) -> Iterator[None]:
    """Raise the library's error for what the operating system refuses while doing `action`.

    Raises:
        StoreDenied: no permission.
        DiskFull: no space, or the user's quota is used up.
        StoreFault: any other reason.
    """
    try:
        yield
    except OSError as error:
        raise os_error(error, action) from error


def os_error(error: OSError, action: str) -> StoreDenied | DiskFull | StoreFault:
    """The library's error for one of the operating system's, see `os_errors`."""
    reason = error.strerror or str(error)
    if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
        return StoreDenied(
            f"no permission to {action} ({reason})",
            fix="Give this user read and write access there, or choose another place.",
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"no space left to {action} ({reason})",
            fix="Free some space on that disk, or choose a place on another one; what was "
            "acknowledged before is kept.",
        )
    if isinstance(error, NotADirectoryError):
        return StoreFault(
            f"could not {action} ({reason})",
            fix="A part of that path is a file: choose a place in a folder.",
        )
    return StoreFault(
        f"could not {action} ({reason})",
        fix="Check that the path is right and the disk mounted and healthy, then try again.",
    )
