"""One thread for each model, which joins what waits for it into batches, fairly.

Batching is continuous: while the model runs one batch, requests gather, and the next batch is
formed of all that waits the moment the model is free. Only a model that was idle waits for others
to come, for a window of about a millisecond, and only where others are known to be about: a
request on its own starts at once.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Generic

from app.batching.deadline import Cancellation, Cancelled, Control, current, deadline_passed
from app.batching.fair_queue import FairQueue, Item, Part, Request, Value
from app.batching.futures import News, follow, wait_for
from app.batching.load import Load
from app.batching.reservations import Expectation, expectations
from app.errors import Stopping
from app.types import Observer, Unobserved
from retrieval.errors import ModelFault
from retrieval.types import ProgressCallback


class Lane(Generic[Item, Value]):
    """Joins items of many requests into calls of `run`, from one thread.

    Args:
        name: of the model, for the observer and errors.
        run: computes the values of a batch's items, in their order. Where it fails for a batch of
            several requests it is called again for each of them, so that one request's input
            fails that request alone.
        cost: of an item, in estimated tokens; at least 1 is counted.
        budget: what a batch may cost; an item over it goes alone.
        window_ms: how long an idle model waits for others to join, where others are about.
        joined: False runs one request a batch.
        observer: is told of batches and of what waits.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Value]],
        *,
        cost: Callable[[Item], int],
        budget: int,
        window_ms: float = 1.0,
        joined: bool = True,
        observer: Observer | None = None,
    ) -> None:
        self.name = name
        self.joined = joined
        self._run = run
        self._cost = cost
        self._budget = max(1, budget)
        self._window = window_ms / 1000.0 if joined else 0.0
        self._observer: Observer = observer or Unobserved()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._queue: FairQueue[Item, Value] = FairQueue(self._budget)
        self._load = Load(self._budget)
        self._numbers = itertools.count()
        self._enough: int | None = 1  # requests to wake the thread for; None: it is not waiting
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"lane {name}", daemon=True)
        self._thread.start()

    # --- in ---------------------------------------------------------------------------------

    def submit(self, items: Sequence[Item], control: Control) -> Future[list[Value]]:
        """The values of `items`, in their order, when the model has computed them.

        Cancelling the future, or setting `control.cancelled`, takes what waits out of the queue.
        The future fails with `Cancelled`, `DeadlinePassed` (at the latest when its turn comes), or
        the model's error.

        Raises:
            Stopping: the lane was closed.
        """
        return self._submit(items, control, None).future

    def run_now(
        self, items: Sequence[Item], *, progress: ProgressCallback | None = None
    ) -> list[Value]:
        """Submit for the current request (`control.current()`) and wait.

        Args:
            items: what to compute.
            progress: called from this thread with items done and in total.

        Raises:
            Cancelled: the request was cancelled.
            DeadlinePassed: its deadline passed; at once, also while the model runs.
            Stopping: the lane was closed.
        """
        control = current()
        news: News | None = News() if progress is not None else None
        request = self._submit(items, control, news)
        try:
            if news is not None and progress is not None:
                report, total = progress, len(items)
                follow(news, control, lambda done: report(done, total))
            return wait_for(request.future, control, lambda error: self._end(request, error))
        finally:
            self._end(request, Cancelled("nobody waits for the request any more"))

    def cost(self, items: Sequence[Item]) -> int:
        """What these items cost, as the lane counts."""
        return sum(max(1, self._cost(item)) for item in items)

    def expect(self, cost: int) -> Expectation:
        """Work that an admitted request will submit; counted as waiting until it does or ends."""
        expectation = Expectation(self, cost)
        with self._lock:
            self._load.expect(expectation)
        return expectation

    def expectation_met(self, expectation: Expectation, cost: int | None) -> None:
        """Of an expectation so much was submitted; None: no more will be."""
        with self._lock:
            self._load.meet(expectation, cost)
            if self._enough is not None and self._queue.requests:
                self._wake.notify()  # it may have been waiting for this one

    # --- how busy ---------------------------------------------------------------------------

    def seconds_ahead(self) -> float:
        """What a request that comes now would wait, from the rate measured lately.

        Counts what runs, what waits in front of background work, and what admitted requests are
        expected to submit. 0 while nothing was measured.
        """
        with self._lock:
            return self._load.ahead(self._queue.front.cost)

    def seconds_for(self, cost: int) -> float:
        """What so much would take the model, without what waits."""
        with self._lock:
            return self._load.pace.seconds(cost)

    def idle(self) -> bool:
        """Whether nobody is there, or expected, whom a new request would have to wait for."""
        with self._lock:
            return not (self._load.alive_in_front or self._load.expected)

    # --- out --------------------------------------------------------------------------------

    def close(self) -> None:
        """Finish what was accepted, then end the thread. Later submissions raise `Stopping`."""
        with self._lock:
            self._closing = True
            self._wake.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    # --- inside: requests -------------------------------------------------------------------

    def _submit(
        self, items: Sequence[Item], control: Control, news: News | None
    ) -> Request[Item, Value]:
        costs = [max(1, self._cost(item)) for item in items]
        request: Request[Item, Value] = Request(
            items, costs, control, number=next(self._numbers), news=news
        )
        if control.cancelled.is_set():
            self._end(request, Cancelled("the request was cancelled"))
        elif control.passed():
            self._end(request, deadline_passed("before its texts could wait for the model"))
        elif not items:
            self._end(request, None)
        else:
            self._enqueue(request)
        return request

    def _enqueue(self, request: Request[Item, Value]) -> None:
        control = request.control
        with self._lock:
            if self._closing:
                raise Stopping(
                    f"the model {self.name!r} takes no more work: the service is being stopped",
                    fix="Ask again when the service has been started again.",
                )
            self._queue.add(request)
            request.queued = True
            for expectation in expectations():
                if expectation.lane is self:
                    self._load.meet(expectation, request.todo_cost)
            self._load.came(front=not control.background)
            self._tell_waiting()
            if self._enough is not None and (
                self._queue.requests >= self._enough or self._queue.cost >= self._budget
            ):
                self._wake.notify()
        cancelled = control.cancelled
        if isinstance(cancelled, Cancellation):
            cancelled.when_set(
                request, lambda: self._end(request, Cancelled("the request was cancelled"))
            )

        def when_done(future: Future[list[Value]]) -> None:
            if future.cancelled():
                self._end(request, None)
            if isinstance(cancelled, Cancellation):
                cancelled.forget(request)

        request.future.add_done_callback(when_done)

    def _end(self, request: Request[Item, Value], error: Exception | None) -> None:
        """A request's end: its values where `error` is None. Nothing where it has ended before.

        What waits of it leaves the queue; what the model computes for it now is dropped.
        """
        with self._lock:
            if request.over:
                return
            request.over = True
            if request.queued:
                self._load.went(front=not request.control.background)
                self._queue.remove(request)
                self._tell_waiting()
        # The future may be cancelled at any moment by whoever holds it.
        with suppress(InvalidStateError):
            if error is not None:
                request.future.set_exception(error)
            elif not request.future.cancelled():
                values: list[Value] = request.values  # type: ignore[assignment]  # none is missing
                request.future.set_result(values)
        if request.news is not None:
            request.news.put(None)

    def _tell_waiting(self) -> None:
        self._observer.waiting(self.name, self._queue.items, self._queue.cost)

    # --- inside: the thread -----------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._queue.requests and not self._await_company():
                    return
                late = self._queue.take_late()
                batch = self._queue.take() if self.joined else self._queue.take_one()
                self._load.began(sum(r.costs[i] for r, own in batch for i in own))
                self._tell_waiting()
            try:
                for request in late:
                    self._end(request, deadline_passed(f"while it waited for {self.name!r}"))
                self._run_batch(batch)
            except BaseException as error:  # noqa: BLE001  (a lane lives as long as its service)
                for request, _ in batch:
                    self._end(request, self._plain(error))
            finally:
                with self._lock:
                    self._load.began(0)
                del batch, late  # nothing of them is kept while it waits

    def _await_company(self) -> bool:
        """Wait, holding the lock, until there is something to run; False: closed."""
        while not self._queue.requests:
            if self._closing:
                return False
            self._enough = 1
            self._wake.wait()
        # Something came to an idle model: are others about?
        until = time.monotonic() + self._window
        while not self._closing and self._window and self._queue.cost < self._budget:
            now = time.monotonic()
            self._enough = self._load.company(self._queue.requests)
            if now >= until or not 0 < self._queue.requests < self._enough:
                break
            self._wake.wait(until - now)
        self._enough = None
        return True

    def _run_batch(self, batch: list[Part[Item, Value]]) -> None:
        now = time.monotonic()
        wanted = []
        for request, own in batch:
            if request.control.cancelled.is_set():
                self._end(request, Cancelled("the request was cancelled"))
            if request.over:
                continue
            wanted.append((request, own))
            if not request.started:
                request.started = True
                self._observer.waited(self.name, now - request.submitted)
        if not wanted:
            return
        try:
            self._compute(wanted)
        except BaseException as error:  # noqa: BLE001  (handed to whom it belongs)
            if len(wanted) == 1:
                self._end(wanted[0][0], self._plain(error))
                return
            for part in wanted:  # whose fault is it?
                self._run_batch([part])

    def _compute(self, batch: list[Part[Item, Value]]) -> None:
        items = [request.items[index] for request, own in batch for index in own]
        cost = sum(request.costs[index] for request, own in batch for index in own)
        started = time.perf_counter()
        values = self._run(items)
        seconds = time.perf_counter() - started
        if len(values) != len(items):
            raise ModelFault(
                f"{self.name!r} gave {len(values)} values for {len(items)} texts",
                fix="Report this as an error of the service, with the model's name.",
            )
        with self._lock:
            self._load.pace.learn(cost, seconds)
        self._observer.batch(self.name, len(items), cost, seconds)
        start = 0
        for request, own in batch:
            for index, value in zip(own, values[start : start + len(own)], strict=True):
                request.values[index] = value
            start += len(own)
            request.missing -= len(own)
            if request.news is not None:
                request.news.put(len(request.items) - request.missing)
            if not request.missing:
                self._end(request, None)

    def _plain(self, error: BaseException) -> Exception:
        """An error that a request's thread can raise and catch as others."""
        if isinstance(error, Exception):
            return error
        fault = ModelFault(
            f"{self.name!r} failed with {type(error).__name__}: {error}",
            fix="Look into the service's log; start the service again if it goes on.",
        )
        fault.__cause__ = error
        return fault
