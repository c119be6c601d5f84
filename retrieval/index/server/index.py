"""The same index on a Qdrant server, through qdrant-client.

Also runs on the client's in-memory mode (`QdrantClient(":memory:")`), which scans everything and
keeps nothing: a double for tests, not a store. `catalog.py` says how collections and their versions
are kept on a server, `client.py` how it is reached and for how long it is tried.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Self

from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    RetrievalError,
    StoreFault,
)
from retrieval.index.collection import CollectionIndex
from retrieval.index.manifest import (
    MANIFEST_KEY,
    check_manifest,
    manifest_to_dict,
    prepare_manifest,
    split_name,
    version_name,
)
from retrieval.index.server.catalog import Catalog, Described
from retrieval.index.server.client import Connection
from retrieval.index.server.cluster import Cluster, cluster_if_told
from retrieval.index.server.creating import Creation
from retrieval.index.server.errors import failure_of
from retrieval.index.server.names import vector_names
from retrieval.index.server.options import ServerOptions
from retrieval.index.server.points import ServerPoints
from retrieval.types import Manifest

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

__all__ = [
    "ServerIndex",
    "ServerOptions",
    "change_manifest",
    "check_writable",
    "cluster",
    "current",
    "delete_collection",
    "list_collections",
    "list_foreign",
    "list_versions",
    "next_version",
    "read_manifest",
    "server_versions",
    "switch",
    "vector_names",
]

_DEFAULT = ServerOptions()

logger = logging.getLogger("retrieval.index.server.index")


class ServerIndex(CollectionIndex):
    """A collection on a Qdrant server. Implements `retrieval.types.Index`.

    Any number of threads and processes may use the same collection. While the server is away,
    writes, and the page-wise reading that long runs do, are tried for `options.retry_s`; searches
    fail after seconds.
    """

    @classmethod
    def create(
        cls,
        server: str | QdrantClient,
        name: str,
        manifest: Manifest,
        *,
        options: ServerOptions = _DEFAULT,
        api_key: str | None = None,
    ) -> Self:
        """Make a new, empty collection with the manifest in its metadata; a killed create is
        completed by the next.

        Of two who make one of the same name at once, one gets it and the other `CollectionExists`,
        or both get the same where they ask for the same.

        Args:
            server: a URL such as http://localhost:6333, or a client, which then stays open when
                the index is closed.
            name: `docs`, which makes the version `docs@v1` and lets `docs` mean it; or
                `docs@v2`, a version that nothing means until it is switched to.
            manifest: what will fill it; its `collection` is `docs`, `created` is filled in.
            options: how the server is reached.
            api_key: shorthand for ServerOptions(api_key=…).

        Raises:
            CollectionExists: there is one of that name; it was not touched.
            StoreDenied: the server refuses the API key.
            StoreFault: it does not answer, or refuses what is asked.
        """
        manifest = prepare_manifest(name, manifest)
        connection = _connect(server, options, api_key)
        with connection.closed_on_error():
            catalog = Catalog(connection)
            made = Creation(connection, manifest)
            is_version = split_name(name)[1] is not None
            physical = made.version(name) if is_version else made.collection()
            _warn_of_missing(connection, physical, manifest)
            found = catalog.described(physical)  # of a completed create, made earlier
            return cls._of(connection, catalog, physical, found, found.manifest.collection)

    @classmethod
    def open(
        cls,
        server: str | QdrantClient,
        name: str,
        *,
        expect: Manifest | None = None,
        options: ServerOptions = _DEFAULT,
        api_key: str | None = None,
    ) -> Self:
        """Open a collection that exists.

        Its version is looked up once: an open index goes on with it when the name is switched to
        another.

        Args:
            server: a URL or a client.
            name: of a collection, which means its current version, or of one version.
            expect: the manifest it must match, except `created`; None accepts any.
            options: how the server is reached.
            api_key: shorthand for ServerOptions(api_key=…).

        Raises:
            CollectionNotFound: the message lists the collections there are.
            ManifestMismatch: other models or settings built it; nothing was changed.
            ManifestCorrupt: it was not made by this library.
            StoreDenied, StoreFault: as `create`.
        """
        collection, _ = split_name(name)
        connection = _connect(server, options, api_key)
        with connection.closed_on_error():
            catalog = Catalog(connection)
            physical = catalog.resolve(name)
            found = catalog.described(physical)
            if expect is not None:
                check_manifest(found.manifest, expect)
            return cls._of(connection, catalog, physical, found, collection)

    @classmethod
    def _of(
        cls,
        connection: Connection,
        catalog: Catalog,
        physical: str,
        found: Described,
        collection: str,
    ) -> Self:
        points = ServerPoints(
            connection,
            physical,
            found.manifest,
            catalog.limits(physical),
            copies=found.copies,
            metadata=found.metadata,
        )
        return cls(points, collection, found.manifest, physical)

    @classmethod
    def open_or_create(
        cls,
        server: str | QdrantClient,
        name: str,
        manifest: Manifest,
        *,
        options: ServerOptions = _DEFAULT,
        api_key: str | None = None,
    ) -> Self:
        """Open the collection if it was built as `manifest` says, make it if there is none.

        Raises: as `open` and `create`.
        """
        expect = prepare_manifest(name, manifest)
        try:
            return cls.open(server, name, expect=expect, options=options, api_key=api_key)
        except CollectionNotFound:
            with contextlib.suppress(CollectionExists):  # another process was first
                return cls.create(server, name, manifest, options=options, api_key=api_key)
        return cls.open(server, name, expect=expect, options=options, api_key=api_key)


def list_collections(
    server: str | QdrantClient, *, options: ServerOptions = _DEFAULT, api_key: str | None = None
) -> list[str]:
    """Names of the server's collections, sorted; also those that this library did not make.

    A version is not listed, only the collection that it is a version of.

    Raises:
        StoreDenied, StoreFault: as `ServerIndex.create`.
    """
    with _connect(server, options, api_key) as connection:
        return Catalog(connection).names()


def list_versions(
    server: str | QdrantClient,
    name: str,
    *,
    options: ServerOptions = _DEFAULT,
    api_key: str | None = None,
) -> list[str]:
    """The versions of a collection by the server's names, oldest first; [] where there are none.

    Raises:
        StoreDenied, StoreFault
    """
    collection, _ = split_name(name)
    with _connect(server, options, api_key) as connection:
        return Catalog(connection).versions(collection)


def list_foreign(
    server: str | QdrantClient,
    name: str | None = None,
    *,
    options: ServerOptions = _DEFAULT,
    api_key: str | None = None,
) -> list[str]:
    """The server's collections that this library did not make, by the server's names, sorted; of a
    name those that are called like it or its versions. Asks for each.

    Raises:
        StoreDenied, StoreFault
    """
    collection = None if name is None else split_name(name)[0]
    with _connect(server, options, api_key) as connection:
        return Catalog(connection).foreign(collection)


def next_version(
    server: str | QdrantClient,
    name: str,
    *,
    options: ServerOptions = _DEFAULT,
    api_key: str | None = None,
) -> str:
    """A name for the next version of a collection, which nothing on the server has.

    Raises:
        StoreDenied, StoreFault
    """
    collection, _ = split_name(name)
    with _connect(server, options, api_key) as connection:
        return Catalog(connection).next_version(collection)


def current(
    server: str | QdrantClient,
    name: str,
    *,
    options: ServerOptions = _DEFAULT,
    api_key: str | None = None,
) -> str:
    """The version that a name means now, by the server's name.

    Raises:
        CollectionNotFound, StoreDenied, StoreFault
    """
    with _connect(server, options, api_key) as connection:
        return Catalog(connection).resolve(name)


def cluster(
    server: str | QdrantClient,
    name: str,
    *,
    options: ServerOptions = _DEFAULT,
    api_key: str | None = None,
) -> Cluster | None:
    """The server's cluster, and where the shards of a collection are; None where the key may not
    read it.

    Raises:
        CollectionNotFound, StoreDenied, StoreFault
    """
    with _connect(server, options, api_key) as connection:
        return cluster_if_told(connection, Catalog(connection).resolve(name))


def switch(
    server: str | QdrantClient,
    name: str,
    physical: str,
    *,
    options: ServerOptions = _DEFAULT,
    api_key: str | None = None,
) -> str:
    """Let a name mean another version, in one request, and say which it meant before.

    Indexes that are open go on with the version that they opened.

    Returns:
        The version before, or `physical` where the name meant none.

    Raises:
        CollectionNotFound: there is no such version; the message lists those there are.
        InvalidInput: it is a version of another collection, or the name is that of a collection
            without versions, which Qdrant cannot turn into an alias.
        StoreDenied, StoreFault
    """
    with _connect(server, options, api_key) as connection:
        return Catalog(connection).switch(name, physical)


def read_manifest(
    server: str | QdrantClient,
    name: str,
    *,
    options: ServerOptions = _DEFAULT,
    api_key: str | None = None,
) -> Manifest:
    """What built a collection, or one version of it.

    Raises:
        CollectionNotFound, ManifestCorrupt, ManifestMismatch, StoreDenied, StoreFault
    """
    with _connect(server, options, api_key) as connection:
        catalog = Catalog(connection)
        return catalog.manifest(catalog.resolve(name))


def change_manifest(
    server: str | QdrantClient,
    name: str,
    change: Callable[[Manifest], Manifest],
    *,
    options: ServerOptions = _DEFAULT,
    api_key: str | None = None,
) -> Manifest:
    """Replace the manifest by what `change` makes of it; open indexes go on. Of two who change it
    at once the later one stays.

    Raises:
        CollectionNotFound, ManifestCorrupt, ManifestMismatch, StoreDenied, StoreFault
    """
    with _connect(server, options, api_key) as connection:
        catalog = Catalog(connection)
        physical = catalog.resolve(name)
        manifest = change(catalog.manifest(physical))
        stored = {MANIFEST_KEY: manifest_to_dict(manifest)}
        connection.persist(
            f"change the manifest of the collection {physical!r}",
            lambda client: client.update_collection(physical, metadata=stored),
        )
        if catalog.manifest(physical) != manifest:
            raise StoreFault(
                f"the Qdrant server at {connection.where} did not keep the new manifest of "
                f"{physical!r}",
                fix="Somebody else may have changed it just now: look, and try again.",
            )
    return manifest


def delete_collection(
    server: str | QdrantClient,
    name: str,
    *,
    options: ServerOptions = _DEFAULT,
    api_key: str | None = None,
) -> None:
    """Delete a collection with all its versions, or one version that is not the current one.

    Raises:
        CollectionNotFound: there is none of that name.
        InvalidInput: a version that its name means now; nothing was deleted.
        StoreDenied, StoreFault
    """
    with _connect(server, options, api_key) as connection:
        Catalog(connection).delete(name)


def server_versions(
    server: str | QdrantClient, *, options: ServerOptions = _DEFAULT, api_key: str | None = None
) -> tuple[str, str]:
    """The versions of qdrant-client and of the server.

    Raises:
        StoreDenied, StoreFault
    """
    with _connect(server, options, api_key) as connection:
        told = connection.read("ask the version", lambda client: client.info())
    return version("qdrant-client"), str(told.version)


def check_writable(
    server: str | QdrantClient,
    name: str,
    *,
    options: ServerOptions = _DEFAULT,
    api_key: str | None = None,
) -> None:
    """Find out whether the key may write to a collection, by deleting no points of it.

    A server looks at the key first; then it refuses what names no point. So nothing is written,
    and it makes no difference whether there is such a collection.

    Raises:
        StoreDenied: it may not.
        StoreFault: the server does not answer.
    """
    collection, number = split_name(name)
    physical = name if number is not None else version_name(collection, 1)

    def delete_nothing(client: QdrantClient) -> None:
        try:
            client.delete(physical, PointIdsList(points=[]))
        except Exception as error:
            if failure_of(error).kind not in ("refused", "missing", "busy"):
                raise

    from qdrant_client.models import PointIdsList

    with _connect(server, options, api_key) as connection:
        connection.read(f"write to the collection {physical!r}", delete_nothing)


def _warn_of_missing(connection: Connection, physical: str, manifest: Manifest) -> None:
    """Say where a server took a number of shards or copies that it does not have."""
    storage = manifest.storage
    if storage.shards is None and storage.replicas is None:
        return
    with contextlib.suppress(RetrievalError):  # it was made all the same
        cluster = cluster_if_told(connection, physical)
        for missing in () if cluster is None else cluster.missing(storage):
            logger.warning("the collection %r is not as was asked for: %s", physical, missing)


def _connect(server: str | QdrantClient, options: ServerOptions, api_key: str | None) -> Connection:
    if api_key is not None:
        options = dataclasses.replace(options, api_key=api_key)
    return Connection(server, options)
