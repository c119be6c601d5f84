"""Stores: a folder of the embedded engine, or the URL of a Qdrant server, with one meaning."""

from __future__ import annotations

import os
import re
from pathlib import Path

from retrieval.errors import InvalidInput
from retrieval.index.embedded import EmbeddedIndex
from retrieval.index.embedded import list_collections as list_embedded_collections
from retrieval.index.embedded import read_manifest as read_embedded_manifest
from retrieval.index.server import ServerIndex
from retrieval.index.server import list_collections as list_server_collections
from retrieval.index.server import read_manifest as read_server_manifest
from retrieval.types import Manifest

DEFAULT_STORE = ".retrieval"


def read_manifest(
    collection: str, *, store: str | os.PathLike[str] = DEFAULT_STORE, api_key: str | None = None
) -> Manifest:
    """What built a collection, read without opening it.

    Raises:
        CollectionNotFound: no such collection; the message lists those there are.
        ManifestCorrupt: the manifest cannot be read.
    """
    if _is_url(store):
        return read_server_manifest(str(store), collection, api_key=api_key)
    return read_embedded_manifest(Path(store), collection)


def collection_names(
    *, store: str | os.PathLike[str] = DEFAULT_STORE, api_key: str | None = None
) -> list[str]:
    """The collections of a store, sorted; a store that does not exist yet has none."""
    if _is_url(store):
        return list_server_collections(str(store), api_key=api_key)
    return list_embedded_collections(Path(store))


def _is_url(store: str | os.PathLike[str]) -> bool:
    """Whether a store is a server; what can be neither that nor a folder is refused."""
    if not isinstance(store, str):
        return False
    if store.startswith(("http://", "https://")):
        return True
    # Taken for a folder, a mistyped address would give a store in a folder named `ftp:`.
    if not store.strip() or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", store):
        raise InvalidInput(
            f"the store is {store!r}, expected a folder or the http:// or https:// URL of a "
            "Qdrant server",
            fix="Give a folder such as .retrieval, or a URL such as http://localhost:6333.",
        )
    return False


def open_index(
    collection: str, store: str | os.PathLike[str], api_key: str | None
) -> EmbeddedIndex | ServerIndex:
    """An existing collection, opened.

    Raises:
        CollectionNotFound, StoreLocked, ManifestCorrupt: see the two indexes' `open`.
    """
    if _is_url(store):
        return ServerIndex.open(str(store), collection, api_key=api_key)
    return EmbeddedIndex.open(Path(store), collection)


def open_or_create_index(
    manifest: Manifest, store: str | os.PathLike[str], api_key: str | None
) -> EmbeddedIndex | ServerIndex:
    """The collection of a manifest, made where it does not exist.

    Raises:
        ManifestMismatch: it was built with other models or settings.
    """
    if _is_url(store):
        return ServerIndex.open_or_create(
            str(store), manifest.collection, manifest, api_key=api_key
        )
    return EmbeddedIndex.open_or_create(Path(store), manifest.collection, manifest)
