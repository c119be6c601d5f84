"""Threads for blocking calls, which run under their request's control."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from app.batching.deadline import Control, controlled, deadline_passed

T = TypeVar("T")

LARGEST_SHARE = 3 / 4
"""Share of the threads that one caller may hold, so that another one finds a thread at once."""


class Workers:
    """A bounded number of threads. Who does not find one waits; callers take turns.

    Args:
        name: of the threads.
        threads: at most this many.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free = threads
        self._most = max(1, int(threads * LARGEST_SHARE))
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[tuple[Future[Any], Callable[[], Any]]]] = {}
        self._lock = threading.Lock()

    async def run(
        self, control: Control, call: Callable[[], T], *, until: float | None = None
    ) -> T:
        """What the call returns. Whoever stops waiting sets `control.cancelled`, so that the
        call soon ends where it waits for a model.

        Args:
            control: of the request; `current()` within the call.
            call: blocks; runs in a thread, in a copy of this task's context.
            until: `time.monotonic()` seconds after which it is not waited for any longer.

        Raises:
            DeadlinePassed: it did not return until then.
        """

        def controlled_call() -> T:
            with controlled(control):
                return call()

        context = contextvars.copy_context()
        future: Future[T] = Future()
        work = (future, lambda: context.run(controlled_call))
        with self._lock:
            self._waiting.setdefault(control.client, deque()).append(work)
            self._start()
        return await settled(asyncio.wrap_future(future), control, until)

    def close(self) -> None:
        """Take nothing new; what waits for a thread is dropped, what runs is not waited for."""
        with self._lock:
            dropped = [future for waiting in self._waiting.values() for future, _ in waiting]
            self._waiting.clear()
        for future in dropped:
            future.cancel()
        self._pool.shutdown(wait=False)

    def _start(self) -> None:
        """Give free threads to those who wait, one caller after the other; under the lock."""
        while self._free:
            allowed = (one for one in self._waiting if self._running[one] < self._most)
            caller = next(allowed, None)
            if caller is None:
                return
            waiting = self._waiting.pop(caller)
            future, call = waiting.popleft()
            if waiting:
                self._waiting[caller] = waiting  # behind the others
            self._free -= 1
            self._running[caller] += 1
            self._pool.submit(self._run, caller, future, call)

    def _run(self, caller: str, future: Future[Any], call: Callable[[], Any]) -> None:
        try:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001  (raised where it is waited for)
                    future.set_exception(error)
        finally:
            with self._lock:
                self._free += 1
                self._running[caller] -= 1
                if not self._running[caller]:
                    del self._running[caller]
                self._start()


async def settled(
    work: asyncio.Future[T] | Coroutine[Any, Any, T], control: Control, until: float | None
) -> T:
    """The result of the work; it is ended where nobody waits for it any longer.

    Raises:
        DeadlinePassed: it was not done at `until`, in `time.monotonic()` seconds.
    """
    work = asyncio.ensure_future(work)
    # After that, nothing reads its error, which asyncio would report.
    work.add_done_callback(lambda done: done.cancelled() or done.exception())
    patience = None if until is None else max(0.0, until - time.monotonic())
    try:
        done, _ = await asyncio.wait({work}, timeout=patience)
        if not done:
            raise deadline_passed("before it was answered")
        return work.result()
    except BaseException:
        if not work.done():
            control.cancelled.set()
            work.cancel()
        raise
