"""How a collection is made on a Qdrant server, also while others make it.

A version is made with its indexes first, and its name given to it last, so that a name never means
what is not whole; what a killed creation left is completed by the next. Two creators may meet:

- Making a collection of the server is atomic, so that of two who make the same version one is told
  that it is there. It joins the other where both ask for the same, which is completing what is
  there, and else waits for the name to be given.
- Where nobody gives it within `GRACE_S`, what stands there is left over, and the next version is
  made beside it. If its creator was only slow, one of the two has to go: a name can be moved
  without a precondition, so each looks again before it gives the name and after, and the newer
  version stays. The other is empty, is deleted, and its creator is told that the collection exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from retrieval.errors import (
    CollectionNotFound,
    ManifestCorrupt,
    ManifestMismatch,
    StoreFault,
)
from retrieval.index.manifest import (
    MANIFEST_KEY,
    check_manifest,
    manifest_to_dict,
)
from retrieval.index.server.catalog import Catalog
from retrieval.index.server.client import Connection
from retrieval.index.server.schema import creation, payload_indexes
from retrieval.types import Manifest

GRACE_S = 2.0
"""How long a version that has no name yet may be somebody's who is about to give it one."""

_LOOK_S = 0.1
_MOST_VANISHED = 10


class Creation:
    """One creation of the collection that a manifest names.

    Args:
        connection: to the server.
        manifest: prepared, with an id of its own.
    """

    def __init__(self, connection: Connection, manifest: Manifest) -> None:
        self._connection = connection
        self._catalog = Catalog(connection)
        self._manifest = manifest
        self._seen: dict[str, float] = {}

    def version(self, name: str) -> str:
        """Make a version that nothing means until it is switched to; returns its name.

        Raises:
            CollectionExists: there is one of that name; it was not touched.
            InvalidInput: an index that cannot be; nothing was made.
        """
        payload_indexes(self._manifest)  # checks them
        if name in self._catalog.collections() or not self._make(name):
            raise self._catalog.exists(name)
        return name

    def collection(self) -> str:
        """Make the collection, and let its name mean it; returns the version's name.

        What a killed creation left behind is completed: an empty version that nothing points at,
        with the same manifest. Any other version that nothing points at is skipped and left as it
        is.

        Raises:
            CollectionExists: there is one of that name; it was not touched.
            InvalidInput: an index that cannot be; nothing was made.
        """
        payload_indexes(self._manifest)  # checks them
        name, catalog = self._manifest.collection, self._catalog
        vanished = 0
        while True:
            present = catalog.collections()
            if name in present or name in catalog.aliases():
                raise catalog.exists(name)
            try:
                physical = self._try(catalog.versions(name, present))
            except CollectionNotFound:
                vanished += 1  # another creator withdrew what this one was to join
                if vanished == _MOST_VANISHED:
                    raise
                continue
            if physical is not None:
                return physical

    def _try(self, versions: list[str]) -> str | None:
        """Complete the newest version, or make the next one; None where one has to look again."""
        if versions:
            newest = versions[-1]
            if self._is_same_and_empty(newest):
                self._index(newest)
                return self._named(newest, made=False)
            since = self._seen.setdefault(newest, self._connection.now())
            if self._connection.now() - since < GRACE_S:
                self._connection.rest(_LOOK_S)
                return None
        physical = self._catalog.next_version(self._manifest.collection)
        return self._named(physical, made=True) if self._make(physical) else None

    def _named(self, physical: str, *, made: bool) -> str:
        """Let the name mean a version that is whole, unless it means another by now."""
        name, catalog = self._manifest.collection, self._catalog
        target = catalog.aliases().get(name)
        if target is None:
            try:
                catalog.point(name, physical, None)
            except StoreFault as error:
                if "already exists" not in error.problem:
                    raise
                return self._withdrawn(physical, made=made)  # a plain collection of that name
        elif target != physical:
            return self._withdrawn(physical, made=made)
        until = self._connection.now() + GRACE_S
        while True:
            target = catalog.aliases().get(name)
            newest = self._newest(physical)
            if newest == physical:
                if target == physical:
                    return physical
                if target is not None and not catalog.like(name, {target}):
                    return self._withdrawn(physical, made=made)
                # an older one's creator, who had not seen this one, took the name
                catalog.point(name, physical, target)
            elif target != physical:
                return self._withdrawn(physical, made=made)
            elif self._connection.now() < until:
                self._connection.rest(_LOOK_S)  # it takes the name, or withdraws
            else:
                # perhaps it had the name, and this one took it
                catalog.point(name, newest, physical)
                return self._withdrawn(physical, made=made)

    def _withdrawn(self, physical: str, *, made: bool) -> str:
        """Leave the name to another creator, and nothing of this one's behind.

        Returns:
            The version, where the name means it after all.

        Raises:
            CollectionExists
        """
        name, catalog = self._manifest.collection, self._catalog
        if catalog.aliases().get(name) == physical:
            return physical
        if made and self._is_empty(physical):
            catalog.drop(physical)
        raise catalog.exists(name)

    def _newest(self, physical: str) -> str:
        """The newest version by now, where this one is there still."""
        versions = self._catalog.versions(self._manifest.collection)
        return versions[-1] if physical in versions else physical

    def _make(self, physical: str) -> bool:
        """Make a version with its indexes; False where somebody else made one of that name."""
        manifest, catalog = self._manifest, self._catalog
        stored = manifest_to_dict(manifest)
        try:
            catalog.ask(
                f"create the collection {physical!r}",
                lambda client: client.create_collection(
                    physical, metadata={MANIFEST_KEY: stored}, **creation(manifest)
                ),
            )
        except StoreFault as error:
            if "already exists" not in error.problem:
                raise
            # where the answer to a first try was lost, the second finds the collection made
            found = catalog.metadata(physical).get(MANIFEST_KEY)
            if not isinstance(found, Mapping) or found.get("id") != manifest.id:
                return False
        if MANIFEST_KEY not in catalog.metadata(physical):
            catalog.drop(physical)  # made above, and empty
            raise StoreFault(
                f"the Qdrant server at {self._connection.where} does not keep collection metadata",
                fix="Use Qdrant 1.16 or newer.",
            )
        self._index(physical)
        return True

    def _index(self, physical: str) -> None:
        if self._connection.is_local:  # where it would have no effect but a warning
            return
        for path, schema in payload_indexes(self._manifest).items():
            self._persist_index(physical, path, schema)

    def _persist_index(self, physical: str, path: str, schema: Any) -> None:
        self._catalog.ask(
            f"make an index of {path} in the collection {physical!r}",
            lambda client: client.create_payload_index(
                physical, path, field_schema=schema, **self._connection.writing
            ),
        )

    def _is_same_and_empty(self, physical: str) -> bool:
        """Whether a version is empty and was made as this one is to be."""
        try:
            check_manifest(self._catalog.manifest(physical), self._manifest)
            return self._is_empty(physical)
        except (ManifestMismatch, ManifestCorrupt):
            return False

    def _is_empty(self, physical: str) -> bool:
        found, _ = self._catalog.ask(
            f"read the collection {physical!r}",
            lambda client: client.scroll(physical, limit=1, with_payload=False),
        )
        return not found
