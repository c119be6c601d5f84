"""The file of a server's backup: one of its snapshots, and beside it what must come back.

A tar archive, not compressed, of `snapshot`, as the server gave it, and `backup.json`: the
collection's manifest, how many points it had, the snapshot's size and SHA-256. Older versions
wrote the snapshot alone (`.snapshot`), of which nothing but its form can be checked.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from retrieval._files import os_errors
from retrieval.errors import CorpusError, ManifestCorrupt
from retrieval.index.manifest import manifest_from_dict, manifest_to_dict
from retrieval.types import Manifest

VERSION = 2
"""Of `backup.json`; 1 is that of a folder's backup."""

_CONTENTS = "backup.json"
_SNAPSHOT = "snapshot"
_PIECE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SnapshotFile:
    """A backup that was found whole.

    collection: its name; None where the file does not tell. manifest, points, server: what built
    it, the least and the most points that it may hold, and the version of the server that took
    it; None where an older version of this library wrote the file. offset, size, sha256: of the
    snapshot in the file.
    """

    path: Path
    collection: str | None
    manifest: Manifest | None
    points: tuple[int, int] | None
    server: str | None
    offset: int
    size: int
    sha256: str

    def open(self) -> IO[bytes]:
        """The snapshot's bytes."""
        return cast(IO[bytes], io.BufferedReader(_Part(self.path, self.offset, self.size), _PIECE))


def write_snapshot_file(
    path: Path,
    manifest: Manifest,
    fetch: Callable[[IO[bytes]], tuple[str, tuple[int, int]]],
) -> None:
    """Write a backup. `fetch` writes the snapshot and says which server's it is, and its points.

    Raises:
        DiskFull, StoreDenied, StoreFault: the file cannot be written, or what `fetch` raises.
    """
    with os_errors(f"write {path}"), path.open("wb+") as file:
        file.seek(tarfile.BLOCKSIZE)  # the header is written last, when the size is known
        server, points = fetch(file)
        file.seek(0, os.SEEK_END)
        size = file.tell() - tarfile.BLOCKSIZE
        contents = {
            "retrieval_backup": VERSION,
            "collection": manifest.collection,
            "points": list(points),
            "server": server,
            "snapshot": {"size": size, "sha256": _digest(file, tarfile.BLOCKSIZE, size)},
            "manifest": manifest_to_dict(manifest),
        }
        file.seek(0, os.SEEK_END)
        file.write(bytes(-size % tarfile.BLOCKSIZE))
        text = json.dumps(contents, indent=1).encode()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
            archive.addfile(_member(_CONTENTS, len(text)), io.BytesIO(text))
        file.seek(0)
        file.write(_member(_SNAPSHOT, size).tobuf(tarfile.GNU_FORMAT))


def read_snapshot_file(path: Path) -> SnapshotFile:
    """What is in a backup, after its checksum was compared.

    Raises:
        CorpusError: there is no such file, it is no backup, or a part of it is missing or damaged.
    """
    if not path.is_file():
        raise CorpusError(f"there is no file {str(path)!r}", fix="Check the path of the backup.")
    with os_errors(f"read {path}"):
        try:
            with tarfile.open(path, "r:") as archive:
                members = {member.name.removeprefix("./"): member for member in archive}
                if _CONTENTS in members:
                    return _checked(path, archive, members)
                return _bare(path, archive, members)
        except (tarfile.TarError, EOFError) as error:
            raise _damaged(path, str(error)) from error


def _checked(
    path: Path, archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo]
) -> SnapshotFile:
    contents = _json(path, archive, members[_CONTENTS])
    try:
        version, named = contents["retrieval_backup"], contents["snapshot"]
        if version != VERSION:
            raise CorpusError(
                f"{path} has format {version!r} of a backup, this library reads {VERSION}",
                fix="Use the version of the library that wrote it. Nothing was changed.",
            )
        member, digest = members[_SNAPSHOT], str(named["sha256"])
        least, most = map(int, contents["points"])
        server, size = str(contents["server"]), int(named["size"])
        manifest = manifest_from_dict(contents["manifest"], origin=str(path))
    except (KeyError, TypeError, ValueError, ManifestCorrupt) as error:
        raise _damaged(path, f"its {_CONTENTS} is not whole ({error!r})") from error
    offset = member.offset_data
    with path.open("rb") as file:
        if member.size != size or _digest(file, offset, size) != digest:
            raise _damaged(path, "the snapshot in it is not what was backed up (SHA-256)")
    return SnapshotFile(
        path, manifest.collection, manifest, (least, most), server, offset, size, digest
    )


def _bare(
    path: Path, archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo]
) -> SnapshotFile:
    """A snapshot as the server gave it: a tar archive with the collection's `config.json`."""
    from retrieval.index.manifest import MANIFEST_KEY

    if not members:
        raise _damaged(path, "it is empty")
    collection = None
    if "config.json" in members:
        found: Any = _json(path, archive, members["config.json"])
        for key in ("metadata", MANIFEST_KEY, "collection"):
            found = found.get(key) if isinstance(found, dict) else None
        collection = found if isinstance(found, str) else None
    size = path.stat().st_size
    with path.open("rb") as file:
        return SnapshotFile(path, collection, None, None, None, 0, size, _digest(file, 0, size))


def _json(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    found = archive.extractfile(member)
    try:
        return json.load(cast(IO[bytes], found))
    except (ValueError, AttributeError) as error:
        raise _damaged(path, f"{member.name} is not JSON ({error})") from error


def _digest(file: IO[bytes], offset: int, size: int) -> str:
    file.seek(offset)
    seen, left = hashlib.sha256(), size
    while left and (piece := file.read(min(_PIECE, left))):
        seen.update(piece)
        left -= len(piece)
    return seen.hexdigest()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def _damaged(path: Path, what: str) -> CorpusError:
    return CorpusError(
        f"{path} is not a complete backup: {what}",
        fix="Use another copy of it. Nothing was changed.",
    )


class _Part(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, path: Path, offset: int, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._offset, self._size = offset, size
        self._file.seek(offset)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._size - self.tell()
        return self._file.readinto(memoryview(buffer)[: max(0, left)]) or 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        return self._file.seek(self._offset + base + offset) - self._offset

    def tell(self) -> int:
        return self._file.tell() - self._offset

    def close(self) -> None:
        self._file.close()
        super().close()
