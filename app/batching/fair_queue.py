"""Whose turn it is: deficit round robin over clients, and within a client the old and the small.

Method: Shreedhar and Varghese, "Efficient Fair Queueing using Deficit Round Robin", SIGCOMM 1995.
Every client gets the same share of each batch, in cost and not in items, however much it asks for.
Within a client, one half of its share goes to its oldest request and the other to its smallest: a
small request passes a huge one, the huge one still goes on, and equal ones are answered one after
the other instead of all at the end. Not thread-safe: `Lane` holds its lock around it.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from app.batching.deadline import Control
from app.batching.futures import News

Item = TypeVar("Item")
Value = TypeVar("Value")

SMALLEST_QUANTUM = 1 / 32
"""Of a batch's budget: what a client's turn adds to its credit at least."""

BACKGROUND_SHARE = 1 / 4
"""Of a batch's budget: what background work may take while others are about, so that a request
that comes in the meantime does not wait long."""

STARVING_S = 0.25
"""Background work that got nothing for so long takes part in the next batch, whatever waits."""

LATELY_S = 1.0
"""Others count as being about for so long after they were last seen."""


@dataclass(slots=True, eq=False)
class Request(Generic[Item, Value]):
    """Items of one request at one lane, and what has become of them.

    todo: indices of items that were not given to the model yet, in reverse order. missing: how
    many items have no value yet. news: gets how many are done, and None at the end. over: it has
    its result, an error, or is not wanted any more.
    """

    items: Sequence[Item]
    costs: Sequence[int]
    control: Control
    number: int
    news: News | None = None
    future: Future[list[Value]] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    todo: list[int] = field(default_factory=list)
    values: list[Value | None] = field(default_factory=list)
    missing: int = 0
    todo_cost: int = 0
    queued: bool = False
    started: bool = False
    over: bool = False

    def __post_init__(self) -> None:
        # Longest first, so that texts of like length share a batch and little is padded.
        self.todo = sorted(range(len(self.items)), key=lambda i: (self.costs[i], -i))
        self.values = [None] * len(self.items)
        self.missing = len(self.items)
        self.todo_cost = sum(self.costs)


Part = tuple[Request[Item, Value], list[int]]
"""What of a request is in a batch: the indices of its items."""


class _Client(Generic[Item, Value]):
    """What waits of one client."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.credit = 0
        self.waiting: dict[int, Request[Item, Value]] = {}  # by number: oldest first
        self._small: list[tuple[int, int, Request[Item, Value]]] = []
        self._old_spent = self._small_spent = 0

    def add(self, request: Request[Item, Value]) -> None:
        self.waiting[request.number] = request
        if len(self._small) > 2 * len(self.waiting) + 16:  # of cancelled requests
            self._small = [entry for entry in self._small if entry[1] in self.waiting]
            heapq.heapify(self._small)
        heapq.heappush(self._small, (request.todo_cost, request.number, request))

    def next(self) -> tuple[Request[Item, Value], bool, bool]:
        """The request whose item is next, and whether it is the oldest and the smallest."""
        oldest = next(iter(self.waiting.values()))
        while self._small[0][1] not in self.waiting:
            heapq.heappop(self._small)
        smallest = self._small[0][2]
        chosen = oldest if self._old_spent <= self._small_spent else smallest
        return chosen, chosen is oldest, chosen is smallest

    def spend(self, cost: int, old: bool, small: bool) -> None:
        self.credit -= cost
        self._old_spent += cost if old else 0
        self._small_spent += cost if small else 0
        common = min(self._old_spent, self._small_spent)
        self._old_spent -= common
        self._small_spent -= common


class _Turns(Generic[Item, Value]):
    """The clients of one class (in front, or in the background)."""

    def __init__(self) -> None:
        self.clients: dict[str, _Client[Item, Value]] = {}
        self.ring: deque[_Client[Item, Value]] = deque()
        self.requests = self.items = self.cost = 0

    def add(self, request: Request[Item, Value]) -> None:
        client = self.clients.get(request.control.client)
        if client is None:
            client = self.clients[request.control.client] = _Client(request.control.client)
            self.ring.append(client)
        client.add(request)
        self.requests += 1
        self.items += len(request.todo)
        self.cost += request.todo_cost

    def remove(self, request: Request[Item, Value]) -> None:
        client = self.clients.get(request.control.client)
        if client is None or client.waiting.pop(request.number, None) is None:
            return
        self.requests -= 1
        self.items -= len(request.todo)
        self.cost -= request.todo_cost
        request.todo = []
        request.todo_cost = 0

    def take(
        self,
        room: int,
        budget: int,
        batch: dict[Request[Item, Value], list[int]],
        *,
        at_least_one: bool,
    ) -> int:
        """Put items into `batch` that cost at most `room` together; gives what they cost."""
        spent = 0
        quantum = max(budget // max(len(self.ring), 1), int(budget * SMALLEST_QUANTUM), 1)
        while self.ring:
            client = self.ring[0]
            client.credit += quantum
            while client.waiting:
                request, old, small = client.next()
                cost = request.costs[request.todo[-1]]
                if cost > client.credit:
                    break
                if spent + cost > room and not (at_least_one and spent == 0):
                    client.credit -= quantum  # its turn is not over: it begins the next batch
                    return spent
                self._take_one(client, request, cost, batch)
                client.spend(cost, old, small)
                spent += cost
            self.ring.popleft()
            if client.waiting:
                self.ring.append(client)
            else:
                del self.clients[client.name]
        return spent

    def _take_one(
        self,
        client: _Client[Item, Value],
        request: Request[Item, Value],
        cost: int,
        batch: dict[Request[Item, Value], list[int]],
    ) -> None:
        batch.setdefault(request, []).append(request.todo.pop())
        request.todo_cost -= cost
        self.items -= 1
        self.cost -= cost
        if not request.todo:
            del client.waiting[request.number]
            self.requests -= 1


class FairQueue(Generic[Item, Value]):
    """What waits for one model. `budget`: what a batch may cost."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self.front: _Turns[Item, Value] = _Turns()
        self.behind: _Turns[Item, Value] = _Turns()
        self._front_seen = float("-inf")
        self._behind_served = float("-inf")
        self._deadlines: list[tuple[float, int, Request[Item, Value]]] = []

    @property
    def requests(self) -> int:
        """How many requests have items that wait."""
        return self.front.requests + self.behind.requests

    @property
    def items(self) -> int:
        """How many items wait."""
        return self.front.items + self.behind.items

    @property
    def cost(self) -> int:
        """What they cost together."""
        return self.front.cost + self.behind.cost

    def add(self, request: Request[Item, Value]) -> None:
        """Put all items of a request into the queue."""
        if request.control.deadline is not None:
            entry = (request.control.deadline, request.number, request)
            heapq.heappush(self._deadlines, entry)
        if request.control.background:
            if not self.behind.requests:
                self._behind_served = time.monotonic()
            self.behind.add(request)
        else:
            self._front_seen = time.monotonic()
            self.front.add(request)

    def remove(self, request: Request[Item, Value]) -> None:
        """Take out what still waits of a request; nothing where nothing does."""
        (self.behind if request.control.background else self.front).remove(request)

    def take_late(self) -> list[Request[Item, Value]]:
        """Take out the requests whose deadlines have passed."""
        late = []
        now = time.monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            request = heapq.heappop(self._deadlines)[2]
            if not request.over:
                self.remove(request)
                late.append(request)
        if len(self._deadlines) > 2 * self.requests + 64:  # of those that were answered
            self._deadlines = [entry for entry in self._deadlines if not entry[2].over]
            heapq.heapify(self._deadlines)
        return late

    def take(self) -> list[Part[Item, Value]]:
        """The next batch. Empty only where nothing waits."""
        now = time.monotonic()
        batch: dict[Request[Item, Value], list[int]] = {}
        starving = self.behind.requests > 0 and now - self._behind_served > STARVING_S
        kept = self._budget // 8 if starving else 0
        spent = self.front.take(self._budget - kept, self._budget, batch, at_least_one=True)
        if spent:
            self._front_seen = now
        if self.behind.requests:
            alone = now - self._front_seen > LATELY_S
            most = self._budget if alone else int(self._budget * BACKGROUND_SHARE)
            room = min(self._budget - spent, most)
            behind = self.behind.take(room, self._budget, batch, at_least_one=starving or not spent)
            if behind:
                self._behind_served = now
        return list(batch.items())

    def take_one(self) -> list[Part[Item, Value]]:
        """All items of the one request whose turn it is."""
        for turns in (self.front, self.behind):
            while turns.ring:
                client = turns.ring.popleft()
                if not client.waiting:
                    del turns.clients[client.name]
                    continue
                turns.ring.append(client)
                request = next(iter(client.waiting.values()))
                indices = list(range(len(request.items)))
                turns.remove(request)
                return [(request, indices)]
        return []
