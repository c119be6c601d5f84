"""The folder of the embedded engine: names, one-owner locks, creation and deletion, free space.

    <store>/<collection>/manifest.json   what built it
    <store>/<collection>/lock            held (flock) while a process has the collection open
    <store>/<collection>/shard/          Qdrant Edge's files
    <store>/<collection>@v2/             another version of it, see aliases.py
    <store>/@aliases.json                which version a name means

A collection appears under its name in one rename, when it is whole, and goes in one rename too:
a killed create or delete leaves only a folder whose name starts with a dot, swept by the next.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from retrieval._files import os_errors, sync_folder
from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidInput,
    ManifestCorrupt,
    RetrievalError,
)
from retrieval.index.embedded.aliases import (
    changing_aliases,
    locked_aliases,
    read_aliases,
    version_folder,
)
from retrieval.index.embedded.lock import LOCK, CollectionLock
from retrieval.index.embedded.new_names import check_new_name, is_called
from retrieval.index.manifest import (
    COLLECTION_NAME,
    check_name,
    read_manifest_file,
    split_name,
    version_name,
    write_manifest,
)
from retrieval.types import Manifest

MANIFEST, SHARD = "manifest.json", "shard"
_UNFINISHED = (".creating-", ".deleting-")
_SWEEP_AGE_S = 60.0


def list_collections(store: Path | str) -> list[str]:
    """Names of the store's collections, sorted, versions left out; none where there is no folder.

    Raises:
        InvalidInput: the path is a file.
        StoreDenied: the folder may not be read.
    """
    root = _store_path(store)
    with os_errors(f"list the store {root}"):
        if not root.exists():
            return []
        plain = {
            entry.name
            for entry in root.iterdir()
            if COLLECTION_NAME.fullmatch(entry.name) and (entry / MANIFEST).is_file()
        }
        aliased = {
            name for name, to in read_aliases(root).items() if version_folder(root, to).is_dir()
        }
        return sorted(plain | aliased)


def list_versions(store: Path | str, collection: str) -> list[str]:
    """A collection's versions, oldest first: `docs@v1`, `docs@v2` …

    Raises:
        InvalidInput, StoreDenied
    """
    root = _store_path(store)
    check_name(collection)
    found = {
        split_name(entry.name)[1] or 1
        for entry in _entries(root)
        if _collection_of(entry) == collection and _is_own(entry)
    }
    return [version_name(collection, version) for version in sorted(found)]


def list_foreign(store: Path | str, collection: str | None = None) -> list[str]:
    """Folders that this library did not make for the name they have, sorted; they are left alone.

    Those called like a collection or its versions; of a whole store, whose other folders may be
    anything, those called like a version and those that have a manifest.

    Raises:
        InvalidInput, StoreDenied
    """
    root = _store_path(store)

    def asked(entry: Path) -> bool:
        if collection is not None:
            return _collection_of(entry) == collection
        return split_name(entry.name)[1] is not None or (entry / MANIFEST).is_file()

    found = [one for one in _entries(root) if asked(one) and one.is_dir()]
    return sorted(one.name for one in found if not _is_own(one))


def next_version(store: Path | str, collection: str) -> str:
    """A name for the next version of a collection, which nothing in the store has.

    Raises:
        InvalidInput, StoreDenied
    """
    root = _store_path(store)
    check_name(collection)
    named = [one.name for one in _entries(root) if _collection_of(one) == collection]
    taken = [split_name(name)[1] or 1 for name in [*named, *read_aliases(root).values()]
             if split_name(name)[0] == collection]  # fmt: skip
    return version_name(collection, max(taken, default=0) + 1)


def _entries(root: Path) -> list[Path]:
    """What in a store is named as a collection or a version could be."""
    with os_errors(f"list the store {root}"):
        return [one for one in root.iterdir() if _collection_of(one)] if root.exists() else []


def _collection_of(entry: Path) -> str:
    """The collection that a folder's name names; empty where it names none."""
    with contextlib.suppress(InvalidInput):
        return split_name(entry.name)[0]
    return ""


def _is_own(entry: Path) -> bool:
    """Whether a folder has a manifest, also a damaged one, unless that names another collection."""
    path = entry / MANIFEST
    if not path.is_file():
        return False
    with contextlib.suppress(RetrievalError):
        return read_manifest_file(path).collection == _collection_of(entry)
    return True


def current(store: Path | str, collection: str) -> str:
    """The version that searches of a collection use.

    Raises:
        CollectionNotFound: the message lists the collections there are.
    """
    collection_path(store, collection)
    return _resolved(_store_path(store), collection)


def switch(store: Path | str, collection: str, physical: str) -> str:
    """Let searches of a collection use one version of it from now on, in one step.

    Returns:
        The version that was used before.

    Raises:
        CollectionNotFound: there is no such version; the message lists those there are.
    """
    root = _store_path(store)
    versions = list_versions(root, collection)
    if physical not in versions:
        raise unknown_version(collection, physical, versions, f"the store {root}")
    before = read_aliases(root).get(collection, version_name(collection, 1))
    with changing_aliases(root) as aliases:
        if version_folder(root, physical).name == collection:
            aliases.pop(collection, None)
        else:
            aliases[collection] = physical
    return before


def unknown_version(
    collection: str, physical: str, versions: list[str], where: str
) -> CollectionNotFound:
    """The error for a version that is not there."""
    known = ", ".join(map(repr, versions)) if versions else "none"
    return CollectionNotFound(
        f"{physical!r} is not a version of the collection {collection!r} in {where}; there are: "
        f"{known}",
        fix="Name one of them, or build a new one: retrieval reindex PATH.",
    )


def collection_path(store: Path | str, name: str) -> Path:
    """The folder of a collection that exists: its current version, or the version named.

    Raises:
        CollectionNotFound: there is none of that name; the message lists those there are.
    """
    root = _store_path(store)
    path = version_folder(root, _resolved(root, name))
    with os_errors(f"read the store {root}"):
        # a folder without a manifest but with a shard was a collection once: opening it says so
        if ((path / MANIFEST).exists() or (path / SHARD).is_dir()) and is_called(path):
            return path
    if split_name(name)[1] is None and (versions := list_versions(root, name)):
        raise CollectionNotFound(
            f"no version of the collection {name!r} in the store {root} is the current one; there "
            f"are: {', '.join(versions)}",
            fix=_choose(name, versions),
        )
    names = list_collections(root)
    if names:
        known = "it holds " + ", ".join(repr(name) for name in names)
    else:
        known = "it holds no collections" if root.exists() else "there is no such folder yet"
    raise CollectionNotFound(
        f"there is no collection {name!r} in the store {root}: {known}",
        fix="Check the name and the store, or make it first: retrieval index PATH.",
    )


def read_manifest(store: Path | str, collection: str) -> Manifest:
    """What built a collection, also while another process has it open.

    Raises:
        CollectionNotFound, ManifestCorrupt, ManifestMismatch, StoreDenied
    """
    return read_manifest_file(collection_path(store, collection) / MANIFEST)


def change_manifest(
    store: Path | str, collection: str, change: Callable[[Manifest], Manifest]
) -> Manifest:
    """Replace the manifest by what `change` makes of it, one process at a time; open indexes go on.

    Raises:
        CollectionNotFound, ManifestCorrupt, ManifestMismatch, StoreDenied, StoreFault, DiskFull
    """
    path = collection_path(store, collection) / MANIFEST
    with locked_aliases(_store_path(store)):
        manifest = change(read_manifest_file(path))
        write_manifest(path, manifest)
    return manifest


def delete_collection(store: Path | str, collection: str) -> None:
    """Delete a collection with all its versions, or one version that is not the current one.

    Also one whose manifest cannot be read. All versions are locked before the first goes.

    Raises:
        CollectionNotFound: there is none of that name.
        StoreLocked: it is open here or in another process; nothing was deleted.
        InvalidInput: a version that searches use, or a folder with another collection's manifest;
            nothing was deleted.
    """
    root = _store_path(store)
    current = collection_path(root, collection)
    name, version = split_name(collection)
    if (current / MANIFEST).exists() and not _is_own(current):
        raise InvalidInput(
            f"the manifest in {current} is that of another collection; nothing was deleted",
            fix="Give the folder back the name that its manifest says, or delete it by hand.",
        )
    if version is None:
        paths = [version_folder(root, other) for other in list_versions(root, name)]
        others = [path for path in paths if path != current]
    elif _resolved(root, name) == collection:
        raise current_version(name, collection)
    else:
        others = []
    with contextlib.ExitStack() as locks:
        paths = [*others, current]  # the current one last: a killed delete brings no old one back
        for path in paths:
            locks.callback(CollectionLock.acquire(path).release)
        for path in paths:
            with os_errors(f"delete the collection {path}"):
                gone = path.with_name(f".deleting-{path.name}-{uuid.uuid4().hex}")
                path.rename(gone)
                sync_folder(root)
                shutil.rmtree(gone)
    if version is None:
        with changing_aliases(root) as aliases:
            aliases.pop(name, None)
    _sweep(root)


def current_version(collection: str, physical: str) -> InvalidInput:
    """The error for deleting what searches use."""
    return InvalidInput(
        f"{physical!r} is the version that searches of {collection!r} use; nothing was deleted",
        fix=f"Switch to another version first (retrieval switch {collection} VERSION), or delete "
        f"the whole collection: retrieval delete {collection}.",
    )


def create_folder(
    store: Path | str, name: str, manifest: Manifest, build: Callable[[Path], None]
) -> tuple[Path, CollectionLock]:
    """Make a collection's folder, whole or not at all, and hold its lock.

    Args:
        store: made where it does not exist.
        name: `docs`, or `docs@v2` for a version of it.
        manifest: names the collection.
        build: makes the engine's files in the folder it is given, and leaves them closed.

    Raises:
        CollectionExists: there is something of that name already; it was not touched.
    """
    root = _store_path(store)
    collection, version = split_name(name)
    target = root / name
    with os_errors(f"create the collection {target}"):
        root.mkdir(parents=True, exist_ok=True)
        versions = list_versions(root, collection)
        if not versions:
            check_new_name(root, collection)
        if target.exists() or (version in (None, 1) and versions):
            raise _exists(target)
        _sweep(root)
        if name in read_aliases(root):
            with changing_aliases(root) as aliases:
                aliases.pop(name, None)  # of a delete that was cut off: its folder is gone
        temporary = root / f".creating-{name}-{uuid.uuid4().hex}"
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
            sync_folder(root)
        except BaseException:
            if lock is not None:
                lock.release()
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    return target, lock


def _resolved(root: Path, name: str) -> str:
    """The version that a name means: of `docs` the current one, of `docs@v2` itself.

    Raises:
        ManifestCorrupt: it is gone, and another one would be searched in its place.
    """
    collection, version = split_name(name)
    if version is not None:
        return name
    target = read_aliases(root).get(collection)
    if target is None or version_folder(root, target).is_dir():
        return target or version_name(collection, 1)
    versions = list_versions(root, collection)
    if read_aliases(root).get(collection) != target:
        return _resolved(root, name)  # it was switched, and the old version deleted, just now
    if versions:
        raise _gone(root, target, versions)
    return version_name(collection, 1)  # a delete was cut off before its last step


def _gone(root: Path, version: str, versions: list[str]) -> ManifestCorrupt:
    collection = split_name(version)[0]
    return ManifestCorrupt(
        f"searches of {collection!r} use {version}, which is not in the store {root}; there are: "
        f"{', '.join(versions)}",
        fix=f"Put its folder back, or: {_choose(collection, versions)}",
    )


def _choose(collection: str, versions: list[str]) -> str:
    return (
        f"Choose one (retrieval switch {collection} {versions[-1]}), or have the newest one that "
        f"is whole chosen: retrieval doctor {collection} --repair."
    )


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
    if "\0" in str(path):
        raise InvalidInput(
            f"the store {str(path)!r} has a NUL character in its path",
            fix="Give the path of a folder.",
        )
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
