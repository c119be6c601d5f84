"""What waits for one model, and which caller is next: the one that was served the fewest tokens.

Callers that wait get equal shares of the model in tokens, however much each of them asks for
(start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996). A caller that asks for little is
served at once: it may be ahead of the others by a part of a batch. Within a caller the oldest
request is first. Not thread-safe: `Batcher` holds its lock around it.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.batching.deadline import Control

Item = TypeVar("Item")
Value = TypeVar("Value")

HEAD_START = 1 / 4
"""Share of the budget: how far a caller that waited for nothing lately is ahead of the others."""

SMALL_BATCH = 1 / 8
"""Share of the budget: a batch that several callers share may end here, see `FairQueue.take`."""

LARGEST_PART = 1 / 2
"""Share of the budget: what a request gets of a batch while others of its caller wait, so that a
huge one does not hold up the small ones behind it."""

BACKGROUND_WEIGHT = 4
"""Background work is charged this many times its tokens: it gets a fifth beside one caller."""

BACKGROUND_SHARE = 1 / 4
"""Share of the budget: what background work may have of a batch while other callers are active, so
that a request that comes in the meantime does not wait long."""

ACTIVE_S = 1.0
"""Other callers count as active until this long after they were last served."""


@dataclass(slots=True, eq=False)
class Request(Generic[Item, Value]):
    """Items of one request for one model, and what has become of them.

    Attributes:
        items: what to compute, and `costs` their tokens.
        control: of the request.
        future: gets the values in the order of the items, or an error.
        submitted: `time.monotonic()` seconds.
        waiting: indices of items that the model was not given yet; the last is next.
        values: those computed so far; `missing` are not.
        started: whether the model was given any of it.
        ended: it has its values or an error, or is no longer wanted.
    """

    items: Sequence[Item]
    costs: Sequence[int]
    control: Control
    future: Future[list[Value]] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    waiting: list[int] = field(init=False)
    values: list[Value | None] = field(init=False)
    missing: int = field(init=False)
    started: bool = False
    ended: bool = False

    def __post_init__(self) -> None:
        # The longest are next, so that texts of like length share a batch and little is padded.
        self.waiting = sorted(range(len(self.items)), key=lambda i: (self.costs[i], -i))
        self.values = [None] * len(self.items)
        self.missing = len(self.items)


@dataclass(slots=True)
class Part(Generic[Item, Value]):
    """What of a request is in a batch: indices of its items, and their tokens together."""

    request: Request[Item, Value]
    indices: list[int] = field(default_factory=list)
    tokens: int = 0


@dataclass(slots=True, eq=False)
class _Caller(Generic[Item, Value]):
    """What waits of one caller. served: tokens that it was charged, on the queue's clock."""

    key: tuple[str, bool]
    served: float
    requests: dict[Request[Item, Value], None] = field(default_factory=dict)  # oldest first

    @property
    def background(self) -> bool:
        return self.key[1]


class FairQueue(Generic[Item, Value]):
    """What waits for one model. `budget`: tokens that a batch may have."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._callers: dict[tuple[str, bool], _Caller[Item, Value]] = {}
        self._clock = 0.0  # `served` of the caller that was served last
        self._left: dict[tuple[str, bool], float] = {}  # `served` of callers that wait for nothing
        self._active_until = float("-inf")  # of callers that are not in the background
        self.items = 0
        self.tokens = 0

    @property
    def requests(self) -> int:
        """How many requests have items that wait."""
        return sum(len(caller.requests) for caller in self._callers.values())

    def add(self, request: Request[Item, Value]) -> None:
        """Put all items of a request into the queue."""
        key = _key(request)
        caller = self._callers.get(key)
        if caller is None:
            start = self._clock - self._budget * HEAD_START
            self._left = {one: served for one, served in self._left.items() if served > start}
            caller = self._callers[key] = _Caller(key, self._left.pop(key, start))
        caller.requests[request] = None
        self.items += len(request.items)
        self.tokens += sum(request.costs)

    def remove(self, request: Request[Item, Value]) -> None:
        """Take out what still waits of a request; nothing where nothing does."""
        caller = self._callers.get(_key(request))
        if caller is not None and request in caller.requests:
            self._take_out(caller, request, len(request.waiting))

    def take_late(self) -> list[Request[Item, Value]]:
        """Take out the requests whose deadlines have passed."""
        late = [
            request
            for caller in self._callers.values()
            for request in caller.requests
            if request.control.passed()
        ]
        for request in late:
            self.remove(request)
        return late

    def take_request(self) -> list[Part[Item, Value]]:
        """Take out the whole request that is next. Something must wait."""
        caller = min(self._callers.values(), key=lambda one: one.served)
        request = next(iter(caller.requests))
        tokens = sum(request.costs[index] for index in request.waiting)
        self._charge(caller, tokens)
        return [Part(request, self._take_out(caller, request, len(request.waiting)), tokens)]

    def take(self) -> list[Part[Item, Value]]:
        """Take out the next batch. Something must wait.

        The batch ends at the budget, and earlier where several callers share it: once one of them
        has got all that it waits for, the batch is worth running, and no caller is left that has a
        head start. So a small request beside a huge one takes little more than its own time, and
        not that of a full batch.
        """
        now = time.monotonic()
        batch: dict[Request[Item, Value], Part[Item, Value]] = {}
        tokens = 0
        active = now < self._active_until
        background_left = self._budget * (BACKGROUND_SHARE if active else 1)
        satisfied = False  # whether a caller waits for nothing any more
        level = self._clock
        turns = [(one.served, number, one) for number, one in enumerate(self._callers.values())]
        heapq.heapify(turns)
        while turns:
            _, number, caller = turns[0]
            worth_running = tokens >= self._budget * SMALL_BATCH
            if satisfied and worth_running and caller.served >= level:
                break
            request = self._next_of(caller, batch)
            cost = request.costs[request.waiting[-1]]
            if batch and tokens + cost > self._budget:
                break
            if caller.background and batch and cost > background_left:
                heapq.heappop(turns)
                continue
            part = batch.setdefault(request, Part(request))
            self._charge(caller, cost)
            part.indices += self._take_out(caller, request, 1)
            part.tokens += cost
            tokens += cost
            if caller.background:
                background_left -= cost
            else:
                self._active_until = now + ACTIVE_S
            if caller.requests:
                heapq.heapreplace(turns, (caller.served, number, caller))
            else:
                heapq.heappop(turns)
                satisfied = True
        return list(batch.values())

    def _next_of(
        self, caller: _Caller[Item, Value], batch: dict[Request[Item, Value], Part[Item, Value]]
    ) -> Request[Item, Value]:
        """The oldest request, except one that has had its part of this batch."""
        most = self._budget * LARGEST_PART
        for request in caller.requests:
            if request not in batch or batch[request].tokens < most:
                return request
        return next(iter(caller.requests))

    def _charge(self, caller: _Caller[Item, Value], tokens: int) -> None:
        self._clock = max(self._clock, caller.served)
        caller.served += tokens * (BACKGROUND_WEIGHT if caller.background else 1)

    def _take_out(
        self, caller: _Caller[Item, Value], request: Request[Item, Value], count: int
    ) -> list[int]:
        """The next `count` items of a request."""
        indices = [request.waiting.pop() for _ in range(count)]
        self.items -= count
        self.tokens -= sum(request.costs[index] for index in indices)
        if not request.waiting:
            del caller.requests[request]
            if not caller.requests:
                del self._callers[caller.key]
                self._left[caller.key] = caller.served
        return indices


def _key(request: Request[Item, Value]) -> tuple[str, bool]:
    return (request.control.client, request.control.background)
