"""Bringing a collection of an older format up to this version's: a command, never by itself."""

from __future__ import annotations

from dataclasses import dataclass

from retrieval.index.embedded import index as embedded
from retrieval.index.manifest import FORMAT_VERSION, upgraded
from retrieval.index.server import index as server
from retrieval.index.store import Store, StoreLike


@dataclass(frozen=True, slots=True)
class Upgrade:
    """From which format to which; the same where there was nothing to do."""

    collection: str
    before: int
    after: int


def upgrade_collection(collection: str, *, store: StoreLike) -> Upgrade:
    """Rewrite a collection's manifest in this version's format, in one step.

    Passages and vectors stay as they are: format 1 differs from 2 in what the manifest tells.

    Args:
        collection: its name, or a version of it.
        store: folder, URL or `Store`.

    Raises:
        CollectionNotFound, StoreLocked, ManifestCorrupt
        ManifestMismatch: it was written by a newer version of this library.
    """
    place = Store.of(store)
    if place.is_server:
        physical = place.current(collection)
        values = server.read_stored_manifest(place.location, physical, options=place.options)
        before = int(values.get("format_version", 0))
        manifest = upgraded(values, origin=f"{physical} at {place.location}")
        if before != FORMAT_VERSION:
            server.set_manifest(place.location, physical, manifest, options=place.options)
    else:
        before = embedded.upgrade_manifest(place.location, collection)
    return Upgrade(collection, before, FORMAT_VERSION)
