"""Which version of a collection its name means, in a folder of the embedded engine.

    <store>/@aliases.json   {"docs": "docs@v2"}: searches of docs use the folder docs@v2

A name without an entry means its first version, docs@v1, whose folder is called docs. The file is
replaced in one rename, so a reader sees the old version or the new one, and a killed switch
changes nothing.

Names of collections begin with a letter or digit, those of the store's own files never: no
collection can take the place of one. Earlier the file was called `aliases.json`: it is read where
there is no other, and goes with the next change. A folder of that name is a collection.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from retrieval._files import atomic_write, os_errors
from retrieval.errors import InvalidInput, ManifestCorrupt
from retrieval.index.manifest import split_name

ALIASES = "@aliases.json"
EARLIER_ALIASES = "aliases.json"
_LOCK = ".aliases.lock"


def read_aliases(root: Path) -> dict[str, str]:
    """Collection name → its current version; {} where there is no such file.

    Raises:
        ManifestCorrupt: the file cannot be understood; guessing could search an old version.
        StoreDenied, StoreFault: it could not be read.
    """
    with os_errors(f"read the aliases of {root}"):
        # The last once more: a change may have moved the file meanwhile.
        for name in (ALIASES, EARLIER_ALIASES, ALIASES):
            path = root / name
            try:
                text = path.read_text(encoding="utf-8")
            except FileNotFoundError:
                continue
            except IsADirectoryError:
                if name == EARLIER_ALIASES:
                    continue
                raise _unusable(path, "it is a folder") from None
            except UnicodeDecodeError:
                raise _unusable(path, "it is not UTF-8 text") from None
            return _parsed(path, text)
    return {}


def version_folder(root: Path, physical: str) -> Path:
    """Where a version is. The first one is called by the collection's plain name, unless it was
    copied here, which gives it its name when it is whole."""
    collection, version = split_name(physical)
    path = root / physical
    return root / collection if version == 1 and not path.is_dir() else path


@contextlib.contextmanager
def changing_aliases(root: Path) -> Iterator[dict[str, str]]:
    """The aliases, to be changed in place and written at the end; one process at a time.

    Raises:
        ManifestCorrupt, StoreDenied, StoreFault, DiskFull
    """
    with locked_aliases(root):
        aliases = read_aliases(root)
        before = dict(aliases)
        yield aliases
        if aliases != before:
            write_aliases(root, aliases)


@contextlib.contextmanager
def locked_aliases(root: Path) -> Iterator[None]:
    """One process at a time changes the aliases."""
    with os_errors(f"change the aliases of {root}"):
        handle = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def write_aliases(root: Path, aliases: dict[str, str]) -> None:
    """Replace the file, in a block of `locked_aliases`."""
    with atomic_write(root / ALIASES) as file:
        json.dump(aliases, file, ensure_ascii=False, indent=2, sort_keys=True)
        file.write("\n")
    earlier = root / EARLIER_ALIASES
    if earlier.is_file():
        earlier.unlink()


def version_is_of(name: str, target: object) -> bool:
    """Whether an entry of the aliases says a version of its own collection."""
    try:
        return isinstance(target, str) and split_name(target)[0] == name
    except InvalidInput:
        return False


def _parsed(path: Path, text: str) -> dict[str, str]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _unusable(path, f"it is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise _unusable(path, "it is not an object")
    for name, target in values.items():
        if not version_is_of(name, target):
            raise _unusable(path, f"{name!r} points at {target!r}, which is not a version of it")
    return values


def _unusable(path: Path, what: str) -> ManifestCorrupt:
    return ManifestCorrupt(
        f"{path} cannot be used: {what}; it says which version of each collection is searched, "
        "and nothing was changed",
        fix="Restore it from a backup, or have it made anew from the versions that are there: "
        "retrieval doctor COLLECTION --repair.",
    )
