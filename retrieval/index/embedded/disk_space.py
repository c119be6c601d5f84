"""Space on the disk of an embedded collection."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from retrieval._files import os_errors
from retrieval.errors import DiskFull


def require_space(
    path: Path, need: int, reserve: int, free_space: Callable[[Path], int], action: str
) -> None:
    """Refuse to go on where a write could fill the disk: the engine maps its files into memory,
    and the system ends a process that writes to such a file on a full disk (SIGBUS).

    Raises:
        DiskFull: less than `need` + `reserve` bytes are free.
    """
    with os_errors(f"ask for the free space of {path}"):
        free = free_space(path)
    if free < need + reserve:
        kept = f" and {_megabytes(reserve)} are kept free for safety" if reserve else ""
        raise DiskFull(
            f"{_megabytes(free)} are free in {path}, but to {action} may take "
            f"{_megabytes(need)}{kept}",
            fix="Free some space on that disk, or use a store on another one; what was "
            "acknowledged before is kept, and an interrupted run can be repeated.",
        )


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write on the disk of `path`."""
    return shutil.disk_usage(path).free


def hole_bytes(files: Iterable[Path]) -> int:
    """Bytes that files have in length but do not take on the disk yet."""
    total = 0
    for file in files:
        found = file.stat()
        total += max(0, found.st_size - found.st_blocks * 512)
    return total


def folder_bytes(path: Path) -> int:
    """Bytes that the files below a folder take on the disk (they are sparse)."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with contextlib.suppress(FileNotFoundError):  # merged away meanwhile
                total += (Path(folder) / name).stat().st_blocks * 512
    return total


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
