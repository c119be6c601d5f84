"""Which version of a collection its name means, in a folder of the embedded engine.

    <store>/aliases.json    {"docs": "docs@v2"}: searches of docs use the folder docs@v2

A name without an entry means its first version, docs@v1, whose folder is called docs. The file is
replaced in one rename, so a reader sees the old version or the new one, and a killed switch
changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from retrieval._files import atomic_write, os_errors
from retrieval.errors import ManifestCorrupt
from retrieval.index.manifest import split_name, version_name

ALIASES = "aliases.json"
_LOCK = ".aliases.lock"


def read_aliases(root: Path) -> dict[str, str]:
    """Collection name → its current version; {} where there is no such file.

    Raises:
        ManifestCorrupt: the file cannot be understood; guessing could search an old version.
        StoreDenied, StoreFault: it could not be read.
    """
    path = root / ALIASES
    with os_errors(f"read {path}"):
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        except UnicodeDecodeError:
            raise _corrupt(path, "it is not UTF-8 text") from None
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise _corrupt(path, f"it is not JSON ({error})") from None
    if not isinstance(values, dict):
        raise _corrupt(path, "it is not an object")
    for name, target in values.items():
        if not isinstance(target, str) or split_name(target)[0] != name:
            raise _corrupt(path, f"{name!r} points at {target!r}, which is not a version of it")
    return values


def resolve_name(root: Path, name: str) -> str:
    """The version that a name means: of `docs` the current one, of `docs@v2` itself."""
    collection, version = split_name(name)
    if version is not None:
        return name
    target = read_aliases(root).get(collection)
    # a version without a folder is left over from a delete that was cut off
    if target is not None and version_folder(root, target).is_dir():
        return target
    return version_name(collection, 1)


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
    with os_errors(f"change the aliases of {root}"):
        handle = os.open(root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            aliases = read_aliases(root)
            before = dict(aliases)
            yield aliases
            if aliases != before:
                _write(root / ALIASES, aliases)
        finally:
            os.close(handle)


def _write(path: Path, aliases: dict[str, str]) -> None:
    with atomic_write(path) as file:
        json.dump(aliases, file, ensure_ascii=False, indent=2, sort_keys=True)
        file.write("\n")


def _corrupt(path: Path, what: str) -> ManifestCorrupt:
    return ManifestCorrupt(
        f"{path} cannot be used: {what}",
        fix='Restore it from a backup, or write it anew, for example {"docs": "docs@v2"}; '
        "nothing was changed.",
    )
