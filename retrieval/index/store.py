"""The folder of the embedded engine: names, one-owner locks, creation and deletion, free space.

    <store>/<collection>/manifest.json   what built it
    <store>/<collection>/lock            held (flock) while a process has the collection open
    <store>/<collection>/shard/          Qdrant Edge's files

A collection appears under its name in one rename, when it is whole, and goes in one rename too:
a killed create or delete leaves only a folder whose name starts with a dot, swept by the next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    DiskFull,
    InvalidInput,
    RetrievalError,
)
from retrieval.types import Manifest

from .lock import LOCK, CollectionLock
from .manifest import (
    COLLECTION_NAME,
    check_name,
    os_errors,
    read_manifest_file,
    sync_directory,
    write_manifest,
)

MANIFEST, SHARD = "manifest.json", "shard"
_UNFINISHED = (".creating-", ".deleting-")
_SWEEP_AGE_S = 60.0


def list_collections(store: Path | str) -> list[str]:
    """Names of the store's collections, sorted; none where there is no such folder.

    Raises:
        InvalidInput: the path is a file.
        StoreDenied: the folder may not be read.
    """
    root = _store_path(store)
    with os_errors(f"list the store {root}"):
        if not root.exists():
            return []
        return sorted(
            entry.name
            for entry in root.iterdir()
            if COLLECTION_NAME.fullmatch(entry.name) and (entry / MANIFEST).is_file()
        )


def collection_path(store: Path | str, collection: str) -> Path:
    """The folder of a collection that exists.

    Raises:
        CollectionNotFound: there is none of that name; the message lists those there are.
    """
    root = _store_path(store)
    path = root / check_name(collection)
    with os_errors(f"read the store {root}"):
        # a folder without a manifest but with a shard was a collection once: opening it says so
        if (path / MANIFEST).exists() or (path / SHARD).is_dir():
            return path
    names = list_collections(root)
    if names:
        known = "it holds " + ", ".join(repr(name) for name in names)
    else:
        known = "it holds no collections" if root.exists() else "there is no such folder yet"
    raise CollectionNotFound(
        f"there is no collection {collection!r} in the store {root}: {known}",
        fix="Check the name and the store, or make it first: retrieval index PATH.",
    )


def read_manifest(store: Path | str, collection: str) -> Manifest:
    """What built a collection, also while another process has it open.

    Raises:
        CollectionNotFound, ManifestCorrupt, ManifestMismatch, StoreDenied
    """
    return read_manifest_file(collection_path(store, collection) / MANIFEST)


def delete_collection(store: Path | str, collection: str) -> None:
    """Delete a collection and all it holds, also one whose manifest cannot be read.

    Raises:
        CollectionNotFound: there is none of that name.
        StoreLocked: it is open here or in another process.
    """
    path = collection_path(store, collection)
    lock = CollectionLock.acquire(path)
    try:
        with os_errors(f"delete the collection {path}"):
            gone = path.with_name(f".deleting-{collection}-{uuid.uuid4().hex}")
            path.rename(gone)
            sync_directory(path.parent)
            shutil.rmtree(gone)
    finally:
        lock.release()
    _sweep(path.parent)


def create_folder(
    store: Path | str, manifest: Manifest, build: Callable[[Path], None]
) -> tuple[Path, CollectionLock]:
    """Make a collection's folder, whole or not at all, and hold its lock.

    Args:
        store: made where it does not exist.
        manifest: names the collection.
        build: makes the engine's files in the folder it is given, and leaves them closed.

    Raises:
        CollectionExists: there is something of that name already; it was not touched.
    """
    root = _store_path(store)
    target = root / check_name(manifest.collection)
    with os_errors(f"create the collection {target}"):
        root.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise _exists(target)
        _sweep(root)
        temporary = root / f".creating-{manifest.collection}-{uuid.uuid4().hex}"
        temporary.mkdir()
        lock: CollectionLock | None = None
        try:
            lock = CollectionLock.acquire(temporary)
            build(temporary / SHARD)
            write_manifest(temporary / MANIFEST, manifest)
            try:
                temporary.rename(target)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise _exists(target) from None
                raise
            sync_directory(root)
        except BaseException:
            if lock is not None:
                lock.release()
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return target, lock


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


def _sweep(root: Path) -> None:
    """Remove what killed creations and deletions left behind; live ones hold their lock."""
    with contextlib.suppress(OSError):
        for entry in root.iterdir():
            if not entry.name.startswith(_UNFINISHED):
                continue
            with contextlib.suppress(RetrievalError, OSError):
                if (
                    time.time() - entry.stat().st_mtime < _SWEEP_AGE_S
                    and not (entry / LOCK).exists()
                ):
                    continue  # its owner may be about to lock it
                CollectionLock.acquire(entry).release()
                shutil.rmtree(entry, ignore_errors=True)


def _store_path(store: Path | str) -> Path:
    path = Path(store).absolute()  # the process may change its folder later
    with os_errors(f"read the store {path}"):
        if path.exists() and not path.is_dir():
            raise InvalidInput(
                f"the store {path} is a file, expected a folder",
                fix="Give a folder; it is made where it does not exist.",
            )
    return path


def _exists(path: Path) -> CollectionExists:
    return CollectionExists(
        f"there is already something called {path.name!r} in the store {path.parent}",
        fix="Open it, choose another name, or delete it first. Nothing was changed.",
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
