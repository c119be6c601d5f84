"""One thread for each model, which joins what waits for it into batches.

Batching is continuous: while the model runs one batch, requests gather, and the next batch is
formed of all that waits the moment the model is free. Only a model that was idle waits for others
to come, for a window of about a millisecond, and only where others came lately: a request on its
own starts at once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from typing import Generic

from app.batching.deadline import Cancelled, Control, current, deadline_passed
from app.batching.queue import FairQueue, Item, Part, Request, Value
from app.batching.tokens import Rate
from app.errors import Stopping
from app.types import Observer
from retrieval.errors import ModelFault
from retrieval.types import ProgressCallback

CROWD_S = 0.05
"""How long after a batch of several requests an idle model still waits for others to join."""

PROGRESS_S = 0.1
"""How often progress is reported."""


class Batcher(Generic[Item, Value]):
    """Joins items of many requests into calls of `compute`, from one thread.

    Args:
        name: of the model, for the observer and errors.
        compute: gives the values of a batch's items, in their order. Where it fails for a batch
            of several requests it is called again for each of them, so that one request's input
            fails that request alone.
        cost: of an item, in estimated tokens; at least 1 is counted.
        budget: tokens that a batch may have; an item over it goes alone.
        window_ms: how long an idle model waits for others to join, where others came lately.
        joined: False makes a batch of each request.
        observer: gets batches, and what waits.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[[Sequence[Item]], Sequence[Value]],
        *,
        cost: Callable[[Item], int],
        budget: int,
        window_ms: float = 1.0,
        joined: bool = True,
        observer: Observer | None = None,
    ) -> None:
        self.name = name
        self.rate = Rate(budget)
        self._compute = compute
        self._cost = cost
        self._budget = budget
        self._window = window_ms / 1000.0 if joined else 0.0
        self._joined = joined
        self._observer = observer or Observer()
        self._queue: FairQueue[Item, Value] = FairQueue(budget)
        self._changed = threading.Condition()
        self._crowd = 1  # requests that the last batch of several met
        self._crowd_until = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"batcher {name}", daemon=True)
        self._thread.start()

    def tokens(self, items: Sequence[Item]) -> int:
        """Estimated tokens of these items."""
        return sum(max(1, self._cost(item)) for item in items)

    def submit(self, items: Sequence[Item], control: Control) -> Request[Item, Value]:
        """Put items into the queue; the request's `future` gets their values in order.

        The future fails with the model's error, with `Cancelled` as soon as `control.cancelled` is
        set, or with `DeadlinePassed` when its turn comes too late.

        Raises:
            Stopping: the batcher was closed.
        """
        request: Request[Item, Value] = Request(
            items, [max(1, self._cost(item)) for item in items], control
        )
        if control.cancelled.is_set():
            self._end(request, Cancelled())
        elif control.passed():
            self._end(request, deadline_passed("before its texts could wait for the model"))
        elif not items:
            self._end(request, None)
        else:
            with self._changed:
                if self._closing:
                    raise Stopping(
                        f"the model {self.name!r} takes no more work: the service is being stopped",
                        fix="Ask again when the service has been started again.",
                    )
                self._queue.add(request)
                self._observe_queue()
                if self._queue.requests in (1, self._crowd) or self._queue.tokens >= self._budget:
                    self._changed.notify()  # else it runs a batch, or waits for more
            control.cancelled.when_set(request, lambda: self._end(request, Cancelled()))
        return request

    def run(
        self, items: Sequence[Item], *, progress: ProgressCallback | None = None
    ) -> list[Value]:
        """The values of items for the current request (`current()`); blocks.

        Args:
            items: what to compute.
            progress: called from this thread with items done and in total.

        Raises:
            Cancelled: the request was cancelled.
            DeadlinePassed: its deadline passed; at once, also while the model runs.
            Stopping: the batcher was closed.
        """
        control = current()
        request = self.submit(items, control)
        try:
            while not request.future.done():
                patience = control.remaining()
                if progress is not None:
                    patience = PROGRESS_S if patience is None else min(patience, PROGRESS_S)
                with suppress(TimeoutError):
                    request.future.exception(patience)
                if progress is not None:
                    progress(len(items) - request.missing, len(items))
                if control.passed() and not request.future.done():
                    raise deadline_passed("while it waited for a model")
            return request.future.result()
        finally:
            self._end(request, Cancelled())

    async def run_async(self, items: Sequence[Item], control: Control) -> list[Value]:
        """`run` on the event loop: holds no thread, and a cancelled task leaves the queue."""
        request = self.submit(items, control)
        values = asyncio.wrap_future(request.future)
        try:
            await asyncio.wait({values}, timeout=control.remaining())
            if not values.done():
                raise deadline_passed("while it waited for a model")
            return values.result()
        finally:
            self._end(request, Cancelled())
            if not values.cancel() and not values.cancelled():
                values.exception()  # asyncio reports one that nothing has read

    def close(self) -> None:
        """Finish what was accepted, then end the thread. Later submissions raise `Stopping`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    # --- internal

    def _end(self, request: Request[Item, Value], error: BaseException | None) -> None:
        """A request's end: its values where `error` is None. Nothing where it has ended before.

        What waits of it leaves the queue; what the model computes for it now is dropped.
        """
        with self._changed:
            if request.ended:
                return
            request.ended = True
            if request.waiting:
                self._queue.remove(request)
                self._observe_queue()
        request.control.cancelled.forget(request)
        with suppress(InvalidStateError):  # its future may be cancelled at any moment
            if error is not None:
                request.future.set_exception(error)
            else:
                values: list[Value] = request.values  # type: ignore[assignment]  # none is missing
                request.future.set_result(values)

    def _observe_queue(self) -> None:
        self._observer.waiting(self.name, self._queue.items, self._queue.tokens)

    def _work(self) -> None:
        while True:
            batch = self._next_batch()
            if batch is None:
                return
            self._run_batch(batch)
            if len(batch) > 1:
                self._crowd_until = time.monotonic() + CROWD_S
            del batch  # nothing of it is kept while the model is idle

    def _next_batch(self) -> list[Part[Item, Value]] | None:
        """Wait for work and take a batch of it; may be empty. None: closed."""
        with self._changed:
            if not self._queue.requests and not self._gather():
                return None
            late = self._queue.take_late()
            met = self._queue.requests
            batch: list[Part[Item, Value]] = []
            if met:
                batch = self._queue.take() if self._joined else self._queue.take_request()
            if met > 1:
                self._crowd = met
            self._observe_queue()
        for request in late:
            self._end(request, deadline_passed(f"while it waited for {self.name!r}"))
        return batch

    def _gather(self) -> bool:
        """Wait, holding the lock, until there is something to run; False: closed."""
        while not self._queue.requests:
            if self._closing:
                return False
            self._changed.wait()
        now = time.monotonic()
        until = now + self._window
        crowd = self._crowd if now < self._crowd_until else 1
        while (
            not self._closing
            and now < until
            and 0 < self._queue.requests < crowd
            and self._queue.tokens < self._budget
        ):
            self._changed.wait(until - now)
            now = time.monotonic()
        return bool(self._queue.requests) or self._gather()

    def _run_batch(self, batch: Sequence[Part[Item, Value]]) -> None:
        """Run the model over what is still wanted, and hand out values or errors."""
        batch = [part for part in batch if not part.request.ended]
        if not batch:
            return
        now = time.monotonic()
        for part in batch:
            if not part.request.started:
                part.request.started = True
                self._observer.waited(self.name, now - part.request.submitted)
        try:
            values = self._values_of(batch)
        except BaseException as error:  # noqa: BLE001  (a batcher lives as long as its service)
            if len(batch) == 1:
                self._end(batch[0].request, self._as_exception(error))
            else:  # which request's input is at fault?
                for part in batch:
                    self._run_batch([part])
            return
        start = 0
        for part in batch:
            request, stop = part.request, start + len(part.indices)
            for index, value in zip(part.indices, values[start:stop], strict=True):
                request.values[index] = value
            start = stop
            request.missing -= len(part.indices)
            if not request.missing:
                self._end(request, None)

    def _values_of(self, batch: Sequence[Part[Item, Value]]) -> Sequence[Value]:
        items = [part.request.items[index] for part in batch for index in part.indices]
        tokens = sum(part.tokens for part in batch)
        started = time.perf_counter()
        values = self._compute(items)
        seconds = time.perf_counter() - started
        if len(values) != len(items):
            raise ModelFault(
                f"{self.name!r} gave {len(values)} values for {len(items)} texts",
                fix="Report this as an error of the service, with the model's name.",
            )
        self.rate.learn(tokens, seconds)
        self._observer.batch(self.name, len(items), tokens, seconds)
        return values

    def _as_exception(self, error: BaseException) -> Exception:
        """An error that a request's thread can raise and catch as others."""
        if isinstance(error, Exception):
            return error
        fault = ModelFault(
            f"{self.name!r} failed with {type(error).__name__}: {error}",
            fix="See the service's log; restart the service if the error persists.",
        )
        fault.__cause__ = error
        return fault
