"""The collections of a Qdrant server: names, versions, manifests.

A collection `docs` is an alias for one of its versions `docs@v1`, `docs@v2` …, each a collection
of the server's own with its manifest in its metadata. An alias is moved in one request, so that
a search finds the old version or the new one. A plain collection `docs` without alias is one that
this library made before it knew versions, or that others made.

Others may use the same server. What has no manifest of this library for that name is theirs,
whatever it is called: it is named where it stands in the way, and never counted, switched to or
deleted.
`creating.py` says how a collection is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    InvalidInput,
    ManifestCorrupt,
    StoreDenied,
)
from retrieval.index.manifest import (
    MANIFEST_KEY,
    manifest_from_dict,
    split_name,
    version_name,
)
from retrieval.index.server.client import Connection
from retrieval.index.server.limits import Limits
from retrieval.index.server.unfinished import every_name, finished, marked, sweep
from retrieval.types import Manifest

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Described:
    """What a server says of a collection. `copies`: of each of its points."""

    manifest: Manifest
    copies: int
    metadata: Mapping[str, Any]


class Catalog:
    """What a server has, asked anew with every call."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._limits: dict[str, Limits] = {}

    def names(self) -> list[str]:
        """What can be opened by its own name: aliases, and collections that are not versions."""
        return sorted({*self.aliases(), *(one for one in self.collections() if _is_plain(one))})

    def foreign(self, name: str | None = None) -> list[str]:
        """What this library did not make and leaves alone, aliases of it too: all, or what is
        called like a collection or its versions."""
        aliases = self.aliases()
        found = {
            one: aliases.get(one, one)
            for one in self.collections() | aliases.keys()
            if name is None or _parts(one)[0] == name
        }
        return sorted(
            one for one, target in found.items() if not self.is_own(target, _parts(target)[0])
        )

    def resolve(self, name: str) -> str:
        """The collection that a name means now: of `docs` its current version.

        Raises:
            CollectionNotFound: the message lists the collections there are.
        """
        collection, number = split_name(name)
        if number is None:
            target = self.aliases().get(collection)
            if target is not None:
                return target
        present = self.collections()
        if name in present:
            return name
        raise self._missing(name, present)

    def versions(self, name: str, present: set[str] | None = None) -> list[str]:
        """The versions of a collection, oldest first; one without versions is its own only one."""
        like = self.like(name, self.collections() if present is None else present)
        return [one for one in like if self.is_own(one, name)]

    def next_version(self, name: str) -> str:
        """A name that no version has, nor anything else."""
        present = every_name(self._connection)
        restored = marked(present, name)
        taken = self.like(name, present | self.aliases().keys() | set(restored))
        numbers = [_parts(one)[1] or 1 for one in taken if one in present or one != name]
        return version_name(name, max(numbers, default=0) + 1)

    def like(self, name: str, present: set[str]) -> list[str]:
        """What is called like a collection or its versions, by number, whoever made it."""
        found = [one for one in present if _parts(one)[0] == name]
        return sorted(found, key=lambda one: _parts(one)[1] or 0)

    def is_own(self, physical: str, collection: str) -> bool:
        """Whether this library made it for that collection; also where its manifest is damaged."""
        with contextlib.suppress(CollectionNotFound):  # deleted meanwhile
            found = self.metadata(physical).get(MANIFEST_KEY)
            return isinstance(found, Mapping) and found.get("collection", collection) == collection
        return False

    def manifest(self, physical: str) -> Manifest:
        """The manifest of a collection, by its physical name.

        Raises:
            ManifestCorrupt: there is none, or it cannot be used.
            ManifestMismatch: it has a format that this version does not know.
        """
        return self.described(physical).manifest

    def described(self, physical: str) -> Described:
        """What the server says of a collection, by its physical name, in one request.

        Raises: as `manifest`.
        """
        info, origin = self._info(physical), self._origin(physical)
        metadata = getattr(info.config, "metadata", None) or {}
        found = metadata.get(MANIFEST_KEY)
        if not isinstance(found, Mapping):
            raise ManifestCorrupt(
                f"there is no manifest {origin}: the collection was not made by this library",
                fix="Index into a new collection; nothing was changed.",
            )
        manifest = manifest_from_dict(dict(found), origin=origin)
        copies = getattr(info.config.params, "replication_factor", None) or 1
        return Described(manifest, max(copies, manifest.storage.replicas or 1), metadata)

    def limits(self, physical: str) -> Limits:
        """What the server allows of a collection whose manifest was read."""
        return self._limits[physical]

    def switch(self, name: str, physical: str) -> str:
        """Let a name mean another version, in one request, and say which it meant before.

        Returns:
            The version before, or `physical` where the name meant none.

        Raises:
            CollectionNotFound: there is no such version; the message lists those there are.
            InvalidInput: it is a version of another collection, or one that others made, or the
                name is taken.
        """
        collection, number = split_name(name)
        if number is not None or _parts(physical)[0] != collection:
            raise InvalidInput(
                f"{physical!r} is not a version of the collection {name!r}",
                fix=f"Name one such as {version_name(collection, 2)!r}.",
            )
        present = self.collections()
        if physical not in present:
            raise self._missing(physical, present)
        self._require_own(physical, collection)
        if collection in present:
            if physical == collection:
                return physical
            raise InvalidInput(
                f"{collection!r} at {self._connection.where} is a collection without versions, "
                "and a Qdrant server cannot give its name to another",
                fix=f"Delete it first in Qdrant itself (DELETE /collections/{collection}) and "
                "switch again; searches find nothing in between.",
            )
        before = self.aliases().get(collection)
        if before is not None and before != physical:
            self._require_version(collection, before)
        if before != physical:
            self.point(collection, physical, before)
        return before or physical

    def delete(self, name: str) -> None:
        """Delete a collection with all its versions, or one version that is not the current one.

        Raises:
            CollectionNotFound: there is none of that name.
            InvalidInput: a version that its name means now, an alias of something else, or what
                others made; nothing was deleted.
        """
        collection, number = split_name(name)
        target = self.aliases().get(collection)
        present = self.collections()
        if number is not None:
            if name not in present:
                raise self._missing(name, present)
            self._require_own(name, collection)
            if name == target:
                raise InvalidInput(
                    f"{name!r} is the current version of {collection!r}; nothing was deleted",
                    fix=f"Switch to another version first, or delete {collection!r} with all its "
                    "versions.",
                )
            self.drop(name)
            return
        if target is not None:
            self._require_version(collection, target)
        elif collection in present:
            self._require_own(collection, collection)
        versions = self.versions(collection, present)
        if not versions:
            raise self._missing(name, present)
        # The current one goes last, and its alias with it: a killed delete can be repeated.
        for one in sorted(versions, key=lambda one: (one == target, one == name)):
            self.drop(one)
        for one in marked(every_name(self._connection), collection):
            sweep(self._connection, one, with_mark=True)

    def point(self, alias: str, physical: str, before: str | None) -> None:
        """Let an alias mean a collection, whatever it means by then: there is no precondition."""
        from qdrant_client import models

        operations: list[Any] = []
        if before is not None:
            delete = models.DeleteAlias(alias_name=alias)
            operations.append(models.DeleteAliasOperation(delete_alias=delete))
        create = models.CreateAlias(collection_name=physical, alias_name=alias)
        operations.append(models.CreateAliasOperation(create_alias=create))
        self.ask(
            f"let {alias!r} mean the collection {physical!r}",
            lambda client: client.update_collection_aliases(operations),
        )

    def drop(self, physical: str) -> None:
        """Delete a collection of the server, and what aliases it has."""
        self.ask(
            f"delete the collection {physical!r}",
            lambda client: client.delete_collection(physical),
        )

    def collections(self) -> set[str]:
        """The server's, by its own names, without restores that are not finished."""
        return finished(every_name(self._connection))

    def aliases(self) -> dict[str, str]:
        """Alias → the collection that it means."""
        answer = self.ask("list the aliases", lambda client: client.get_aliases())
        return {found.alias_name: found.collection_name for found in answer.aliases}

    def metadata(self, physical: str) -> Mapping[str, Any]:
        """What is noted of a collection beside its points."""
        return getattr(self._info(physical).config, "metadata", None) or {}

    def _info(self, physical: str) -> models.CollectionInfo:
        info = self.ask(
            f"open the collection {physical!r}", lambda client: client.get_collection(physical)
        )
        self._limits.setdefault(physical, Limits()).read(info)
        return info

    def ask(self, what: str, call: Callable[[QdrantClient], _T]) -> _T:
        """One request; all of them may be repeated: a second time they find their work done."""
        return self._connection.read(what, call)

    def exists(self, name: str) -> CollectionExists:
        """The error for a name that is taken."""
        where = self._connection.where
        taken = self.aliases().get(name, name)
        present = self.collections()
        if taken in present and not self.is_own(taken, split_name(name)[0]):
            what = f"an alias of {taken!r}" if taken != name else "a collection"
            return CollectionExists(
                f"the name {name!r} is taken at {where}, by {what} that this library did not make",
                fix="Choose another name. Nothing was changed.",
            )
        return CollectionExists(
            f"there is already a collection {name!r} at {where}",
            fix="Open it, choose another name, or delete it first. Nothing was changed.",
        )

    def _require_own(self, physical: str, collection: str) -> None:
        if self.is_own(physical, collection):
            return
        raise InvalidInput(
            f"{physical!r} at {self._connection.where} is not one that this library made for "
            f"{collection!r}; nothing was changed",
            fix="Choose another, or see to it in Qdrant itself.",
        )

    def _require_version(self, collection: str, target: str) -> None:
        if _parts(target)[0] == collection and self.is_own(target, collection):
            return
        raise InvalidInput(
            f"{collection!r} is an alias of {target!r}, which is not a version of it; nothing was "
            "changed",
            fix=f"See to {target!r} by its own name, or to the alias in Qdrant itself.",
        )

    def _origin(self, physical: str) -> str:
        return f"of the collection {physical!r} at {self._connection.where}"

    def _missing(self, name: str, present: set[str]) -> CollectionNotFound:
        collection, number = split_name(name)
        where = self._connection.where
        self._check_withheld(name)
        versions = self.versions(collection, present)
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
        others = self.like(collection, present)
        if others:
            known += f" (and {', '.join(map(repr, others))}, which this library did not make)"
        return CollectionNotFound(
            f"there is no collection {name!r} at {where}: {known}",
            fix="Check the name and the server, or make it first: retrieval index PATH.",
        )

    def _check_withheld(self, name: str) -> None:
        """Lists come back without what a token may not see: ask for the name itself.

        Raises:
            StoreDenied: the key may not use it, or not the version that it means.
        """
        if self._connection.options.api_key is None:
            return
        with contextlib.suppress(CollectionNotFound):
            self.ask(f"open {name!r}", lambda client: client.get_collection(name))
            raise StoreDenied(
                f"the key may use {name!r} at {self._connection.where}, but not the version of it "
                "that it means",
                fix="The key is a token for some collections only: let it list the versions as "
                f"well as the name ({version_name(split_name(name)[0], 1)!r} and so on).",
            )


def _parts(name: str) -> tuple[str, int | None]:
    """The same as `split_name`, for a name that other programs may have given."""
    try:
        return split_name(name)
    except InvalidInput:
        return name, None


def _is_plain(name: str) -> bool:
    return _parts(name)[1] is None
