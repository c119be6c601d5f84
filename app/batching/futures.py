"""Waiting for what was submitted to a lane, in a thread or on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from app.batching.deadline import Cancellation, Cancelled, Control, deadline_passed

T = TypeVar("T")

POLL_S = 0.05
"""How often a plain event is looked at that cannot call back."""

News = SimpleQueue[int | None]
"""How many items are done, whenever more are; None at the end."""


def wait_for(future: Future[T], control: Control, end: Callable[[Exception], object]) -> T:
    """The future's result, or its error; blocks.

    Args:
        future: will have a result or an error at last.
        control: of the request.
        end: gives the future an error, unless it is just getting a result.

    Raises:
        Cancelled, DeadlinePassed: the control's end came first.
    """
    while True:
        try:
            return future.result(_patience(control))
        except TimeoutError:
            if future.done():  # the model's own
                return future.result()
        if control.cancelled.is_set():
            end(Cancelled("the request was cancelled"))
        elif control.passed():
            end(deadline_passed("while it waited for a model"))


def follow(news: News, control: Control, report: Callable[[int], None]) -> None:
    """Report from this thread how many items are done, until all are or time is up."""
    while not control.passed() and not control.cancelled.is_set():
        try:
            done = news.get(timeout=_patience(control))
        except Empty:
            continue
        if done is None:
            return
        report(done)


async def result_of(future: Future[T], control: Control) -> T:
    """`wait_for` on the event loop. A cancelled task takes its work out of the queue.

    Raises:
        DeadlinePassed: the control's deadline came first; the work was taken out of the queue.
    """
    # Cancelling the wrapper cancels the lane's future, which takes the items out of the queue.
    wrapped = asyncio.wrap_future(future)
    try:
        await asyncio.wait({wrapped}, timeout=control.remaining())
        if not wrapped.done():
            raise deadline_passed("while it waited for a model")
        return wrapped.result()
    finally:
        if not wrapped.cancel() and not wrapped.cancelled():
            wrapped.exception()  # seen: asyncio would report one that nobody looked at


def _patience(control: Control) -> float | None:
    """How long to wait before looking again at what cannot call back."""
    remaining = control.remaining()
    if isinstance(control.cancelled, Cancellation):
        return remaining
    return POLL_S if remaining is None else min(POLL_S, remaining)
