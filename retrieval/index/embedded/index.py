"""The embedded index: Qdrant Edge in this process, one folder a collection, no server.

`edge_points.py` walls off the engine's sharp edges, `store.py` keeps the folder, and
`collection.py` describes the methods.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Self

from retrieval.errors import CollectionExists, CollectionNotFound, ManifestCorrupt
from retrieval.index.collection import CollectionIndex
from retrieval.index.embedded.disk_space import free_bytes
from retrieval.index.embedded.folder import (
    MANIFEST,
    change_manifest,
    collection_path,
    create_folder,
    current,
    delete_collection,
    list_collections,
    list_foreign,
    list_versions,
    next_version,
    read_manifest,
    switch,
)
from retrieval.index.embedded.lock import CollectionLock
from retrieval.index.embedded.points import MIN_FREE_BYTES, EdgePoints
from retrieval.index.embedded.shard import check_embedded, create_shard
from retrieval.index.manifest import (
    check_manifest,
    prepare_manifest,
    read_manifest_file,
    split_name,
    version_name,
)
from retrieval.types import Manifest

__all__ = [
    "EmbeddedIndex",
    "change_manifest",
    "current",
    "delete_collection",
    "list_collections",
    "list_foreign",
    "list_versions",
    "next_version",
    "read_manifest",
    "switch",
]


class EmbeddedIndex(CollectionIndex):
    """A collection in a folder of this machine. Implements `retrieval.types.Index`.

    One process at a time may have it open, any number of threads may use it. Opened before a
    fork, it refuses to work in the child.
    """

    @classmethod
    def create(
        cls,
        store: Path | str,
        collection: str,
        manifest: Manifest,
        *,
        min_free_bytes: int = MIN_FREE_BYTES,
        free_space: Callable[[Path], int] = free_bytes,
    ) -> Self:
        """Make a new, empty collection; a killed create leaves nothing in the way.

        Args:
            store: folder of collections, made where it does not exist.
            collection: its name, up to 64 letters, digits, dots, hyphens and underscores; with
                @v2 behind it, a version of it that searches do not use yet.
            manifest: what will fill it; its `collection` is the name, `created` is filled in.
            min_free_bytes: disk space that writing never touches.
            free_space: free bytes at a path (the operating system's answer by default).

        Raises:
            CollectionExists: there is something of that name; it was not touched.
            InvalidInput: also where shards, replicas or write consistency are given, which
                only a server has.
            DiskFull, StoreDenied, StoreFault
        """
        manifest = prepare_manifest(collection, manifest)
        check_embedded(manifest)

        def build(path: Path) -> None:
            create_shard(path, manifest, min_free_bytes, free_space)

        path, lock = create_folder(store, collection, manifest, build)
        return cls._load(path, lock, manifest, min_free_bytes, free_space)

    @classmethod
    def open(
        cls,
        store: Path | str,
        collection: str,
        *,
        expect: Manifest | None = None,
        min_free_bytes: int = MIN_FREE_BYTES,
        free_space: Callable[[Path], int] = free_bytes,
    ) -> Self:
        """Open a collection that exists.

        Args:
            store: folder of collections.
            collection: its name (then its current version is opened), or a version, `docs@v2`.
            expect: the manifest it must match, except `created`; None accepts any.
            min_free_bytes: disk space that writing never touches.
            free_space: free bytes at a path (the operating system's answer by default).

        Raises:
            CollectionNotFound: the message lists the collections there are.
            ManifestMismatch: other models or settings built it; nothing was changed.
            ManifestCorrupt, StoreLocked, StoreFault, StoreDenied, DiskFull
        """
        path = collection_path(store, collection)
        manifest = read_manifest_file(path / MANIFEST)
        if manifest.collection != split_name(collection)[0]:
            raise ManifestCorrupt(
                f"the manifest in {path} is that of the collection {manifest.collection!r}",
                fix=f"Rename the folder back to {manifest.collection!r}; nothing was changed.",
            )
        if expect is not None:
            check_manifest(manifest, expect)
        lock = CollectionLock.acquire(path)
        return cls._load(path, lock, manifest, min_free_bytes, free_space)

    @classmethod
    def open_or_create(
        cls,
        store: Path | str,
        collection: str,
        manifest: Manifest,
        *,
        min_free_bytes: int = MIN_FREE_BYTES,
        free_space: Callable[[Path], int] = free_bytes,
    ) -> Self:
        """Open the collection if it was built as `manifest` says, make it if there is none.

        Raises: as `open` and `create`.
        """
        expect = prepare_manifest(collection, manifest)
        try:
            return cls.open(
                store, collection, expect=expect, min_free_bytes=min_free_bytes,
                free_space=free_space,
            )  # fmt: skip
        except CollectionNotFound:
            with contextlib.suppress(CollectionExists):  # another process was first
                return cls.create(
                    store, collection, manifest, min_free_bytes=min_free_bytes,
                    free_space=free_space,
                )  # fmt: skip
        return cls.open(
            store, collection, expect=expect, min_free_bytes=min_free_bytes,
            free_space=free_space,
        )  # fmt: skip

    @classmethod
    def _load(
        cls,
        path: Path,
        lock: CollectionLock,
        manifest: Manifest,
        min_free_bytes: int,
        free_space: Callable[[Path], int],
    ) -> Self:
        try:
            points = EdgePoints(path, lock, manifest, min_free_bytes, free_space)
        except BaseException:
            lock.release()
            raise
        collection, version = split_name(path.name)
        physical = version_name(collection, version or 1)
        return cls(points, manifest.collection, manifest, physical=physical)
