"""The collections that the service has open: each opened once, when it is first needed.

Only one index of an embedded collection can be open, so searches and writes share it. Searches go
on while a collection is written to; writers take turns. Where another process rebuilds a
collection (`retrieval reindex`), its new version is opened.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from app.backend.lazy import Lazy
from app.batching.deadline import current
from app.errors import Conflict
from retrieval import FollowingRetriever, Store, TwoStageRetriever
from retrieval.errors import CollectionNotFound, CollectionReplaced, InvalidInput
from retrieval.types import Manifest

log = logging.getLogger(__name__)

_TURN_SECONDS = 0.02
# How long the deletion of a collection waits for its last searches.
LEAVE_SECONDS = 10.0
CHECK_SECONDS = 1.0
# How long a failure to open a collection is remembered.
RETRY_SECONDS = 1.0

_T = TypeVar("_T")


class OpenCollections:
    """Open retrievers by the name of their collection. May be used from several threads.

    Args:
        store: where the collections are.
        opener: opens a version of a collection, given by the engine's own name (`docs@v2`).
        check_seconds: how long a switch to another version may go unnoticed.
    """

    def __init__(
        self,
        store: Store,
        opener: Callable[[str], TwoStageRetriever],
        *,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self.store = store
        self._opener = opener
        self._check_seconds = check_seconds
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._held: dict[str, _Held] = {}
        self._closed = False

    def manifest(self, name: str) -> Manifest:
        """What built a collection's current version; asks the store, opens nothing.

        Raises:
            CollectionNotFound, ManifestCorrupt, StoreFault
            InvalidInput: the name is not one of a collection.
        """
        return self.store.manifest(_plain_name(name))

    def opened(self, name: str) -> TwoStageRetriever | None:
        """The retriever of a collection that is open; never opens, never waits."""
        held = self._held.get(name)
        following = None if held is None or held.retired else held.following.value
        return None if following is None else following.retriever

    def notice(self, name: str) -> str:
        """Why an older version of a collection answers; empty where the current one does."""
        held = self._held.get(name)
        following = None if held is None else held.following.value
        why = "" if following is None else following.notice
        if not why:
            return ""
        assert held is not None
        if held.told != why:
            held.told = why
            log.warning("%s", why)
        return f"An older version of {name!r} answers; the service's log says why."

    @contextlib.contextmanager
    def using(self, name: str) -> Iterator[TwoStageRetriever]:
        """The retriever over a collection's current version; stays open inside the block.

        Raises:
            CollectionNotFound: there is none, or it is being deleted.
            CollectionReplaced: it was deleted and made anew by somebody else while it was used;
                the next block is over the new one.
            As `retrieval.open`.
        """
        with self._hold(_plain_name(name)) as held:
            try:
                with held.following.get().using() as retriever:
                    yield retriever
            except CollectionNotFound:
                held.retired = True  # somebody else deleted it: the next call looks again
                raise
            except CollectionReplaced as error:
                raise CollectionReplaced(
                    f"the collection {name!r} was deleted or made anew while it was used here",
                    fix="Try again: the next request finds what has its name now.",
                ) from error

    def ask(self, name: str, question: Callable[[TwoStageRetriever], _T]) -> _T:
        """What `question` gives of the retriever over a collection's current version; asked once
        more where the collection turns out to have been replaced since it was opened.

        Raises: as `using`.
        """
        try:
            with self.using(name) as retriever:
                return question(retriever)
        except CollectionReplaced:
            with self.using(name) as retriever:
                return question(retriever)

    @contextlib.contextmanager
    def writing(self, name: str, what: str, *, patience_s: float) -> Iterator[None]:
        """Inside the block nobody else writes to that collection.

        Args:
            name: of a collection, which need not exist.
            what: the work in the block, for the error of those who wait in vain.
            patience_s: how long to wait for others.

        Raises:
            Conflict: another write took longer than `patience_s`.
            DeadlinePassed, Cancelled: the waiting request ended.
        """
        with self._hold(_plain_name(name)) as held:
            until = time.monotonic() + patience_s
            while not held.write.acquire(timeout=_TURN_SECONDS):
                current().check()
                if time.monotonic() > until:
                    raise Conflict(
                        f"the collection {name!r} is being written to ({held.writer})",
                        fix="Try again when that has ended; searches are answered meanwhile.",
                    )
            held.writer = what
            try:
                yield
            finally:
                held.writer = ""
                held.write.release()

    @contextlib.contextmanager
    def making(self, name: str) -> Iterator[None]:
        """Inside the block the collection is being made: `using` it waits until the end.

        Only inside `writing` it.
        """
        with self._hold(name) as held, held.following.held():
            yield

    def delete(self, name: str) -> None:
        """Delete a collection, when its last searches have ended. Only inside `writing` it.

        Raises:
            CollectionNotFound: there is none.
            Conflict: searches did not end in time; nothing was deleted.
        """
        self.manifest(name)
        with self._changed:
            held = self._held[name]
            held.leaving = True
            # the writer itself holds it, too
            left = self._changed.wait_for(lambda: held.users <= 1, LEAVE_SECONDS)
        try:
            if not left:
                raise Conflict(
                    f"searches of {name!r} did not end in {LEAVE_SECONDS:g} s; nothing was deleted",
                    fix="Try again.",
                )
            following = held.following.value
            if following is not None:
                following.close()
                held.following = self._following(name)
            self.store.delete(name)
        finally:
            held.leaving = False

    def close(self, patience_s: float = LEAVE_SECONDS) -> None:
        """Close what is open, when its last users have gone or after `patience_s`."""
        with self._changed:
            self._closed = True
            everything = list(self._held.values())
            self._changed.wait_for(lambda: all(not one.users for one in everything), patience_s)
            self._held.clear()
        for held in everything:
            following = held.following.value
            if following is not None:
                following.close()

    def _following(self, name: str) -> Lazy[FollowingRetriever]:
        def follow() -> FollowingRetriever:
            return FollowingRetriever(
                name, store=self.store, opener=self._opener, check_seconds=self._check_seconds
            )

        return Lazy(follow, retry_s=RETRY_SECONDS)

    @contextlib.contextmanager
    def _hold(self, name: str) -> Iterator[_Held]:
        with self._lock:
            held = self._held.get(name)
            if self._closed or (held is not None and held.leaving):
                raise _gone(name)
            if held is None or (held.retired and not held.write.locked()):
                held = self._held[name] = _Held(self._following(name))
            held.users += 1
        try:
            yield held
        finally:
            self._let_go(name, held)

    def _let_go(self, name: str, held: _Held) -> None:
        with self._changed:
            held.users -= 1
            idle = held.users == 0
            following = held.following.value
            # a name without a collection leaves nothing behind
            if idle and (held.retired or following is None) and self._held.get(name) is held:
                del self._held[name]
            self._changed.notify_all()
        if idle and held.retired and following is not None:
            following.close()


class _Held:
    """A collection that is in use, or was.

    users: blocks that hold it now. told: the notice that is in the log. leaving: it is being
    deleted here. retired: it was deleted by somebody else, and is closed when its last user has
    gone.
    """

    def __init__(self, following: Lazy[FollowingRetriever]) -> None:
        self.following = following
        self.write = threading.Lock()
        self.writer = ""
        self.told = ""
        self.users = 0
        self.leaving = False
        self.retired = False


def _plain_name(name: str) -> str:
    """The same name, where it is one of a collection and not of a version.

    Raises:
        InvalidInput: it names a version; `retrieval switch` chooses the current one.
    """
    if "@" in name:
        raise InvalidInput(
            f"the collection name is {name!r}, and the service answers from a collection's "
            "current version",
            fix=f"Leave the version out: {name.partition('@')[0]!r}.",
        )
    return name


def _gone(name: str) -> CollectionNotFound:
    """The error for a collection that is being deleted."""
    return CollectionNotFound(
        f"the collection {name!r} is being deleted or the service is being stopped",
        fix="Nothing needs to be done.",
    )
