"""A retriever that follows a collection from version to version while it answers.

A collection is rebuilt beside the one in use and then switched to (`retrieval reindex`). An index
that is open stays with its version; `FollowingRetriever` notices the switch, opens the new
version beside the old one, lets searches that have begun end on the old one, and closes it.
Where the version that it has open was deleted, or deleted and made anew, it opens what the name
means by then.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

from retrieval.api.open import open
from retrieval.errors import CollectionReplaced, InvalidInput, RetrievalError
from retrieval.index.store import DEFAULT_COLLECTION, DEFAULT_STORE, Store, StoreLike
from retrieval.search.options import SearchArguments
from retrieval.search.retriever import TwoStageRetriever
from retrieval.types import Manifest, ProgressCallback, SearchResult
from retrieval.types.closing import Closing

CHECK_SECONDS = 1.0
_RETRY_SECONDS = 30.0


class FollowingRetriever(Closing):
    """A `TwoStageRetriever` over the current version of a collection, also after a switch.

    Searches never wait for a switch and never fail because of one: until the new version and its
    models are open, they go on with the old. A collection that was deleted and made anew under it
    (or restored) cannot answer any more: the next search waits until what the name means now is
    open, with the encoder that built it. May be used from several threads.

    Args:
        collection: its name.
        store: folder, URL or `Store`.
        check_seconds: how long, in seconds, a switch may go unnoticed.
        clock: gives seconds; for tests.
        opener: opens a version, given by the engine's own name (`docs@v2`), in place of
            `retrieval.open`: for those who share models between collections. Called in a separate
            thread, except for the first version; what it returns is closed here.
        options: as for `retrieval.open`; none beside an `opener`.

    Raises:
        InvalidInput: options were given besides an `opener`, which has its own.
        As `retrieval.open`, for the version that is current now.

    Example:
        >>> import retrieval
        >>> document = retrieval.Document("a", "The gate closes at ten.")
        >>> _ = retrieval.ingest([document], "gates", encoder="starter")
        >>> with retrieval.FollowingRetriever("gates") as retriever:
        ...     result = retriever.search("when does the gate close?")
        >>> result.hits[0].passage.document_id
        'a'
    """

    def __init__(
        self,
        collection: str = DEFAULT_COLLECTION,
        *,
        store: StoreLike = DEFAULT_STORE,
        check_seconds: float = CHECK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        opener: Callable[[str], TwoStageRetriever] | None = None,
        **options: Any,
    ) -> None:
        self._collection = collection
        self._store = Store.of(store, options.pop("api_key", None))
        if opener is not None and options:
            raise InvalidInput(
                f"{', '.join(sorted(options))} was given besides an opener, which takes no options",
                fix="Give it to the opener.",
            )
        self._options = options
        self._open_version = opener
        self._check_seconds = check_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._opener: threading.Thread | None = None
        self._closed = False
        self._problem = ""
        self._next_check = clock() + check_seconds
        self._leaving: list[_Generation] = []
        if opener is None:
            self._now = _Generation(open(collection, store=self._store, **options))
        else:
            self._now = _Generation(opener(self._store.current(collection)))

    @property
    def version(self) -> str:
        """The version that searches use, by the engine's own name."""
        return self._now.retriever.index.physical

    @property
    def retriever(self) -> TwoStageRetriever:
        """The retriever over that version; may be closed once a switch has been followed."""
        return self._now.retriever

    @property
    def notice(self) -> str:
        """Why the current version is not the one that answers; empty where it is."""
        return self._problem

    @contextlib.contextmanager
    def using(self) -> Iterator[TwoStageRetriever]:
        """The current retriever; it stays open inside the block.

        Raises:
            CollectionReplaced: of the block; what replaced the collection is opened by the next.
            As `retrieval.open`, where that cannot be opened.
        """
        self._follow()
        if self._now.replaced:
            self._reopen()
        with self._lock:
            generation = self._now
            generation.users += 1
        try:
            yield generation.retriever
        except CollectionReplaced:
            generation.replaced = True
            raise
        finally:
            with self._lock:
                generation.users -= 1
                unused = generation.users == 0 and generation is not self._now
            if unused:
                self._leave(generation)

    def search(self, query: str, **options: Unpack[SearchArguments]) -> SearchResult:
        """Answer one query, see `TwoStageRetriever.search`."""
        return self.search_batch([query], **options)[0]

    def search_batch(
        self,
        queries: Sequence[str],
        *,
        progress: ProgressCallback | None = None,
        **options: Unpack[SearchArguments],
    ) -> list[SearchResult]:
        """Answer many queries, all on the same version, see `TwoStageRetriever.search_batch`."""

        def search() -> list[SearchResult]:
            with self.using() as retriever:
                return retriever.search_batch(queries, progress=progress, **options)

        try:
            results = search()
        except CollectionReplaced:
            results = search()
        problem = self._problem
        if problem:
            results = [replace(one, notices=(*one.notices, problem)) for one in results]
        return results

    def close(self) -> None:
        """Close the index and the models; a second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            opener = self._opener
        if opener is not None:
            opener.join()
        self._now.retriever.close()

    def _follow(self) -> None:
        """Look for a switch now and then; open the new version in its own thread."""
        with self._lock:
            if self._opener is not None or self._closed or self._clock() < self._next_check:
                return
            self._next_check = self._clock() + self._check_seconds
            self._opener = threading.Thread(target=self._look, name="retrieval-follow")
            self._opener.start()

    def _look(self) -> None:
        try:
            with self._opening:
                current = self._store.current(self._collection)
                with self._lock:
                    # searches on it have not ended yet; a folder cannot be opened twice
                    busy = any(one.retriever.index.physical == current for one in self._leaving)
                if current != self.version and not busy:
                    self._use(_Generation(self._opened(current)))
                self._problem = self._retuned(self._store.manifest(current))
        except RetrievalError as error:
            # searches go on with the open version; every result names the reason until then
            self._problem = (
                f"The current version of {self._collection!r} could not be opened, so "
                f"{self.version!r} still answers: {error.problem}."
            )
            self._next_check = self._clock() + max(self._check_seconds, _RETRY_SECONDS)
        finally:
            with self._lock:
                self._opener = None

    def _retuned(self, manifest: Manifest) -> str:
        """Take what has been decided of the open version meanwhile; what cannot be taken."""
        now = self._now.retriever
        if manifest.id != now.index.manifest.id:
            return ""
        now.tuning = manifest.tuning
        instruction = manifest.encoder.query_instruction
        if instruction == now.encoder.info.query_instruction:
            return ""
        return (
            f"The query instruction of {self._collection!r} is {instruction!r} by now; it counts "
            "once the collection is opened again (a service: once it is restarted)."
        )

    def _reopen(self) -> None:
        """Open what the name means now, in place of what was deleted."""
        with self._opening:
            if self._now.replaced:  # else another thread was first
                self._use(_Generation(self._opened(self._store.current(self._collection))))
                self._problem = ""

    def _opened(self, version: str) -> TwoStageRetriever:
        """A version's retriever, with the models that are loaded where they built it, too."""
        if self._open_version is not None:
            return self._open_version(version)
        now = self._now.retriever
        manifest, was = self._store.manifest(version), now.index.manifest
        # another layout may need another class of the same model
        if manifest.encoder != now.encoder.info or manifest.layout != was.layout:
            return open(version, store=self._store, **self._options)
        index = self._store.open(version)
        try:
            return now.over(index)
        except BaseException:
            index.close()
            raise

    def _use(self, new: _Generation) -> None:
        with self._lock:
            old, self._now = self._now, new
            self._leaving.append(old)
            unused = old.users == 0
        if unused:
            self._leave(old)

    def _leave(self, generation: _Generation) -> None:
        generation.retriever.close()
        with self._lock:
            self._leaving.remove(generation)


@dataclass(slots=True)
class _Generation:
    """A retriever over one version, how many searches are on it, and whether it is gone."""

    retriever: TwoStageRetriever
    users: int = 0
    replaced: bool = False
