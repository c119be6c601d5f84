"""Collections as callers see them: listing, describing, making and deleting them."""

from __future__ import annotations

import contextlib
from typing import Any

from app.backend.access import Access
from app.backend.calls import Calls
from app.backend.open_collections import OpenCollections
from app.backend.writes import Writing
from app.settings.settings import Settings
from app.types import Caller, CollectionInfo
from retrieval import TwoStageRetriever
from retrieval.errors import CollectionNotFound, ManifestCorrupt, ManifestMismatch


class Collections:
    """The collections of the service, for each caller those that it may use.

    Args:
        settings: which collection is the default one.
        access: what callers may do.
        calls: admission and threads.
        opened: those that are open.
        writing: makes and deletes them.
    """

    def __init__(
        self,
        settings: Settings,
        access: Access,
        calls: Calls,
        opened: OpenCollections,
        writing: Writing,
    ) -> None:
        self._settings = settings
        self._access = access
        self._calls = calls
        self._opened = opened
        self._writing = writing

    def default(self, caller: Caller) -> str:
        """The collection of a call that names none: the setting's, or the caller's only one.

        Raises:
            InvalidInput: there is no default for this caller.
        """
        return self._access.default(caller)

    async def list(self, caller: Caller) -> list[CollectionInfo]:
        """Those that the caller may use, by name; nothing is opened for it."""

        def infos() -> list[CollectionInfo]:
            found: list[CollectionInfo] = []
            for name in self._access.visible(caller):
                # one that was deleted meanwhile, or cannot be read, hides none of the others
                with contextlib.suppress(CollectionNotFound, ManifestCorrupt, ManifestMismatch):
                    found.append(self._info(caller, name, caller.tenant, open_it=False))
            return found

        return await self._calls.other(caller, infos)

    async def get(
        self, caller: Caller, name: str | None, *, tenant: str | None = None
    ) -> CollectionInfo:
        """One of them; None for the default one.

        Raises:
            CollectionNotFound: there is none, or the caller may not use it.
        """
        chosen, owner = self._access.about(caller, name, tenant)
        return await self._calls.other(
            caller, lambda: self._info(caller, chosen, owner, open_it=True), chosen
        )

    async def create(self, caller: Caller, name: str, **options: Any) -> CollectionInfo:
        """A new, empty collection.

        Args:
            caller: the caller.
            name: of the collection.
            options: encoder, language, max_tokens, overlap_tokens, fields, storage, lexical,
                token_vectors and tenants, as `retrieval.ingest` has them.

        Raises:
            CollectionExists: there is one of that name.
            InvalidInput: an option that does not exist, or cannot be used.
            NotHere: an encoder that the service does not run.
        """
        self._access.write(caller)
        chosen = self._access.collection(caller, name)
        if caller.tenant is not None:
            options["tenants"] = True

        def create() -> CollectionInfo:
            self._writing.create(chosen, options)
            return self._info(caller, chosen, caller.tenant, open_it=True)

        return await self._calls.write(caller, create)

    async def delete(self, caller: Caller, name: str) -> None:
        """Delete a collection with all its versions.

        Raises:
            CollectionNotFound, Conflict
        """
        self._access.write(caller)
        chosen = self._access.collection(caller, name)
        self._access.whole_collection(caller, chosen)
        await self._calls.write(caller, lambda: self._writing.delete(chosen), chosen)

    def _info(
        self, caller: Caller, name: str, tenant: str | None, *, open_it: bool
    ) -> CollectionInfo:
        default = name == self._settings.collection
        if not open_it and self._opened.opened(name) is None:
            manifest = self._access.manifest(caller, name, self._opened.manifest(name))
            return CollectionInfo(name, manifest, None, None, default)

        def info(retriever: TwoStageRetriever) -> CollectionInfo:
            index = retriever.index
            manifest = self._access.manifest(caller, name, index.manifest)
            if tenant is None and manifest.layout.tenants:
                passages = index.status().points  # of all tenants
            else:
                passages = index.count(tenant=tenant)
            return CollectionInfo(name, manifest, passages, index.physical, default)

        return self._opened.ask(name, info)
