"""The same index on a Qdrant server, through qdrant-client.

Also runs on the client's in-memory mode (`QdrantClient(":memory:")`), which scans everything and
keeps nothing: a double for tests, not a store.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Self

from retrieval.errors import CollectionExists, CollectionNotFound
from retrieval.types import Manifest

from .collection import CollectionIndex
from .manifest import check_manifest, check_name, prepare_manifest
from .server_points import ServerPoints

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

TIMEOUT_S = 60


class ServerIndex(CollectionIndex):
    """A collection on a Qdrant server. Implements `retrieval.types.Index`.

    Any number of threads and processes may use the same collection.
    """

    @classmethod
    def create(
        cls,
        server: str | QdrantClient,
        collection: str,
        manifest: Manifest,
        *,
        api_key: str | None = None,
        timeout: int = TIMEOUT_S,
    ) -> Self:
        """Make a new, empty collection with the manifest in its metadata.

        Args:
            server: a URL such as http://localhost:6333, or a client, which then stays open when
                the index is closed.
            collection: its name, up to 64 letters, digits, dots, hyphens and underscores.
            manifest: what will fill it; its `collection` is this name, `created` is filled in.
            api_key: for a server that asks for one.
            timeout: seconds to wait for each answer.

        Raises:
            CollectionExists: there is one of that name; it was not touched.
            StoreDenied: the server refuses the API key.
            StoreFault: it does not answer, or refuses what is asked.
        """
        manifest = prepare_manifest(collection, manifest)
        points = ServerPoints(server, collection, api_key, timeout)
        with points.closed_on_error():
            points.create(manifest)
        return cls(points, collection, manifest)

    @classmethod
    def open(
        cls,
        server: str | QdrantClient,
        collection: str,
        *,
        expect: Manifest | None = None,
        api_key: str | None = None,
        timeout: int = TIMEOUT_S,
    ) -> Self:
        """Open a collection that exists.

        Args:
            server: a URL or a client.
            collection: its name.
            expect: what must have built it, but for `created`; None takes it as it is.
            api_key: for a server that asks for one.
            timeout: seconds to wait for each answer.

        Raises:
            CollectionNotFound: the message lists the collections there are.
            ManifestMismatch: other models or settings built it; nothing was changed.
            ManifestCorrupt: it was not made by this library.
            StoreDenied, StoreFault: as `create`.
        """
        points = ServerPoints(server, check_name(collection), api_key, timeout)
        with points.closed_on_error():
            manifest = points.manifest()
            if expect is not None:
                check_manifest(manifest, expect)
        return cls(points, collection, manifest)

    @classmethod
    def open_or_create(
        cls,
        server: str | QdrantClient,
        collection: str,
        manifest: Manifest,
        *,
        api_key: str | None = None,
        timeout: int = TIMEOUT_S,
    ) -> Self:
        """Open the collection if it was built as `manifest` says, make it if there is none.

        Raises: as `open` and `create`.
        """
        expect = prepare_manifest(collection, manifest)
        try:
            return cls.open(server, collection, expect=expect, api_key=api_key, timeout=timeout)
        except CollectionNotFound:
            with contextlib.suppress(CollectionExists):  # another process was first
                return cls.create(server, collection, manifest, api_key=api_key, timeout=timeout)
        return cls.open(server, collection, expect=expect, api_key=api_key, timeout=timeout)


def list_collections(
    server: str | QdrantClient, *, api_key: str | None = None, timeout: int = TIMEOUT_S
) -> list[str]:
    """Names of the server's collections, sorted; also those that this library did not make.

    Raises:
        StoreDenied, StoreFault: as `ServerIndex.create`.
    """
    with contextlib.closing(ServerPoints(server, "", api_key, timeout)) as points:
        return points.names()


def read_manifest(
    server: str | QdrantClient,
    collection: str,
    *,
    api_key: str | None = None,
    timeout: int = TIMEOUT_S,
) -> Manifest:
    """What built a collection.

    Raises:
        CollectionNotFound, ManifestCorrupt, ManifestMismatch, StoreDenied, StoreFault
    """
    check_name(collection)
    with contextlib.closing(ServerPoints(server, collection, api_key, timeout)) as points:
        return points.manifest()


def delete_collection(
    server: str | QdrantClient,
    collection: str,
    *,
    api_key: str | None = None,
    timeout: int = TIMEOUT_S,
) -> None:
    """Delete a collection and all it holds.

    Raises:
        CollectionNotFound, StoreDenied, StoreFault
    """
    check_name(collection)
    with contextlib.closing(ServerPoints(server, collection, api_key, timeout)) as points:
        points.drop()
