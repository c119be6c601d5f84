"""Threads for what blocks: a call runs in one under its request's control, and can be left."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from app.batching.deadline import Control, controlled, deadline_passed

T = TypeVar("T")


class Workers:
    """A bounded number of threads; what does not find one waits.

    Args:
        name: of the threads.
        threads: at most so many.
    """

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)

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
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._pool, lambda: context.run(controlled_call))
        return await settled(work, control, until)

    def close(self) -> None:
        """Take nothing new; what waits for a thread is dropped, what runs is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def settled(
    work: asyncio.Future[T] | Coroutine[Any, Any, T], control: Control, until: float | None
) -> T:
    """What the work comes to, and its end where nobody waits for it any longer.

    Raises:
        DeadlinePassed: it was not done at `until`, in `time.monotonic()` seconds.
    """
    work = asyncio.ensure_future(work)
    # Its error is nobody's any more once it was left.
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
