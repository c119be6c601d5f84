"""Changes of collections: making, writing and deleting; one writer per collection at a time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import retrieval
from app.backend.models import Models
from app.backend.open_collections import OpenCollections
from app.settings.settings import Settings, storage
from retrieval import Document, IngestReport, Store, TwoStageRetriever
from retrieval.errors import (
    CollectionExists,
    CollectionNotFound,
    CollectionReplaced,
    InvalidInput,
    RetrievalError,
)
from retrieval.ingestion import IngestProgressCallback
from retrieval.ingestion.collection_settings import CollectionOptions
from retrieval.types import Manifest

# How long a write waits for another one: a request should not wait for a job of hours.
PATIENCE_SECONDS = 30.0
# A new collection's language and fields are judged by its first documents, see `ingest`.
FIRST_DOCUMENTS = 200

_CREATE_OPTIONS = ("encoder", *CollectionOptions.__annotations__, "tenants")

Source: TypeAlias = "str | Sequence[Document] | Callable[[], Iterable[Document]]"
"""A path, documents, or a function that gives the documents anew each time."""


class Writing:
    """Writes, all blocking; they run under their request's control.

    Args:
        settings: how collections are made.
        store: where they are.
        collections: those that are open.
        models: what new ones are made with.
    """

    def __init__(
        self, settings: Settings, store: Store, collections: OpenCollections, models: Models
    ) -> None:
        self._settings = settings
        self._store = store
        self._collections = collections
        self._models = models

    def create(self, name: str, options: dict[str, Any]) -> None:
        """A new, empty collection.

        Raises:
            CollectionExists: there is one of that name.
            InvalidInput: an option that does not exist, or cannot be used.
            NotHere: an encoder that the service does not run: a name could be any folder or
                any model of a hub.
        """
        for option in options:
            if option not in _CREATE_OPTIONS:
                raise InvalidInput(
                    f"a collection has no option {option!r}; it has {', '.join(_CREATE_OPTIONS)}",
                    fix="Correct its name, or leave it out.",
                )
        options = dict(options)
        # Which tenant asks does not matter: none of its documents is written here.
        tenant = name if options.pop("tenants", False) else None
        with self._collections.writing(name, "it is being made", patience_s=PATIENCE_SECONDS):
            if self._exists(name):
                raise CollectionExists(
                    f"there is already a collection {name!r}; nothing was changed",
                    fix="Choose another name, or write documents to it as it is.",
                )
            self._make(name, [], tenant, **options)

    def upsert(
        self,
        source: Source,
        name: str,
        *,
        tenant: str | None,
        check: Callable[[Manifest], object] = lambda manifest: None,
        what: str = "documents are being written",
        prune: bool = False,
        within: Sequence[Path] | None = None,
        progress: IngestProgressCallback | None = None,
        patience_s: float = PATIENCE_SECONDS,
    ) -> IngestReport:
        """Write documents; made durable; makes the collection where it is missing.

        Args:
            source: what is written.
            name: of the collection.
            tenant: owns the documents.
            check: gets an existing collection's manifest before anything is written, and raises
                where nothing may be.
            what: this write, in the message to other writers.
            prune, within, progress: as for `retrieval.ingest`.
            patience_s: how long to wait for another writer.

        Raises:
            Conflict: another writer took too long.
            As `retrieval.ingest`.
        """

        def write() -> IngestReport:
            with self._collections.writing(name, what, patience_s=patience_s):
                before: IngestReport | None = None
                if not self._exists(name):
                    first = list(itertools.islice(_documents(source, within), FIRST_DOCUMENTS))
                    before = self._make_with(name, first, tenant, progress)
                    if not isinstance(source, str) and len(first) < FIRST_DOCUMENTS:
                        with contextlib.suppress(RetrievalError), self._collections.using(name):
                            pass  # searches come next
                        return before
                with self._collections.using(name) as retriever:
                    check(retriever.index.manifest)
                    retriever.index.document_states([], tenant=tenant)  # refuses a wrong tenant
                    given = source() if callable(source) else source
                    report = retrieval.ingest(
                        given,
                        retriever,
                        tenant=tenant,
                        prune=prune,
                        within=within,
                        progress=progress,
                    )
                return report if before is None else _joined(before, report)

        # Somebody else deleted a collection that was open here: it is made anew, or is there. What
        # is open says first that it was replaced, and then, looking again, that it is gone.
        for _ in range(2):
            with contextlib.suppress(CollectionNotFound, CollectionReplaced):
                return write()
        return write()

    def delete_documents(
        self,
        ids: Sequence[str],
        name: str,
        *,
        tenant: str | None,
        check: Callable[[Manifest], object],
    ) -> tuple[str, ...]:
        """Delete documents, and say which were there.

        Raises:
            CollectionNotFound, Conflict
        """

        def delete(retriever: TwoStageRetriever) -> tuple[str, ...]:
            check(retriever.index.manifest)
            there = retriever.index.document_states(ids, tenant=tenant)
            found = tuple(one for one in dict.fromkeys(ids) if one in there)
            # also those that were not found: a copy that was not asked may have them
            retriever.index.delete_documents(ids, tenant=tenant)
            return found

        what = "documents are being deleted"
        with self._collections.writing(name, what, patience_s=PATIENCE_SECONDS):
            return self._collections.ask(name, delete)

    def delete(self, name: str) -> None:
        """Delete a collection with all its versions.

        Raises:
            CollectionNotFound, Conflict
        """
        with self._collections.writing(name, "it is being deleted", patience_s=PATIENCE_SECONDS):
            self._collections.delete(name)

    def _exists(self, name: str) -> bool:
        if self._collections.opened(name) is not None:
            return True
        try:
            self._collections.manifest(name)
        except CollectionNotFound:
            return False
        return True

    def _make_with(
        self,
        name: str,
        documents: list[Document],
        tenant: str | None,
        progress: IngestProgressCallback | None,
    ) -> IngestReport:
        """A new collection with its first documents, by which it is made."""
        if not documents:
            raise InvalidInput(
                f"there is no collection {name!r} yet, and no document to make it with",
                fix="Send at least one document, or create the collection first.",
            )
        return self._make(name, documents, tenant, progress=progress)

    def _make(
        self,
        name: str,
        documents: list[Document],
        tenant: str | None,
        *,
        encoder: str | None = None,
        **options: Any,
    ) -> IngestReport:
        wanted = options.get("storage")
        if self._store.is_server and (wanted is None or isinstance(wanted, dict)):
            # What the request leaves open is as the service's settings say.
            options["storage"] = {**storage(self._settings), **(wanted or {})} or None
        with self._collections.making(name):
            return retrieval.ingest(
                documents,
                name,
                store=self._store,
                encoder=self._models.encoder(encoder),
                tenant=tenant,
                **options,
            )


def _documents(source: Source, within: Sequence[Path] | None) -> Iterable[Document]:
    if isinstance(source, str):
        return retrieval.read_documents(source, within=within)
    return source() if callable(source) else source


def _joined(first: IngestReport, whole: IngestReport) -> IngestReport:
    """One report of a run that wrote its first documents before it read all of them again."""
    return replace(
        whole,
        new=first.new + whole.new,
        unchanged=max(0, whole.unchanged - first.new),
        passages=first.passages + whole.passages,
        tokens=first.tokens + whole.tokens,
        truncated_passages=first.truncated_passages + whole.truncated_passages,
        seconds=first.seconds + whole.seconds,
        notices=tuple(dict.fromkeys((*first.notices, *whole.notices))),
    )
