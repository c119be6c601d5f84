"""How busy a model is: what runs, what was promised, how many are about. Not thread-safe."""

from __future__ import annotations

import time

from app.batching.latency_model import Pace
from app.batching.reservations import Expectation

CROWD_S = 0.05
"""For so long after several requests were seen at once, an idle model waits for company."""


class Load:
    """What a lane knows of its model's work. `budget`: what a batch may cost."""

    def __init__(self, budget: int) -> None:
        self.pace = Pace(budget)
        self.expected: set[Expectation] = set()
        self.expected_cost = 0
        self._alive = [0, 0]  # requests that have not ended: behind, in front
        self._running_cost = 0
        self._running_since = 0.0
        self._crowd = 1
        self._crowd_until = 0.0

    def expect(self, expectation: Expectation) -> None:
        """An admitted request will submit so much."""
        self.expected.add(expectation)
        self.expected_cost += expectation.cost

    def meet(self, expectation: Expectation, cost: int | None) -> None:
        """So much of it was submitted; None: no more will be."""
        if expectation not in self.expected:
            return
        met = expectation.cost if cost is None else min(cost, expectation.cost)
        expectation.cost -= met
        self.expected_cost -= met
        if expectation.cost <= 0:
            self.expected.discard(expectation)

    @property
    def alive_in_front(self) -> int:
        """How many requests have not ended, without background ones."""
        return self._alive[True]

    def came(self, *, front: bool) -> None:
        """A request was submitted."""
        self._alive[front] += 1
        alive = sum(self._alive)
        if alive > 1:
            now = time.monotonic()
            fresh = now < self._crowd_until
            self._crowd = max(alive, self._crowd) if fresh else alive
            self._crowd_until = now + CROWD_S

    def went(self, *, front: bool) -> None:
        """A request has ended."""
        self._alive[front] -= 1

    def began(self, cost: int) -> None:
        """The model runs a batch; 0 once it has ended."""
        self._running_cost = cost
        self._running_since = time.monotonic()

    def company(self, waiting: int) -> int:
        """How many requests may be worth waiting for, of which so many wait."""
        crowd = self._crowd if time.monotonic() < self._crowd_until else 1
        return max(crowd, waiting + len(self.expected))

    def ahead(self, waiting_cost: int) -> float:
        """Seconds that a request would wait which comes after what waits."""
        seconds = self.pace.seconds(waiting_cost + self.expected_cost)
        if self._running_cost:
            run_for = time.monotonic() - self._running_since
            seconds += max(0.0, self.pace.seconds(self._running_cost) - run_for)
        return seconds
