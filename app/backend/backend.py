"""What the service can do, over one store; every protocol speaks to a `Backend` and its parts.

    request → Access (may it?) → Admission (is there room?) → Workers (a thread)
            → OpenCollections (an open retriever) → its models' batchers (joined batches)

Texts alone (`Backend.texts`) go from the event loop straight into the batchers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import retrieval
from app.backend.access import Access
from app.backend.calls import Calls
from app.backend.collections import Collections
from app.backend.documents import Documents
from app.backend.jobs import JobAccess
from app.backend.loaded_models import LoadedModels
from app.backend.models import Models
from app.backend.open_collections import OpenCollections
from app.backend.readiness import Checks
from app.backend.search import SearchCall, Searching, warm_up
from app.backend.texts import Texts
from app.backend.writes import Writing
from app.batching.deadline import Control, controlled
from app.observability.search_log import SearchLog
from app.settings.settings import Settings, secret
from app.types import Caller, Facts, Observer, OnTimeout, Readiness
from retrieval import SearchResult, Store, TwoStageRetriever
from retrieval.errors import CollectionNotFound, InvalidInput, RetrievalError
from retrieval.search.options import SearchOptions, check_option_names
from retrieval.types import Encoder, Reranker

log = logging.getLogger(__name__)

PAGE = Caller(key_id="page", write=False)
"""The clients of the page, who share one turn in the queue."""


class Backend:
    """The service over one store.

    Each call that is for a `Caller` may raise, besides what it names: `Forbidden` (the caller may
    not), `Overloaded`, `Stopping`, `DeadlinePassed` (after its `timeout_ms`), and the library's
    errors. A call whose task is cancelled leaves the queue. `collection` None is the service's
    default one; `model` None the default model, else one of `ModelInfo.names` (`NotHere`
    otherwise). `tenant` may be given only by callers that have no tenant themselves (`Forbidden`
    otherwise).

    Args:
        settings: of the service.
        observer: gets the events, for metrics.
        encoder, reranker: models made by the caller, who closes them; None loads those of the
            settings and of the collections.

    Attributes:
        collections: lists, makes and deletes them.
        documents: writes, reads and deletes them.
        jobs: ingestion in the background.
        models: those that run.
        texts: vectors, term weights and scores of texts alone.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        observer: Observer | None = None,
        encoder: Encoder | None = None,
        reranker: Reranker | None = None,
    ) -> None:
        self._settings = settings
        observer = observer or Observer()
        self._store = Store(settings.store, api_key=secret(settings.api_key))
        self._loaded = LoadedModels(settings, observer, encoder=encoder, reranker=reranker)
        self._opened = OpenCollections(self._store, self._open_version)
        self._access = Access(settings, self._store)
        self._calls = Calls(settings, self._access, observer)
        self._search_log = SearchLog(settings)
        self._searching = Searching(observer, self._search_log)
        self._opening = threading.Lock()
        self._is_open = self._closed = False
        self.models = Models(self._loaded, settings.model_aliases)
        self.texts = Texts(self._calls, self.models)
        writing = Writing(settings, self._store, self._opened, self.models)
        self.collections = Collections(settings, self._access, self._calls, self._opened, writing)
        self.documents = Documents(self._access, self._calls, self._opened, writing)
        self.jobs = JobAccess(settings, self._access, self._calls, self._opened, writing)
        self._checks = Checks(settings, self._store, self._opened, self.models)

    # --- life

    def open(self) -> None:
        """Load what the first request needs, and let it run once; a second call does nothing.

        A default collection that does not exist yet is not an error. After an error the backend can
        be used all the same: what was missing is tried again when it is needed.

        Raises:
            ModelNotFound, StoreFault, StoreLocked and what else `retrieval.open` raises.
        """
        with self._opening:
            if self._is_open or self._closed:
                return
            try:
                with self._opened.using(self._settings.collection):
                    pass
            except CollectionNotFound:
                self._loaded.second_stage_for(self._loaded.default_encoder())
            warm_up(self._loaded)
            if not self._settings.read_only:
                self.jobs.all.open()  # which takes up what the last process left
            self._is_open = True

    def close(self) -> None:
        """Let what is running end, for `grace_s` at most; a second call does nothing."""
        with self._opening:
            if self._closed:
                return
            self._calls.admission.close()
            self._closed = True
        until = time.monotonic() + self._settings.grace_s
        self.jobs.all.close(self._settings.grace_s)
        self._calls.admission.drained(max(0.0, until - time.monotonic()))
        self._checks.close()
        self._calls.close()
        self._opened.close()
        self._loaded.close()
        self._search_log.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Open in a thread beside the block, so that clients are answered while models load.

        What opening raises is logged: `ready` says it, too, and the first request tries again.
        After the block the backend is closed.
        """

        async def load() -> None:
            try:
                await asyncio.to_thread(self.open)
            except RetrievalError as error:
                log.error("not ready: %s", error)
            except Exception:
                log.exception("not ready")

        loading = asyncio.create_task(load())
        try:
            yield
        finally:
            await loading
            await asyncio.to_thread(self.close)

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
        """One result a query. `options`: those of `TwoStageRetriever.search` but `tenant`."""
        call, name, control = self._call_of(
            caller, queries, collection, tenant, timeout_ms, on_timeout, options
        )
        costs = self._searching.costs(self._opened.opened(name), call)
        with self._calls.admission.enter(caller.key_id, costs), self._calls.counted():
            return await self._calls.searches.run(
                control, partial(self._answer, caller, name, call), until=call.gives_up
            )

    def search_now(
        self, query: str, *, caller: Caller = PAGE, collection: str | None = None, **options: Any
    ) -> SearchResult:
        """One result; blocks. `options`: those of `TwoStageRetriever.search` but `tenant`."""
        call, name, control = self._call_of(
            caller, [query], collection, None, None, "first_stage", options
        )
        costs = self._searching.costs(self._opened.opened(name), call)
        admitted = self._calls.admission.enter(caller.key_id, costs)
        with admitted, self._calls.counted(), controlled(control):
            return self._answer(caller, name, call)[0]

    def _call_of(
        self,
        caller: Caller,
        queries: Sequence[str],
        collection: str | None,
        tenant: str | None,
        timeout_ms: float | None,
        on_timeout: OnTimeout,
        options: dict[str, Any],
    ) -> tuple[SearchCall, str, Control]:
        name, owner = self._access.about(caller, collection, tenant)
        if on_timeout not in ("error", "first_stage"):
            raise InvalidInput(
                f"on_timeout is {on_timeout!r}, expected 'error' or 'first_stage'",
                fix="Choose one of them, or leave it out.",
            )
        control = self._calls.control(caller, timeout_ms)
        check_option_names(options)
        call = SearchCall(
            queries, SearchOptions(**{**options, "tenant": owner}), control.deadline, on_timeout
        )
        return call, name, control

    def _answer(self, caller: Caller, name: str, call: SearchCall) -> list[SearchResult]:
        def search(retriever: TwoStageRetriever) -> list[SearchResult]:
            self._access.manifest(caller, name, retriever.index.manifest)
            return self._searching.run(retriever, call, self._opened.notice(name))

        with self._access.named(caller, name):
            return self._opened.ask(name, search)

    # --- state

    def facts(self) -> Facts:
        """What is known of the default collection and its models, if they are open; never waits."""
        name = self._settings.collection
        defaults = {one.kind: one.names[0] for one in self.models.infos() if one.default}
        passages, notices = None, self._loaded.encoder_notices
        retriever = self._opened.opened(name)
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

    async def ready(self) -> Readiness:
        """Whether searches can be answered and documents written, with reasons."""
        if self._closed:
            return Readiness(False, {"service": "The service is being stopped."})
        found = await self._checks.ready()
        if self._is_open or not found.ready:
            return found
        if self._opening.locked():
            return Readiness(False, {"models": "They are being loaded and warmed up."})
        # The cause that kept it from opening at the start is gone.
        try:
            await self._calls.others.run(Control(), self.open)
        except RetrievalError as error:
            return Readiness(False, {"models": str(error)})
        return found

    # --- internal

    def _open_version(self, version: str) -> TwoStageRetriever:
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
