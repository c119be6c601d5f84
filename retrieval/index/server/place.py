"""One collection of a server as it was opened: every call on it goes through here.

What is asked for by name (`names.py`) or by filter (`Place.own`) is of the collection that was
opened: of another that has its place now nothing is found, written or deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from retrieval.errors import CollectionNotFound, CollectionReplaced, StoreFault
from retrieval.index.manifest import MANIFEST_KEY
from retrieval.index.point_store import DENSE
from retrieval.index.server.client import Connection
from retrieval.index.server.errors import replaced
from retrieval.index.server.limits import Limits
from retrieval.index.server.names import named_filter, vector_names
from retrieval.types import Manifest

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

_T = TypeVar("_T")


class Place:
    """A collection by its physical name, its manifest, and what the server allows of it."""

    def __init__(
        self, connection: Connection, collection: str, manifest: Manifest, limits: Limits
    ) -> None:
        self.connection = connection
        self.collection = collection
        self.manifest = manifest
        self.names = vector_names(manifest)
        self.limits = limits
        self._closed = False

    def close(self) -> None:
        """Close the connection, unless the client was given."""
        self._closed = True
        self.connection.close()

    def read(self, action: str, call: Callable[[QdrantClient], _T]) -> _T:
        """An answer that somebody waits for."""
        with self.there():
            return self.connection.read(self.what(action), call)

    def persist(self, action: str, call: Callable[[QdrantClient], _T]) -> _T:
        """An answer that is tried for as long as a write is."""
        with self.there():
            return self.connection.persist(self.what(action), call)

    @contextlib.contextmanager
    def there(self) -> Iterator[None]:
        """What is not found inside of the block was there when it was opened."""
        try:
            yield
        except CollectionNotFound as error:
            raise CollectionReplaced(
                f"{error.problem}; it was when it was opened",
                fix="Open it again; what has its name now was neither read nor changed.",
            ) from error

    def own(self, where: models.Filter | None) -> models.Filter | None:
        """A filter that, besides, only points of the collection that was opened match."""
        from qdrant_client import models

        if not self.manifest.id:
            return where
        own = models.HasVectorCondition(has_vector=self.names[DENSE])
        if where is None:
            return models.Filter(must=[own])
        where = named_filter(where, self.names)
        given = where.must
        conditions = [] if given is None else given if isinstance(given, list) else [given]
        return where.model_copy(update={"must": [*conditions, own]})

    def same(self, info: models.CollectionInfo) -> None:
        """Refuse a collection whose manifest is not the one that was opened."""
        found = (getattr(info.config, "metadata", None) or {}).get(MANIFEST_KEY)
        if not isinstance(found, Mapping) or found.get("id", "") != self.manifest.id:
            raise self.replaced("go on with", "its manifest is another")

    def metadata(self) -> Mapping[str, Any]:
        """What the collection has in its metadata now."""
        info = self.persist("open", lambda client: client.get_collection(self.collection))
        self.same(info)
        return getattr(info.config, "metadata", None) or {}

    def replaced(self, action: str, text: str) -> CollectionReplaced:
        """The error of a collection that has another in its place."""
        return replaced(
            f"{self.what(action)} on the Qdrant server at {self.connection.where}", text
        )

    def what(self, action: str) -> str:
        """An action on the collection, in the words of a message."""
        if self._closed:
            raise StoreFault(
                f"the connection to the collection {self.collection!r} is closed",
                fix="Open it again.",
            )
        return f"{action} the collection {self.collection!r}"

    def change_metadata(self, changes: dict[str, Any]) -> None:
        """Set names in the collection's metadata, and remove those that are None."""
        self.persist(
            "note a deletion in",
            lambda client: client.update_collection(self.collection, metadata=changes),
        )
