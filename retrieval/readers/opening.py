"""Opening what a source names: no pipe blocks, and with `within` no link leads out of its folders.

    with opened(path, within) as file:
        text = file.read()

A check of a path says nothing about what is opened a moment later. So with `within`, links are
resolved first, the result must lie in one of the folders, and it is opened from there part by
part, each by the descriptor of the one before and without following a link: what is read lies
in the folder, whoever exchanges files for links meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias

from retrieval.errors import InvalidInput
from retrieval.readers.files import Unreadable, why

Within: TypeAlias = tuple[Path, ...] | None
"""Real paths of the folders whose files may be read; None where all may."""

SPECIAL = "is neither a file nor a folder (a pipe, socket or device)"
_OUTSIDE = (
    "is a link, or lies behind one, that leads out of the folders that may be read; it was not "
    "followed: put the file itself there"
)
_EXCHANGED = "was exchanged for a link while it was read; run this again"
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe that nobody writes to would block
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
_PASSED = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC | os.O_DIRECTORY


def real_folders(folders: Sequence[str | os.PathLike[str]] | None) -> Within:
    """Folders as `within` takes them, links resolved.

    Raises:
        InvalidInput: one folder instead of several: its letters would be taken for them.
    """
    if folders is None:
        return None
    if isinstance(folders, (str, os.PathLike)):
        raise InvalidInput(
            f"within is {str(folders)!r}, expected a list of folders",
            fix=f"Give [{str(folders)!r}].",
        )
    return tuple(Path(os.path.realpath(folder)) for folder in folders)


@contextlib.contextmanager
def opened(path: Path, within: Within) -> Iterator[BufferedReader]:
    """A regular file, at its start.

    Raises:
        Unreadable: it is none, lies elsewhere, or the system refuses; also while the block reads.
    """
    try:
        with os.fdopen(_descriptor(path, within, _FILE), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unreadable(SPECIAL)
            yield file
    except OSError as error:
        raise Unreadable(why(error)) from error


def list_folder(path: Path, within: Within) -> list[Path]:
    """What is in a folder.

    Raises:
        Unreadable: it lies elsewhere, or the system refuses.
    """
    try:
        if within is None:
            return list(path.iterdir())
        handle = _descriptor(path, within, _FOLDER)
        try:
            return [path / name for name in os.listdir(handle)]  # noqa: PTH208  (a descriptor)
        finally:
            os.close(handle)
    except OSError as error:
        raise Unreadable(why(error)) from error


def look(path: Path, within: Within) -> os.stat_result:
    """What a path leads to; of what lies elsewhere not even whether it is there.

    Raises:
        Unreadable: it lies elsewhere, or the system refuses.
    """
    try:
        if within is not None:
            place(path, within)
        return path.stat()
    except OSError as error:
        raise Unreadable(why(error)) from error


def _descriptor(path: Path, within: Within, flags: int) -> int:
    if within is None:
        _refuse_special(path.stat())
        return os.open(path, flags)
    root, parts = place(path, within)
    if not parts:
        return os.open(root, flags | os.O_NOFOLLOW)
    handle = os.open(root, _PASSED | os.O_NOFOLLOW)
    try:
        for part in parts[:-1]:
            handle = _stepped(handle, part, _PASSED)
        _refuse_special(os.stat(parts[-1], dir_fd=handle, follow_symlinks=False))
        handle = _stepped(handle, parts[-1], flags)
    except BaseException:
        os.close(handle)
        raise
    return handle


def place(path: Path, within: tuple[Path, ...]) -> tuple[Path, tuple[str, ...]]:
    """The one of the folders that a path really lies in, and the parts of its way from there.

    Raises:
        Unreadable: it lies in none.
    """
    real = Path(os.path.realpath(path))
    for root in within:
        if real.is_relative_to(root):
            return root, real.relative_to(root).parts
    raise Unreadable(_OUTSIDE)


def _stepped(handle: int, part: str, flags: int) -> int:
    """The descriptor of a part below `handle`, which is closed."""
    try:
        following = os.open(part, flags | os.O_NOFOLLOW, dir_fd=handle)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
            raise Unreadable(_EXCHANGED) from error
        raise
    os.close(handle)
    return following


def _refuse_special(status: os.stat_result) -> None:
    """Opening a device may already do something."""
    if stat.S_ISLNK(status.st_mode):
        raise Unreadable(_EXCHANGED)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise Unreadable(SPECIAL)
