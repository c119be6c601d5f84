"""Calls made in a thread of their own, so that they can be given up while they hang."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

FIRST_LOOK_S = 0.4
"""An answer that takes longer is looked after."""

NEXT_LOOK_S = 1.0

_T = TypeVar("_T")


class Watch:
    """Threads that are kept for the next call: handing one over takes some 40 µs.

    They are daemons: one that hangs in a call that was given up doesn't keep the process.
    """

    def __init__(self) -> None:
        self._idle: list[_Thread] = []

    def call(self, call: Callable[[], _T], look: Callable[[], None]) -> _T:
        """The result of `call`, or its error.

        Args:
            call: what may hang.
            look: called again and again while there is no result; the call is given up with
                what it raises.
        """
        try:
            thread = self._idle.pop()
        except IndexError:
            thread = _Thread(self._idle)
        work = _Work(contextvars.copy_context(), call)
        thread.inbox.put(work)
        wait = FIRST_LOOK_S
        while not work.done.acquire(timeout=wait):
            look()
            wait = NEXT_LOOK_S
        if work.error is not None:
            raise work.error
        result: _T = work.result
        return result

    def close(self) -> None:
        """Let the threads end that have nothing to do."""
        while self._idle:
            self._idle.pop().inbox.put(None)


class _Work:
    __slots__ = ("call", "context", "done", "error", "result")

    def __init__(self, context: contextvars.Context, call: Callable[[], Any]) -> None:
        self.context = context
        self.call = call
        self.done = threading.Lock()
        self.done.acquire()
        self.result: Any = None
        self.error: BaseException | None = None


class _Thread:
    def __init__(self, idle: list[_Thread]) -> None:
        self.inbox: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._idle = idle
        threading.Thread(target=self._run, name="qdrant-call", daemon=True).start()

    def _run(self) -> None:
        while (work := self.inbox.get()) is not None:
            try:
                work.result = work.context.run(work.call)
            except BaseException as error:  # noqa: BLE001 - it is raised where the call was made
                work.error = error
            self._idle.append(self)
            work.done.release()
            del work
