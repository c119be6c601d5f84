"""The collections of a Qdrant server: names, versions, manifests.

A collection `docs` is an alias for one of its versions `docs@v1`, `docs@v2` …, each a collection
of the server's own with its manifest in its metadata. An alias is moved in one request, so that
a search finds the old version or the new one. A plain collection `docs` without alias is one that
this library made before it knew versions, or that others made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidInput,
    ManifestCorrupt,
    ManifestMismatch,
    StoreFault,
)
from retrieval.index.manifest import (
    MANIFEST_KEY,
    check_manifest,
    manifest_from_dict,
    manifest_to_dict,
    split_name,
    version_name,
)
from retrieval.index.server.client import Connection
from retrieval.index.server.limits import Limits
from retrieval.index.server.schema import creation, payload_indexes
from retrieval.types import Manifest

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

_T = TypeVar("_T")


class Catalog:
    """What a server has, asked anew with every call."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._limits: dict[str, Limits] = {}

    def names(self) -> list[str]:
        """What can be opened by its own name: aliases, and collections that are not versions."""
        return sorted({*self._aliases(), *(one for one in self._collections() if _is_plain(one))})

    def resolve(self, name: str) -> str:
        """The collection that a name means now: of `docs` its current version.

        Raises:
            CollectionNotFound: the message lists the collections there are.
        """
        collection, number = split_name(name)
        if number is None:
            target = self._aliases().get(collection)
            if target is not None:
                return target
        present = self._collections()
        if name in present:
            return name
        raise self._missing(name, self.versions(collection, present))

    def versions(self, name: str, present: set[str] | None = None) -> list[str]:
        """The versions of a collection, oldest first; one without versions is its own only one."""
        numbered = [
            (number or 0, found)
            for found in (self._collections() if present is None else present)
            for collection, number in [_parts(found)]
            if collection == name
        ]
        return [found for _, found in sorted(numbered)]

    def manifest(self, physical: str) -> Manifest:
        """The manifest of a collection, by its physical name.

        Raises:
            ManifestCorrupt: there is none, or it cannot be used.
            ManifestMismatch: it has a format that this version does not know.
        """
        origin, found = self._origin(physical), self._metadata(physical).get(MANIFEST_KEY)
        if not isinstance(found, Mapping):
            raise ManifestCorrupt(
                f"there is no manifest {origin}: the collection was not made by this library",
                fix="Index into a new collection; nothing was changed.",
            )
        return manifest_from_dict(dict(found), origin=origin)

    def limits(self, physical: str) -> Limits:
        """What the server allows of a collection whose manifest was read."""
        return self._limits[physical]

    def create(self, name: str, manifest: Manifest) -> str:
        """Make a collection with its indexes and, where `name` is not a version, its alias.

        What a killed create left behind is completed: an empty version that nothing points at,
        with the same manifest. Any other version that nothing points at is skipped and left
        as it is.

        Returns:
            The physical name.

        Raises:
            CollectionExists: there is one of that name; it was not touched.
            InvalidInput: an index that cannot be; nothing was made.
        """
        payload_indexes(manifest)  # checks them
        collection, number = split_name(name)
        present = self._collections()
        if name in present or (number is None and collection in self._aliases()):
            raise self._exists(name)
        if number is not None:
            self._make(name, manifest)
            return name
        left = self.versions(collection, present)
        physical = version_name(collection, 1)
        if left:
            physical = left[-1]
            if not self._is_left_of(physical, manifest):
                physical = version_name(collection, (_parts(physical)[1] or 0) + 1)
        if physical not in left:
            self._make(physical, manifest)
        else:
            self._index(physical, manifest)
        self._point(collection, physical, None)
        return physical

    def switch(self, name: str, physical: str) -> str:
        """Let a name mean another version, in one request, and say which it meant before.

        Returns:
            The version before, or `physical` where the name meant none.

        Raises:
            CollectionNotFound: there is no such version; the message lists those there are.
            InvalidInput: it is a version of another collection, or the name is taken.
        """
        collection, number = split_name(name)
        if number is not None or _parts(physical)[0] != collection:
            raise InvalidInput(
                f"{physical!r} is not a version of the collection {name!r}",
                fix=f"Name one such as {version_name(collection, 2)!r}.",
            )
        present = self._collections()
        if physical not in present:
            raise self._missing(physical, self.versions(collection, present))
        if collection in present:
            if physical == collection:
                return physical
            raise InvalidInput(
                f"{collection!r} at {self._connection.where} is a collection without versions, "
                "and a Qdrant server cannot give its name to another",
                fix=f"Delete it first in Qdrant itself (DELETE /collections/{collection}) and "
                "switch again; searches find nothing in between.",
            )
        before = self._aliases().get(collection)
        if before != physical:
            self._point(collection, physical, before)
        return before or physical

    def delete(self, name: str) -> None:
        """Delete a collection with all its versions, or one version that is not the current one.

        Raises:
            CollectionNotFound: there is none of that name.
            InvalidInput: a version that its name means now, or an alias of something else;
                nothing was deleted.
        """
        collection, number = split_name(name)
        target = self._aliases().get(collection)
        present = self._collections()
        versions = self.versions(collection, present)
        if number is not None:
            if name not in present:
                raise self._missing(name, versions)
            if name == target:
                raise InvalidInput(
                    f"{name!r} is the current version of {collection!r}; nothing was deleted",
                    fix=f"Switch to another version first, or delete {collection!r} with all its "
                    "versions.",
                )
            self._drop(name)
            return
        if target is not None and target not in versions:
            raise InvalidInput(
                f"{name!r} is an alias of {target!r}, which is not a version of it; nothing was "
                "deleted",
                fix=f"Delete {target!r} by its own name, or the alias in Qdrant itself.",
            )
        if not versions:
            raise self._missing(name, [])
        # The current one goes last, and its alias with it: a killed delete can be repeated.
        for one in sorted(versions, key=lambda one: (one == target, one == name)):
            self._drop(one)

    def _make(self, physical: str, manifest: Manifest) -> None:
        stored = manifest_to_dict(manifest)
        try:
            self._ask(
                f"create the collection {physical!r}",
                lambda client: client.create_collection(
                    physical, metadata={MANIFEST_KEY: stored}, **creation(manifest)
                ),
            )
        except StoreFault as error:
            # where the answer to a first try was lost, the second finds the collection made
            if "already exists" not in error.problem:
                raise
            if not self._is_left_of(physical, manifest):
                raise self._exists(physical) from error
        if MANIFEST_KEY not in self._metadata(physical):
            self._drop(physical)  # made above, and empty
            raise StoreFault(
                f"the Qdrant server at {self._connection.where} does not keep collection metadata",
                fix="Use Qdrant 1.16 or newer.",
            )
        self._index(physical, manifest)

    def _index(self, physical: str, manifest: Manifest) -> None:
        if self._connection.is_local:  # where it would have no effect but a warning
            return
        for path, schema in payload_indexes(manifest).items():
            self._persist_index(physical, path, schema)

    def _persist_index(self, physical: str, path: str, schema: Any) -> None:
        self._ask(
            f"make an index of {path} in the collection {physical!r}",
            lambda client: client.create_payload_index(
                physical, path, field_schema=schema, **self._connection.writing
            ),
        )

    def _is_left_of(self, physical: str, manifest: Manifest) -> bool:
        """Whether a collection is empty and was made as `manifest` says."""
        try:
            check_manifest(self.manifest(physical), manifest)
        except (ManifestMismatch, ManifestCorrupt):
            return False
        found, _ = self._ask(
            f"read the collection {physical!r}",
            lambda client: client.scroll(physical, limit=1, with_payload=False),
        )
        return not found

    def _point(self, alias: str, physical: str, before: str | None) -> None:
        from qdrant_client import models

        operations: list[Any] = []
        if before is not None:
            delete = models.DeleteAlias(alias_name=alias)
            operations.append(models.DeleteAliasOperation(delete_alias=delete))
        create = models.CreateAlias(collection_name=physical, alias_name=alias)
        operations.append(models.CreateAliasOperation(create_alias=create))
        self._ask(
            f"let {alias!r} mean the collection {physical!r}",
            lambda client: client.update_collection_aliases(operations),
        )

    def _drop(self, physical: str) -> None:
        self._ask(
            f"delete the collection {physical!r}",
            lambda client: client.delete_collection(physical),
        )

    def _collections(self) -> set[str]:
        answer = self._ask("list the collections", lambda client: client.get_collections())
        return {found.name for found in answer.collections}

    def _aliases(self) -> dict[str, str]:
        answer = self._ask("list the aliases", lambda client: client.get_aliases())
        return {found.alias_name: found.collection_name for found in answer.aliases}

    def _metadata(self, physical: str) -> Mapping[str, Any]:
        info = self._ask(
            f"open the collection {physical!r}", lambda client: client.get_collection(physical)
        )
        self._limits.setdefault(physical, Limits()).read(info)
        return getattr(info.config, "metadata", None) or {}

    def _ask(self, what: str, call: Callable[[QdrantClient], _T]) -> _T:
        # all of them may be repeated: a second time they find their work done
        return self._connection.read(what, call)

    def _origin(self, physical: str) -> str:
        return f"of the collection {physical!r} at {self._connection.where}"

    def _exists(self, name: str) -> CollectionExists:
        return CollectionExists(
            f"there is already a collection {name!r} at {self._connection.where}",
            fix="Open it, choose another name, or delete it first. Nothing was changed.",
        )

    def _missing(self, name: str, versions: list[str]) -> CollectionNotFound:
        collection, number = split_name(name)
        where = self._connection.where
        if versions and number is None:
            return CollectionNotFound(
                f"there is no collection {name!r} at {where}, but versions that it does not point "
                f"at: {', '.join(map(repr, versions))}",
                fix=f"Let it mean one of them (retrieval switch {name} {versions[-1]}), or index "
                "again.",
            )
        if versions:
            return CollectionNotFound(
                f"there is no version {name!r} at {where}; of {collection!r} there are: "
                + ", ".join(map(repr, versions)),
                fix="Name one of these.",
            )
        names = self.names()
        known = "it holds " + ", ".join(map(repr, names)) if names else "it holds no collections"
        return CollectionNotFound(
            f"there is no collection {name!r} at {where}: {known}",
            fix="Check the name and the server, or make it first: retrieval index PATH.",
        )


def _parts(name: str) -> tuple[str, int | None]:
    """The same as `split_name`, for a name that other programs may have given."""
    try:
        return split_name(name)
    except InvalidInput:
        return name, None


def _is_plain(name: str) -> bool:
    return _parts(name)[1] is None
