"""Stores: a folder of the embedded engine, or a Qdrant server, with one meaning.

A collection may exist in several versions (built with other models or splitters), `docs@v1`,
`docs@v2` and so on; its name means the current one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from retrieval.errors import CollectionNotFound, InvalidInput
from retrieval.index.collection import CollectionIndex
from retrieval.index.embedded import index as embedded
from retrieval.index.embedded.index import EmbeddedIndex
from retrieval.index.manifest import split_name
from retrieval.index.server import index as server
from retrieval.index.server.addresses import addresses
from retrieval.index.server.cluster import Cluster
from retrieval.index.server.index import ServerIndex, ServerOptions
from retrieval.index.server.options import options_of_each
from retrieval.types import Calibration, Manifest, SearchDefaults, Tuning

__all__ = ["DEFAULT_COLLECTION", "DEFAULT_STORE", "ServerOptions", "Store", "StoreLike"]

DEFAULT_COLLECTION = "docs"
DEFAULT_STORE = ".retrieval"


class Store:
    """Where collections are kept.

    Args:
        location: a folder, or the http:// or https:// URL of a Qdrant server, or several URLs of
            one cluster's nodes, with commas between. At the end there may be fields of
            `ServerOptions`, except the key, as in `https://host:6333?grpc=true&timeout_s=30`.
        options: how a server is reached; for a server only, and not with such a URL.
        api_key: shorthand for `ServerOptions(api_key=…)`.

    Raises:
        InvalidInput: the location can be neither, or an option cannot be used.

    Example:
        >>> import retrieval
        >>> store = retrieval.Store("my-collections")
        >>> documents = [retrieval.Document("a", "The gate closes at ten.")]
        >>> _ = retrieval.ingest(documents, "house", store=store, encoder="starter")
        >>> store.names()
        ['house']
        >>> store.manifest("house").encoder.dimension
        384
    """

    def __init__(
        self,
        location: str | os.PathLike[str] = DEFAULT_STORE,
        *,
        options: ServerOptions | None = None,
        api_key: str | None = None,
    ) -> None:
        self.is_server = _is_url(location)
        self.location = str(location) if self.is_server else os.fspath(location)
        if options is not None and not self.is_server:
            raise InvalidInput(
                f"server options were given for the store {self.location!r}, which is a folder",
                fix="Leave them out, or give the URL of the server.",
            )
        self.options = options or ServerOptions()
        if self.is_server and "?" in self.location:
            self.location, written = self.location.split("?", 1)
            if options is not None:
                raise InvalidInput(
                    f"options were given twice: as ServerOptions, and in the URL ({written})",
                    fix="Give them in one place.",
                )
            self.options = _options_in(written)
        if self.is_server:
            self.location = ",".join(addresses(self.location))
            options_of_each(addresses(self.location), self.options)
        if api_key is not None:
            self.options = replace(self.options, api_key=api_key)

    @classmethod
    def of(cls, store: StoreLike, api_key: str | None = None) -> Store:
        """The store that was given, or the one at a location.

        Raises:
            InvalidInput: no location, or an API key besides a store that has its own.
        """
        if not isinstance(store, Store):
            return cls(store, api_key=api_key)
        if api_key is None or api_key == store.options.api_key:
            return store
        raise InvalidInput(
            "an API key was given besides a Store, which has its own",
            fix="Give it to the Store: Store(url, api_key=…).",
        )

    def names(self) -> list[str]:
        """The collections, sorted; a folder that does not exist yet has none.

        Raises:
            StoreDenied, StoreFault
        """
        if self.is_server:
            return server.list_collections(self.location, options=self.options)
        return embedded.list_collections(self._folder)

    def manifest(self, name: str) -> Manifest:
        """What built a collection, read without opening it.

        Args:
            name: of a collection, or of one version of it.

        Raises:
            CollectionNotFound: no such collection; the message lists those there are.
            ManifestCorrupt: the manifest cannot be read.
        """
        if self.is_server:
            return server.read_manifest(self.location, name, options=self.options)
        return embedded.read_manifest(self._folder, name)

    def set_defaults(self, name: str, defaults: SearchDefaults) -> None:
        """Let searches of a collection take these defaults from now on, where they do not say.

        What has the collection open takes them when it opens it again; a `FollowingRetriever`,
        and with it the service, within a second.

        Raises:
            CollectionNotFound, ManifestCorrupt, StoreDenied, StoreFault

        Example:
            >>> import retrieval
            >>> from retrieval.types import SearchDefaults
            >>> _ = retrieval.ingest([retrieval.Document("a", "Soup.")], "menu", encoder="starter")
            >>> retrieval.Store().set_defaults("menu", SearchDefaults(mode="dense", rerank=False))
            >>> with retrieval.open("menu") as retriever:
            ...     result = retriever.search("what is there to eat?")
            >>> result.mode, result.reranker
            ('dense', None)
        """
        self._tune(name, lambda tuning: replace(tuning, defaults=defaults))

    def set_calibration(self, name: str, calibration: Calibration | None) -> None:
        """Keep what the scores of a collection mean; None forgets it.

        Raises:
            CollectionNotFound, ManifestCorrupt, StoreDenied, StoreFault
        """
        self._tune(name, lambda tuning: replace(tuning, calibration=calibration))

    def set_query_instruction(self, name: str, instruction: str) -> None:
        """Let queries be encoded with another instruction; passages carry none of it.

        Raises:
            CollectionNotFound, ManifestCorrupt, StoreDenied, StoreFault
        """

        def change(manifest: Manifest) -> Manifest:
            encoder = replace(manifest.encoder, query_instruction=instruction)
            return replace(manifest, encoder=encoder)

        self._change_manifest(name, change)

    def _tune(self, name: str, change: Callable[[Tuning], Tuning]) -> None:
        self._change_manifest(name, lambda one: replace(one, tuning=change(one.tuning)))

    def _change_manifest(self, name: str, change: Callable[[Manifest], Manifest]) -> None:
        if self.is_server:
            server.change_manifest(self.location, name, change, options=self.options)
        else:
            embedded.change_manifest(self._folder, name, change)

    def vector_names(self, manifest: Manifest) -> dict[str, str]:
        """The vectors of a collection → what they are called in the engine, for those who read it
        with other clients of Qdrant: on a server, names with the collection's id in them.
        """
        built = manifest if self.is_server else replace(manifest, id="")
        return {str(name): called for name, called in server.vector_names(built).items()}

    def open(self, name: str, *, expect: Manifest | None = None) -> CollectionIndex:
        """An existing collection; its current version where the name names none.

        Args:
            name: of a collection, or of one version of it.
            expect: the manifest it must match, except `created`.

        Raises:
            CollectionNotFound, ManifestMismatch, StoreLocked, ManifestCorrupt: see the indexes.
        """
        if self.is_server:
            return ServerIndex.open(self.location, name, expect=expect, options=self.options)
        return EmbeddedIndex.open(self._folder, name, expect=expect)

    def create(self, manifest: Manifest, *, version: str | None = None) -> CollectionIndex:
        """A new, empty collection, or a new version that searches do not use yet.

        Raises:
            CollectionExists: there is one; it was not touched.
        """
        name = version or manifest.collection
        if self.is_server:
            return ServerIndex.create(self.location, name, manifest, options=self.options)
        return EmbeddedIndex.create(self._folder, name, manifest)

    def open_or_create(self, manifest: Manifest, *, version: str | None = None) -> CollectionIndex:
        """The collection (or version) of a manifest, made where it does not exist.

        Raises:
            ManifestMismatch: it was built with other models or settings.
        """
        name = version or manifest.collection
        if self.is_server:
            return ServerIndex.open_or_create(self.location, name, manifest, options=self.options)
        return EmbeddedIndex.open_or_create(self._folder, name, manifest)

    def versions(self, name: str) -> list[str]:
        """The versions of a collection by the engine's own names, oldest first.

        Only those that this library made; see `foreign`.

        Raises:
            CollectionNotFound: it has none.
        """
        if self.is_server:
            found = server.list_versions(self.location, name, options=self.options)
        else:
            found = embedded.list_versions(self._folder, name)
        if not found:
            self.manifest(name)  # which says what there is instead
            raise CollectionNotFound(
                f"the collection {name!r} in {self.location} has no version",
                fix="Make it: retrieval index PATH.",
            )
        return found

    def current(self, name: str) -> str:
        """The version that searches of a collection use, by the engine's own name.

        Raises:
            CollectionNotFound
        """
        if split_name(name)[1] is not None:
            return name
        if self.is_server:
            return server.current(self.location, name, options=self.options)
        return embedded.current(self._folder, name)

    def cluster(self, name: str) -> Cluster | None:
        """Where a server keeps the shards of a collection, or of one version of it: nodes, copies
        and their states. None for a folder, and where the API key may not read it.

        Raises:
            CollectionNotFound, StoreFault
        """
        if not self.is_server:
            return None
        return server.cluster(self.location, name, options=self.options)

    def next_version(self, name: str) -> str:
        """The name that the next version of a collection gets, which nothing has.

        Raises:
            CollectionNotFound: there is no version of it yet.
        """
        self.versions(name)
        if self.is_server:
            return server.next_version(self.location, name, options=self.options)
        return embedded.next_version(self._folder, name)

    def foreign(self, name: str | None = None) -> list[str]:
        """What lies in the store, sorted, that this library did not make and leaves alone.

        Args:
            name: only what is called like this collection or its versions.

        Raises:
            StoreDenied, StoreFault
        """
        if self.is_server:
            return server.list_foreign(self.location, name, options=self.options)
        return embedded.list_foreign(self._folder, name)

    def switch(self, name: str, version: str) -> str:
        """Let searches use another version from now on, in one step, and say which it was before.

        Indexes that are open go on with the version that they opened.

        Raises:
            CollectionNotFound: there is no such version; the message lists those there are.
        """
        if self.is_server:
            return server.switch(self.location, name, version, options=self.options)
        return embedded.switch(self._folder, name, version)

    def rollback(self, name: str) -> str:
        """Switch to the version before the current one, and say which that is.

        Raises:
            InvalidInput: there is none before it.
        """
        versions = self.versions(name)
        now = self.current(name)
        if now not in versions:
            raise InvalidInput(
                f"{name!r} means {now!r}, which is not a version of it; nothing was changed",
                fix=f"There are: {', '.join(versions)}.",
            )
        older = [one for one in versions if _number(one) < _number(now)]
        if not older:
            raise InvalidInput(
                f"{now!r} is the oldest version of {name!r}; there are: {', '.join(versions)}",
                fix=f"Name the version to use: retrieval switch {name} VERSION.",
            )
        self.switch(name, older[-1])
        return older[-1]

    def delete(self, name: str) -> None:
        """Delete a collection with all its versions, or one version that is not the current one.

        Raises:
            CollectionNotFound: there is none of that name.
            StoreLocked: it is open elsewhere; nothing was deleted.
            InvalidInput: a version that searches use; nothing was deleted.
        """
        if self.is_server:
            server.delete_collection(self.location, name, options=self.options)
        else:
            embedded.delete_collection(self._folder, name)

    def server_versions(self) -> tuple[str, str] | None:
        """The versions of qdrant-client and of the server, such as 1.20.0 and 1.18.3; None for a
        folder.

        Raises:
            StoreDenied, StoreFault
        """
        if not self.is_server:
            return None
        return server.server_versions(self.location, options=self.options)

    def check_writable(self, name: str) -> None:
        """Find out whether a server's key may write to a collection; changes nothing, and does
        nothing for a folder.

        Args:
            name: of a collection, which need not exist, or of one version of it.

        Raises:
            StoreDenied: it may not.
            StoreFault: the server does not answer.
        """
        if self.is_server:
            server.check_writable(self.location, name, options=self.options)

    def __repr__(self) -> str:
        return f"Store({self.location!r})"

    @property
    def _folder(self) -> Path:
        return Path(self.location)


StoreLike: TypeAlias = "str | os.PathLike[str] | Store"
"""What functions take as `store`: a folder, a URL, or a `Store` with options."""


_TRUTH = {"true": True, "false": False}
_READ: dict[str, Callable[[str], Any]] = {
    "grpc": _TRUTH.__getitem__,
    "grpc_port": lambda text: tuple(map(int, text.split(","))) if "," in text else int(text),
    "ca_certificate": Path,
    "client_certificate": Path,
    "client_key": Path,
    "proxy": _TRUTH.__getitem__,
    "timeout_s": float,
    "retry_s": float,
    "read_consistency": lambda text: int(text) if text.isdigit() else text,
    "write_ordering": str,
}


def _options_in(query: str) -> ServerOptions:
    """Server options written as `grpc=true&timeout_s=30`."""
    options: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name == "api_key":
            raise InvalidInput(
                "an API key is in the URL of the store, where logs and `ps` show it",
                fix="Give it as api_key, --api-key @FILE or RETRIEVAL_API_KEY.",
            )
        try:
            options[name] = _READ[name](text)
        except (KeyError, ValueError):
            raise InvalidInput(
                f"the URL of the store says {name}={text!r}; expected true or false for grpc "
                "and proxy, a number for grpc_port, timeout_s and retry_s, a file for "
                "ca_certificate, client_certificate and client_key, a word for read_consistency "
                "and write_ordering",
                fix="Correct it, as in http://host:6333?grpc=true&timeout_s=30.",
            ) from None
    return ServerOptions(**options)


def _number(physical: str) -> int:
    return split_name(physical)[1] or 1


def _is_url(location: str | os.PathLike[str]) -> bool:
    """Whether a store is a server; what can be neither that nor a folder is refused."""
    if not isinstance(location, (str, os.PathLike)):
        raise InvalidInput(
            f"the store is a {type(location).__name__}, expected a folder, a URL or a Store",
            fix="Give a folder such as .retrieval, or a URL such as http://localhost:6333.",
        )
    if not isinstance(location, str):
        return False
    if location.startswith(("http://", "https://")):
        return True
    # Taken for a folder, a mistyped address would give a store in a folder named `ftp:`.
    if not location.strip() or re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", location):
        raise InvalidInput(
            f"the store is {location!r}, expected a folder or the http:// or https:// URL of a "
            "Qdrant server",
            fix="Give a folder such as .retrieval, or a URL such as http://localhost:6333.",
        )
    return False
