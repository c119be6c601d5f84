"""Mending a store whose aliases are damaged: what can be derived is, and nothing is deleted.

    for fault in find_faults(root):   looks
    for fault in mend(root):          looks, and puts right what it can

A name means what the aliases say, or its first version. Where they cannot be read, or say a
version that is not whole, the newest version that is whole is meant instead.
"""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from retrieval._files import os_errors, sync_folder
from retrieval.errors import InvalidInput, ManifestCorrupt, RetrievalError
from retrieval.index.embedded.aliases import (
    ALIASES,
    EARLIER_ALIASES,
    locked_aliases,
    read_aliases,
    version_folder,
    version_is_of,
    write_aliases,
)
from retrieval.index.embedded.folder import MANIFEST, SHARD, list_versions
from retrieval.index.manifest import read_manifest_file, split_name, version_name


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a store.

    collection: whose; empty where it is all of them.
    mended: what `mend` does about it, or has done; empty where it can do nothing.
    """

    collection: str
    text: str
    mended: str


def find_faults(store: Path | str) -> list[Fault]:
    """What is wrong with a store's aliases; nothing is changed.

    Raises:
        StoreDenied, StoreFault
    """
    root = Path(store).absolute()
    return _Mending(root).faults() if root.is_dir() else []


def mend(store: Path | str) -> list[Fault]:
    """Put a store's aliases right, and say what was wrong and what was done.

    Raises:
        StoreDenied, StoreFault, DiskFull
    """
    root = Path(store).absolute()
    if not root.is_dir():
        return []
    with locked_aliases(root):
        mending = _Mending(root)
        faults = mending.faults()
        if mending.unusable is not None or mending.aliases != mending.before:
            if mending.unusable is not None:
                _keep(root, mending.kept)
            write_aliases(root, mending.aliases)
    return faults


class _Mending:
    """What the aliases say (`before`), and what they should (`aliases`)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.kept = root / f"@damaged-{uuid.uuid4().hex[:8]}-aliases.json"
        self.unusable: ManifestCorrupt | None = None
        try:
            self.before = read_aliases(root)
        except ManifestCorrupt as error:
            self.unusable = error
            self.before = _legible(root)
        self.aliases = dict(self.before)

    def faults(self) -> list[Fault]:
        """Each fault, with `aliases` put right where it can be."""
        found = []
        if self.unusable is not None:
            kept = f"it is kept as {self.kept.name}, and made anew"
            found.append(Fault("", self.unusable.problem, kept))
        with os_errors(f"list the store {self._root}"):
            entries = [entry.name for entry in self._root.iterdir() if entry.is_dir()]
        for name in sorted({*map(_collection, entries), *self.before} - {""}):
            found += self._of(name)
        return found

    def _of(self, name: str) -> list[Fault]:
        said = self.before.get(name)
        wanted = said or version_name(name, 1)
        there = list_versions(self._root, name)
        whole = [version for version in there if self._is_whole(name, version)]
        if not there:
            self.aliases.pop(name, None)  # of a delete that was cut off: nothing was lost
            return []
        if said is None and self.unusable is not None and whole:
            # the first version needs no entry, and may be meant, but no more than later ones
            if whole[-1] == wanted:
                return []
            self.aliases[name] = whole[-1]
            text = f"which version {name!r} means is not known any more"
            return [Fault(name, text, f"it means the newest that is whole, {whole[-1]}")]
        if wanted in whole:
            return []
        what = "is not whole" if version_folder(self._root, wanted).is_dir() else "is gone"
        text = f"{name!r} means {wanted}, which {what}"
        if not whole:
            return [Fault(name, f"{text}, and so are all others ({', '.join(there)})", "")]
        self.aliases[name] = whole[-1]
        return [Fault(name, text, f"it means the newest that is whole, {whole[-1]}")]

    def _is_whole(self, name: str, version: str) -> bool:
        folder = version_folder(self._root, version)
        try:
            manifest = read_manifest_file(folder / MANIFEST)
        except RetrievalError:
            return False
        return manifest.collection == name and (folder / SHARD).is_dir()


def _collection(entry: str) -> str:
    try:
        return split_name(entry)[0]
    except InvalidInput:
        return ""


def _legible(root: Path) -> dict[str, str]:
    """The entries of a file that cannot be used as a whole which say a version of their own."""
    try:
        values = json.loads(_file(root).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {name: target for name, target in values.items() if version_is_of(name, target)}


def _file(root: Path) -> Path:
    path = root / ALIASES
    return path if path.exists() else root / EARLIER_ALIASES


def _keep(root: Path, kept: Path) -> None:
    """Keep what cannot be used under another name; a file stays in place until it is replaced."""
    path = _file(root)
    if path.is_dir():
        path.rename(kept)
    else:
        shutil.copyfile(path, kept)
    sync_folder(root)
