"""What the service can do, over one store: the `Backend` that every protocol speaks to.

    request → Access (may it?) → Admission (is there room?) → Workers (a thread)
            → Collections (an open retriever) → its models' batchers (joined batches)

Texts alone (`embed`, `rerank`) go from the event loop straight into the batchers.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import retrieval
from app.backend.access import Access
from app.backend.collections import Collections
from app.backend.documents import put_together
from app.backend.embeddings import Texts
from app.backend.jobs import JobAccess
from app.backend.loaded_models import LoadedModels
from app.backend.models import Models
from app.backend.readiness import Checks
from app.backend.requests import Calls
from app.backend.search import Ask, Searching, warm_up
from app.backend.writes import Writing, document_there
from app.batching.deadline import Control, controlled
from app.errors import NotHere
from app.jobs.jobs import Jobs
from app.jobs.state_dir import state_folder
from app.settings.settings import Settings, secret
from app.types import (
    Caller,
    CollectionInfo,
    Embedded,
    EmbeddedSparse,
    Facts,
    Job,
    JobSource,
    ModelInfo,
    Observer,
    OnTimeout,
    Readiness,
    Reranked,
    StoredDocument,
    TextKind,
    Unobserved,
)
from retrieval import Document, IngestReport, SearchResult, Store, TwoStageRetriever
from retrieval.errors import (
    CollectionNotFound,
    InvalidInput,
    ManifestCorrupt,
    ManifestMismatch,
    RetrievalError,
)
from retrieval.search.options import SearchOptions, check_option_names
from retrieval.types import Encoder, Manifest, Reranker

T = TypeVar("T")


class RetrievalBackend:
    """The service over one store. Implements `app.types.Backend`.

    Args:
        settings: of the service.
        observer: is told what happens, for metrics.
        jobs: runs ingestion in the background; None makes one of its own.
        encoder, reranker: models made by the caller, who closes them; None loads those of the
            settings and of the collections.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        observer: Observer | None = None,
        jobs: Jobs | None = None,
        encoder: Encoder | None = None,
        reranker: Reranker | None = None,
    ) -> None:
        self._settings = settings
        self._observer: Observer = observer or Unobserved()
        self._store = Store(settings.store, api_key=secret(settings.api_key))
        self._loaded = LoadedModels(settings, self._observer, encoder=encoder, reranker=reranker)
        self._models = Models(self._loaded, settings.model_aliases)
        self._collections = Collections(self._store, self._opened)
        self._access = Access(settings, self._store.names)
        self._searching = Searching(self._observer)
        self._writing = Writing(settings, self._store, self._collections, self._models)
        self._checks = Checks(settings, self._store, self._collections, self._models)
        self._calls = Calls(settings, self._access, self._observer)
        self._texts = Texts(self._calls, self._models)
        self._opening = threading.Lock()
        self._is_open = self._closed = False
        self._job_access = JobAccess(
            settings,
            self._access,
            self._writing,
            lambda run: Jobs(state_folder(settings), run) if jobs is None else jobs,
        )

    # --- life

    def open(self) -> None:
        """Load what the first request needs, and let it run once; a second call does nothing.

        A default collection that does not exist yet is no error. After an error the backend can
        be used all the same: what was missing is tried again when it is needed.

        Raises:
            ModelNotFound, StoreFault, StoreLocked and what else `retrieval.open` raises.
        """
        with self._opening:
            if self._is_open or self._closed:
                return
            try:
                with self._collections.using(self._settings.collection):
                    pass
            except CollectionNotFound:
                self._loaded.second_stage_for(self._loaded.default_encoder())
            warm_up(self._loaded)
            if not self._settings.read_only:
                self._job_access.all.open()  # which takes up what the last process left
            self._is_open = True

    def close(self) -> None:
        """Let what is running end, for `grace_s` at most; a second call does nothing."""
        with self._opening:
            if self._closed:
                return
            self._closed = True
        self._calls.admission.close()
        until = time.monotonic() + self._settings.grace_s
        self._job_access.all.close(self._settings.grace_s)
        self._calls.admission.drained(max(0.0, until - time.monotonic()))
        self._checks.close()
        self._calls.close()
        self._collections.close()
        self._loaded.close()

    # --- searching

    async def search(
        self,
        caller: Caller,
        queries: Sequence[str],
        *,
        collection: str | None = None,
        tenant: str | None = None,
        timeout_ms: float | None = None,
        on_timeout: OnTimeout = "error",
        **options: Any,
    ) -> list[SearchResult]:
        """One result a query, see `app.types.Backend`."""
        ask, name, control = self._asked(
            caller, queries, collection, tenant, timeout_ms, on_timeout, options
        )
        costs = self._searching.costs(self._collections.opened(name), ask)
        with self._calls.admission.enter(caller.key_id, costs), self._calls.counted():
            return await self._calls.searches.run(
                control, partial(self._answer, caller, name, ask), until=ask.gives_up
            )

    def searcher(self, collection: str | None = None) -> Searcher:
        """A search that blocks, for the page, whose clients share one turn in the queue."""
        return Searcher(self, collection)

    def search_now(
        self, caller: Caller, query: str, collection: str | None, options: dict[str, Any]
    ) -> SearchResult:
        """One result; blocks, under the caller's own limits."""
        ask, name, control = self._asked(
            caller, [query], collection, None, None, "first_stage", options
        )
        costs = self._searching.costs(self._collections.opened(name), ask)
        admitted = self._calls.admission.enter(caller.key_id, costs)
        with admitted, self._calls.counted(), controlled(control):
            return self._answer(caller, name, ask)[0]

    def _asked(
        self,
        caller: Caller,
        queries: Sequence[str],
        collection: str | None,
        tenant: str | None,
        timeout_ms: float | None,
        on_timeout: OnTimeout,
        options: dict[str, Any],
    ) -> tuple[Ask, str, Control]:
        name = self._access.collection(caller, collection)
        owner = self._access.tenant(caller, tenant)
        if on_timeout not in ("error", "first_stage"):
            raise InvalidInput(
                f"on_timeout is {on_timeout!r}, expected 'error' or 'first_stage'",
                fix="Choose one of them, or leave it out.",
            )
        deadline = self._calls.deadline(timeout_ms)
        check_option_names(options)
        ask = Ask(queries, SearchOptions(**options, tenant=owner), deadline, on_timeout)
        return ask, name, Control(client=caller.key_id, deadline=deadline)

    def _answer(self, caller: Caller, name: str, ask: Ask) -> list[SearchResult]:
        with self._access.named(caller, name), self._collections.using(name) as retriever:
            self._access.manifest(caller, name, retriever.index.manifest)
            return self._searching.run(retriever, ask, self._collections.notice(name))

    # --- models

    async def embed(
        self,
        caller: Caller,
        texts: Sequence[str],
        *,
        kind: TextKind,
        model: str | None = None,
        dimensions: int | None = None,
        timeout_ms: float | None = None,
    ) -> Embedded:
        """Vectors, see `app.types.Backend`."""
        return await self._texts.embed(
            caller, texts, kind=kind, model=model, dimensions=dimensions, timeout_ms=timeout_ms
        )

    async def embed_sparse(
        self,
        caller: Caller,
        texts: Sequence[str],
        *,
        kind: TextKind,
        model: str | None = None,
        timeout_ms: float | None = None,
    ) -> EmbeddedSparse:
        """Term weights, see `app.types.Backend`."""
        return await self._texts.embed_sparse(
            caller, texts, kind=kind, model=model, timeout_ms=timeout_ms
        )

    async def rerank(
        self,
        caller: Caller,
        query: str,
        texts: Sequence[str],
        *,
        model: str | None = None,
        timeout_ms: float | None = None,
    ) -> Reranked:
        """Scores of texts for a query, see `app.types.Backend`."""
        return await self._texts.rerank(caller, query, texts, model=model, timeout_ms=timeout_ms)

    def models(self, caller: Caller) -> list[ModelInfo]:
        """The models that are loaded, encoders first, each kind with its default first."""
        return self._models.infos()

    def facts(self) -> Facts:
        """What is known of the default collection and its models, if they are open; never waits."""
        name = self._settings.collection
        defaults = {one.kind: one.names[0] for one in self._models.infos() if one.default}
        passages, notices = None, self._loaded.encoder_notices
        retriever = self._collections.opened(name)
        if retriever is not None:
            notices = retriever.notices
            with contextlib.suppress(RetrievalError):
                passages = retriever.index.status().points
        return Facts(
            collection=name,
            passages=passages,
            encoder=defaults.get("encoder", ""),
            reranker=defaults.get("reranker"),
            notices=notices,
        )

    # --- collections

    def default_collection(self, caller: Caller) -> str:
        """What `collection` None means."""
        return self._access.default(caller)

    async def collections(self, caller: Caller) -> list[CollectionInfo]:
        """Those the caller may use, by name."""

        def list_all() -> list[CollectionInfo]:
            found: list[CollectionInfo] = []
            for name in self._access.visible(caller):
                # one that was deleted meanwhile, or cannot be read, hides none of the others
                with contextlib.suppress(CollectionNotFound, ManifestCorrupt, ManifestMismatch):
                    found.append(self._info(caller, name, caller.tenant, open_it=False))
            return found

        return await self._calls.other(caller, list_all)

    async def collection(
        self, caller: Caller, name: str | None, *, tenant: str | None = None
    ) -> CollectionInfo:
        """One of them."""
        chosen = self._access.collection(caller, name)
        owner = self._access.tenant(caller, tenant)
        return await self._calls.other(
            caller, lambda: self._info(caller, chosen, owner, open_it=True), chosen
        )

    async def create_collection(self, caller: Caller, name: str, **options: Any) -> CollectionInfo:
        """A new, empty collection."""
        self._access.write(caller)
        chosen = self._access.collection(caller, name)
        if caller.tenant is not None:
            options["tenants"] = True

        def create() -> CollectionInfo:
            self._writing.create(chosen, options)
            return self._info(caller, chosen, caller.tenant, open_it=True)

        return await self._calls.write(caller, create)

    async def delete_collection(self, caller: Caller, name: str) -> None:
        """Delete it with all its versions."""
        self._access.write(caller)
        chosen = self._access.collection(caller, name)
        self._access.whole_collection(caller, chosen)
        await self._calls.write(caller, lambda: self._writing.delete(chosen), chosen)

    # --- documents

    async def upsert_documents(
        self,
        caller: Caller,
        documents: Sequence[Document],
        *,
        collection: str | None = None,
        tenant: str | None = None,
    ) -> IngestReport:
        """Write documents; durable when it returns."""
        self._access.write(caller)
        name = self._access.collection(caller, collection)
        owner = self._access.tenant(caller, tenant)
        return await self._calls.write(
            caller,
            lambda: self._writing.upsert(
                list(documents), name, tenant=owner, check=self._checked(caller, name)
            ),
            name,
        )

    async def delete_documents(
        self,
        caller: Caller,
        ids: Sequence[str],
        *,
        collection: str | None = None,
        tenant: str | None = None,
    ) -> tuple[str, ...]:
        """Delete documents, and say which of them were there."""
        self._access.write(caller)
        name = self._access.collection(caller, collection)
        owner = self._access.tenant(caller, tenant)
        return await self._calls.write(
            caller,
            lambda: self._writing.delete_documents(
                ids, name, tenant=owner, check=self._checked(caller, name)
            ),
            name,
        )

    async def document(
        self,
        caller: Caller,
        document_id: str,
        *,
        collection: str | None = None,
        tenant: str | None = None,
    ) -> StoredDocument:
        """One document."""
        name = self._access.collection(caller, collection)
        owner = self._access.tenant(caller, tenant)

        def get() -> StoredDocument:
            with self._collections.using(name) as retriever:
                self._access.manifest(caller, name, retriever.index.manifest)
                passages = document_there(retriever, document_id, owner)
            if not passages:
                raise NotHere(
                    f"the collection {name!r} has no document {document_id!r}",
                    fix="Check its id; the hits of a search name their documents.",
                    what="document",
                )
            return put_together(document_id, passages)

        return await self._calls.other(caller, get, name)

    # --- jobs

    async def start_job(
        self,
        caller: Caller,
        source: JobSource,
        *,
        collection: str | None = None,
        tenant: str | None = None,
        prune: bool = False,
    ) -> Job:
        """Ingest in the background."""
        self._access.write(caller)
        name = self._access.collection(caller, collection)
        owner = self._access.tenant(caller, tenant)

        def start() -> Job:
            try:
                self._access.manifest(caller, name, self._collections.manifest(name))
            except CollectionNotFound:
                if caller.tenant is not None and name in self._access.visible(caller):
                    raise
                # the job makes it
            return self._job_access.start(caller, source, name, owner, prune)

        return await self._calls.write(caller, start)

    def jobs(self, caller: Caller) -> list[Job]:
        """The caller's own jobs, and all of them for a caller without limits; newest first."""
        return self._job_access.seen_by(caller)

    def job(self, caller: Caller, job_id: str) -> Job:
        """One job."""
        return self._job_access.get(caller, job_id)

    async def cancel_job(self, caller: Caller, job_id: str) -> Job:
        """Stop it; what it has written stays."""
        return await self._calls.other(caller, lambda: self._job_access.cancel(caller, job_id))

    def watch_job(self, caller: Caller, job_id: str) -> AsyncIterator[Job]:
        """The job now, then whenever it has changed, until it has ended."""
        return self._job_access.watch(caller, job_id)

    # --- readiness

    async def ready(self) -> Readiness:
        """Whether searches can be answered and documents written, with reasons."""
        if self._closed:
            return Readiness(False, {"service": "The service is being stopped."})
        found = await self._checks.ready()
        if self._is_open or not found.ready:
            return found
        if self._opening.locked():
            return Readiness(False, {"models": "They are being loaded and warmed up."})
        # What kept it from opening at the start is over.
        try:
            await self._calls.others.run(Control(), self.open)
        except RetrievalError as error:
            return Readiness(False, {"models": str(error)})
        return found

    # --- inside

    def _opened(self, version: str) -> TwoStageRetriever:
        """A version of a collection, over the shared models."""
        manifest = self._store.manifest(version)
        encoder = self._loaded.encoder_for(manifest)
        if manifest.collection == self._settings.collection:
            self._loaded.set_default(encoder)
        second = self._loaded.second_stage_for(encoder)
        opened = retrieval.open(
            version, store=self._store, encoder=encoder, reranker=second.reranker
        )
        opened.notices = (*second.notices, *opened.notices)
        return opened

    def _info(
        self, caller: Caller, name: str, tenant: str | None, *, open_it: bool
    ) -> CollectionInfo:
        retriever = self._collections.opened(name)
        default = name == self._settings.collection
        if retriever is None and not open_it:
            manifest = self._access.manifest(caller, name, self._collections.manifest(name))
            return CollectionInfo(name, manifest, None, None, default)
        with self._collections.using(name) as retriever:
            index = retriever.index
            manifest = self._access.manifest(caller, name, index.manifest)
            if tenant is None and manifest.layout.tenants:
                passages = index.status().points  # of all tenants
            else:
                passages = index.count(tenant=tenant)
            return CollectionInfo(name, manifest, passages, index.physical, default)

    def _checked(self, caller: Caller, name: str) -> Callable[[Manifest], object]:
        return lambda manifest: self._access.manifest(caller, name, manifest)


class Searcher:
    """Searches of the page: one question at a time, by a caller of its own."""

    def __init__(self, backend: RetrievalBackend, collection: str | None) -> None:
        self._backend = backend
        self._collection = collection

    def search(self, query: str, **options: Any) -> SearchResult:
        """Answer one question, see `TwoStageRetriever.search`; blocks."""
        page = Caller(key_id="page", write=False)
        return self._backend.search_now(page, query, self._collection, options)
