"""Marks of restores that are under way or were cut off.

A server makes a collection of a snapshot under its final name at once, with a manifest that says
nothing of being unfinished. So a restore into `docs@v1` first makes a mark, the empty collection
`docs@v1@restoring`, whose name can be neither a user's nor a version's; while it is there,
neither is counted among the server's collections. What a killed restore leaves is thereby known
for what it is, and swept by the next restore of that name.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from retrieval.errors import CollectionNotFound, RetrievalError, StoreFault
from retrieval.index.manifest import split_name, version_name

if TYPE_CHECKING:
    from retrieval.index.server.client import Connection

_SUFFIX = "@restoring"
_KEY = "retrieval_restore"
UPLOAD_PREFIX = "retrieval-restore-"
"""How the uploaded files of restores begin, which lie among a collection's snapshots."""


def finished(names: Iterable[str]) -> set[str]:
    """The names of collections without marks, and without what is marked."""
    names = set(names)
    marks = {name for name in names if _is_mark(name)}
    return names - marks - {mark.removesuffix(_SUFFIX) for mark in marks}


def marked(names: Iterable[str], collection: str) -> list[str]:
    """The physical names of a collection that are marked, whether there or not."""
    found = [name.removesuffix(_SUFFIX) for name in names if _is_mark(name)]
    return sorted(name for name in found if split_name(name)[0] == collection)


def begin(connection: Connection, collection: str) -> str:
    """Take the first version of a collection that is free, and mark it; returns its name."""
    from qdrant_client import models

    metadata = {_KEY: uuid.uuid4().hex}
    number = 1
    while True:
        names = every_name(connection)
        while {version_name(collection, number), _mark(version_name(collection, number))} & names:
            number += 1
        mark = _mark(version_name(collection, number))
        try:
            connection.read(
                f"create the collection {mark!r}",
                lambda client, mark=mark: client.create_collection(  # type: ignore[misc]
                    mark, vectors_config={}, metadata=metadata, shard_number=1,
                    wal_config=models.WalConfigDiff(wal_capacity_mb=1),
                ),
            )  # fmt: skip
        except StoreFault as error:
            if "already exists" not in error.problem:
                raise
        if _metadata(connection, mark) == metadata:
            return mark.removesuffix(_SUFFIX)
        number += 1  # another restore was first


def is_marked(connection: Connection, physical: str) -> bool:
    """Whether the mark is still there; another restore of the same name takes it away."""
    return _mark(physical) in every_name(connection)


def end(connection: Connection, physical: str) -> None:
    """Take the mark away: from now on the collection counts."""
    _drop(connection, _mark(physical))


def sweep(connection: Connection, physical: str, *, with_mark: bool) -> None:
    """Delete what a restore left: the collection, the file it was made of, and its mark.

    The mark alone stays where it is not to go yet: a server may still be making the collection
    of what a killed restore has sent it.
    """
    if not (_metadata(connection, _mark(physical)) or {}).get(_KEY):
        return  # of another program, or gone meanwhile
    discard(connection, physical)
    if with_mark:
        end(connection, physical)


def discard(connection: Connection, physical: str) -> None:
    """Delete a collection that never got its name, with the file it was made of."""
    if physical not in every_name(connection):
        # the file may be there without it, and is only told of a collection that exists
        connection.read(
            f"create the collection {physical!r}",
            lambda client: client.create_collection(physical, vectors_config={}, shard_number=1),
        )
    with contextlib.suppress(RetrievalError):  # the collection goes all the same
        delete_uploads(connection, physical)
    _drop(connection, physical)


def delete_uploads(connection: Connection, physical: str) -> None:
    """Delete the files that restores of this library sent, which the server keeps."""
    found = connection.read(
        f"list the snapshots of {physical!r}", lambda client: client.list_snapshots(physical)
    )
    for name in [one.name for one in found if one.name.startswith(UPLOAD_PREFIX)]:
        connection.read(
            f"delete the snapshot {name!r} of {physical!r}",
            lambda client, name=name: client.delete_snapshot(  # type: ignore[misc]
                physical, name, wait=True
            ),
        )


def every_name(connection: Connection) -> set[str]:
    """The names of all the server's collections, marks among them."""
    answer = connection.read("list the collections", lambda client: client.get_collections())
    return {found.name for found in answer.collections}


def _mark(physical: str) -> str:
    return physical + _SUFFIX


def _is_mark(name: str) -> bool:
    if not name.endswith(_SUFFIX):
        return False
    try:
        return split_name(name.removesuffix(_SUFFIX))[1] is not None
    except RetrievalError:
        return False


def _metadata(connection: Connection, name: str) -> dict[str, Any] | None:
    try:
        info = connection.read(
            f"open the collection {name!r}", lambda client: client.get_collection(name)
        )
    except CollectionNotFound:
        return None
    return dict(getattr(info.config, "metadata", None) or {})


def _drop(connection: Connection, name: str) -> None:
    connection.read(
        f"delete the collection {name!r}", lambda client: client.delete_collection(name)
    )
