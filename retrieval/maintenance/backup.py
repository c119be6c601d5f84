"""A consistent copy of a whole collection in one file, and back.

Of a folder: the engine's files, taken while nobody has the collection open, with a checksum of
each (`.tar.gz`). Of a server: one of its own snapshots, which it takes while it goes on answering,
with its checksum (`.tar`). Both say how many passages must come back. Of a cluster, a snapshot
holds what is on the node that was asked, so that is refused: export those (`retrieval export`).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from retrieval._files import os_errors, sync_folder
from retrieval.errors import CollectionExists, CorpusError, InvalidInput
from retrieval.index.embedded.disk_space import free_bytes, require_space
from retrieval.index.embedded.folder import MANIFEST, SHARD, collection_path
from retrieval.index.embedded.lock import LOCK, CollectionLock
from retrieval.index.embedded.new_names import check_new_name
from retrieval.index.embedded.shard import count_shard
from retrieval.index.manifest import (
    check_name,
    manifest_from_dict,
    write_manifest,
)
from retrieval.index.server.snapshots import restore_snapshot, save_snapshot
from retrieval.index.store import Store, StoreLike
from retrieval.maintenance.files import new_file

BACKUP_VERSION = 1
_CONTENTS = "backup.json"
_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Backup:
    """What was copied, and how large the file is. notices: what could not be made sure of."""

    collection: str
    points: int
    path: str
    bytes: int
    notices: tuple[str, ...] = ()


def backup_collection(
    collection: str,
    path: str | os.PathLike[str],
    *,
    store: StoreLike,
    overwrite: bool = False,
) -> Backup:
    """Copy a collection into one file, whole or not at all.

    Args:
        collection: its name (then its current version is copied), or a version of it.
        path: `.tar.gz` for a folder's collection, `.tar` for a server's.
        store: folder, URL or `Store`.
        overwrite: replace a file that exists.

    Raises:
        InvalidInput: another ending, the file exists, or the server is a cluster, of which a
            snapshot would not hold everything.
        StoreLocked: another process has the collection open; close it, or export it there.
        DiskFull, StoreDenied, StoreFault: the file could not be written; none is left behind.
    """
    place, target = Store.of(store), Path(path)
    _check_ending(target, place, ".tar")
    notices: tuple[str, ...] = ()
    with new_file(target, overwrite=overwrite) as temporary:
        with place.open(collection) as index:  # which also sees that it is whole
            points, name, physical = index.status().points, index.collection, index.physical
            manifest = index.manifest
        if place.is_server:
            least, points = save_snapshot(
                place.location, physical, manifest, temporary, options=place.options
            )
            if least != points:
                notices = (
                    f"something wrote to {name!r} while it was backed up, from {least:,} to "
                    f"{points:,} passages: the file holds what was there at some moment of it",
                )
        else:
            _pack(collection_path(place.location, physical), temporary, points)
    return Backup(name, points, str(target), target.stat().st_size, notices)


def restore_collection(
    path: str | os.PathLike[str], collection: str | None = None, *, store: StoreLike
) -> Backup:
    """Make a collection of a backup; it appears when it is whole.

    Args:
        path: what `backup_collection` wrote; of a server also one of its own snapshots
            (`.snapshot`), of which nothing can be verified.
        collection: its new name; None takes the one it had. A server's keeps its name.
        store: folder, URL or `Store`.

    Raises:
        CollectionExists: there is one of that name; it was not touched.
        CorpusError: the file is not a backup, a part of it is damaged, or other passages came
            back than were backed up; nothing was changed.
        InvalidInput: another ending or name, or the server is a cluster.
    """
    place, source = Store.of(store), Path(path)
    _check_ending(source, place, ".tar", ".snapshot")
    notices: tuple[str, ...] = ()
    if place.is_server:
        name, found = restore_snapshot(place.location, source, collection, options=place.options)
        if found.points is None:
            notices = (
                f"{source} says neither how many passages it holds nor what they are: whether all "
                "came back could not be verified",
            )
    else:
        name = _unpack(source, collection, Path(place.location))
    with place.open(name) as index:
        return Backup(name, index.status().points, str(source), source.stat().st_size, notices)


def _check_ending(path: Path, place: Store, *of_a_server: str) -> None:
    wanted = of_a_server if place.is_server else (".tar.gz",)
    if not path.name.endswith(wanted):
        what = "a server's" if place.is_server else "a folder's"
        raise InvalidInput(
            f"the file {str(path)!r} was given for {what} backup, expected the ending {wanted[0]}",
            fix="Name it so; to go from a folder to a server, use retrieval copy or export.",
        )


def _pack(folder: Path, target: Path, points: int) -> None:
    lock = CollectionLock.acquire(folder)
    try:
        with os_errors(f"back up {folder} to {target}"):
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            files = [path for path in files if path.relative_to(folder).as_posix() != LOCK]
            contents = {
                "retrieval_backup": BACKUP_VERSION,
                "points": points,
                "files": {path.relative_to(folder).as_posix(): _digest(path) for path in files},
            }
            # fast compression: the engine's files are long runs of zeros and vectors
            with (
                target.open("wb") as raw,
                tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as archive,
            ):
                text = json.dumps(contents, indent=1).encode()
                head = tarfile.TarInfo(_CONTENTS)
                head.size = len(text)
                archive.addfile(head, io.BytesIO(text))
                for path in files:
                    archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
    finally:
        lock.release()


def _unpack(source: Path, collection: str | None, root: Path) -> str:
    with os_errors(f"restore {source}"), _archive(source) as archive:
        contents, points = _contents(source, archive)
        manifest = manifest_from_dict(_json(source, archive, MANIFEST), origin=str(source))
        name = check_name(collection or manifest.collection)
        if name in Store(root).names() or (root / name).exists():
            raise CollectionExists(
                f"there is already a collection {name!r} in {root}",
                fix="Give another name, or delete it first. Nothing was changed.",
            )
        root.mkdir(parents=True, exist_ok=True)
        check_new_name(root, name)
        need = sum(member.size for member in archive.getmembers())
        require_space(root, need, 0, free_bytes, f"restore {source}")
        temporary = root / f".creating-{name}-{uuid.uuid4().hex}"
        temporary.mkdir()
        lock = CollectionLock.acquire(temporary)
        try:
            for relative, digest in contents.items():
                _extract(source, archive, relative, digest, temporary)
            found = count_shard(temporary / SHARD, manifest)
            if found != points:
                raise _damaged(source, f"it gave {found:,} passages, {points!r} were backed up")
            write_manifest(temporary / MANIFEST, replace(manifest, collection=name))
            temporary.rename(root / name)
            sync_folder(root)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            lock.release()
    return name


@contextlib.contextmanager
def _archive(source: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(source, "r:gz") as archive:
            yield archive
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(source, str(error)) from error


def _contents(source: Path, archive: tarfile.TarFile) -> tuple[dict[str, str], Any]:
    """File name → sha256, and how many passages there must be; only these files are written, and
    only below the collection's folder."""
    values = _json(source, archive, _CONTENTS)
    if not isinstance(values, dict) or values.get("retrieval_backup") != BACKUP_VERSION:
        raise _damaged(source, "it does not begin with the list of a backup")
    files = values.get("files")
    if not isinstance(files, dict) or MANIFEST not in files:
        raise _damaged(source, "its list of files is not whole")
    for name in files:
        parts = PurePosixPath(name).parts
        plain = name.isascii() and name.isprintable()  # as all names of the engine are
        if not parts or name.startswith("/") or ".." in parts or not plain:
            raise _damaged(source, f"it names the file {name!r}, outside of the collection")
    return files, values.get("points")


def _json(source: Path, archive: tarfile.TarFile, name: str) -> Any:
    try:
        return json.load(_member(source, archive, name))
    except ValueError as error:
        raise _damaged(source, f"{name} is not JSON ({error})") from error


def _member(source: Path, archive: tarfile.TarFile, name: str) -> IO[bytes]:
    try:
        found = archive.extractfile(name)
    except KeyError:
        found = None
    if found is None:
        raise _damaged(source, f"the file {name!r} is missing from it")
    return found


def _extract(
    source: Path, archive: tarfile.TarFile, relative: str, digest: str, folder: Path
) -> None:
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    seen = hashlib.sha256()
    with _member(source, archive, relative) as packed, target.open("wb") as file:
        while piece := packed.read(_PIECE):
            seen.update(piece)
            if piece.count(0) == len(piece):
                file.seek(len(piece), os.SEEK_CUR)  # the engine's files have holes: keep them
            else:
                file.write(piece)
        file.truncate()
        os.fsync(file.fileno())
    if seen.hexdigest() != digest:
        raise _damaged(source, f"{relative} is not what was backed up")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(source: Path, what: str) -> CorpusError:
    return CorpusError(
        f"{source} is not a complete backup: {what}",
        fix="Use another copy of it. Nothing was changed.",
    )
