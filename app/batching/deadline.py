"""For whom a piece of work is done, how long it may take, and whether it is still wanted.

A `Control` goes with a request through all its stages, in a context variable: a batcher reads it
where the library calls a model, and so the library itself need not know of it. Worker threads
must be started in the request's context (`contextvars.copy_context().run`, `asyncio.to_thread`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from app.errors import DeadlinePassed


class Cancelled(Exception):
    """The request is no longer wanted; nobody waits for its answer."""

    def __init__(self, message: str = "the request was cancelled") -> None:
        super().__init__(message)


class Cancellation(threading.Event):
    """An event that calls back once it is set, so that waiting for it needs no polling."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._callbacks: dict[object, Callable[[], object]] = {}

    def set(self) -> None:
        """Set it, and call back everybody who asked to be, in this thread."""
        super().set()
        with self._lock:
            callbacks = list(self._callbacks.values())
            self._callbacks.clear()
        for callback in callbacks:
            callback()

    def when_set(self, key: object, callback: Callable[[], object]) -> None:
        """Call back, without arguments, once it is set; at once where it is already."""
        with self._lock:
            if not self.is_set():
                self._callbacks[key] = callback
                return
        callback()

    def forget(self, key: object) -> None:
        """Do not call back for that key any more."""
        with self._lock:
            self._callbacks.pop(key, None)


@dataclass(slots=True)
class Control:
    """What a batcher must know of the request that items belong to.

    Attributes:
        client: the caller, by its key; requests of one caller share its turn.
        deadline: `time.monotonic()` seconds, or None.
        background: work that yields to what somebody waits for, such as ingestion.
        cancelled: set it to take the request out of every queue at once.
    """

    client: str = "anonymous"
    deadline: float | None = None
    background: bool = False
    cancelled: Cancellation = field(default_factory=Cancellation)

    def remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def passed(self) -> bool:
        """Whether the request has a deadline that has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def check(self) -> None:
        """Raise what ends this request, if something does; for use between two stages.

        Raises:
            Cancelled: it was cancelled.
            DeadlinePassed: its deadline has passed.
        """
        if self.cancelled.is_set():
            raise Cancelled
        if self.passed():
            raise deadline_passed("before all of its work was done")


def deadline_passed(where: str) -> DeadlinePassed:
    """The error of a request whose deadline passed; `where` says at which point."""
    return DeadlinePassed(
        f"the time that this request may take (timeout_ms) passed {where}",
        fix="Give a larger timeout_ms, send fewer texts or candidates in one request, or try "
        "again when the service is less busy.",
    )


_current: ContextVar[Control | None] = ContextVar("control", default=None)


def current() -> Control:
    """The running request's control; a fresh one without limits where there is none."""
    return _current.get() or Control()


@contextmanager
def controlled(control: Control) -> Iterator[Control]:
    """Within it, and in what is started from it with its context, `current()` is `control`."""
    token = _current.set(control)
    try:
        yield control
    finally:
        _current.reset(token)
