"""How long a model will take for what waits, learned from the batches that it ran."""

from __future__ import annotations

KEPT = 0.9
"""What of the older measurements is kept at each new one: about the last ten batches count."""

SPREAD = 0.3
"""Costs must differ by this share of their mean before a batch's fixed part is told apart."""

COLD = 2
"""So many batches are left out: a model's first ones may compile it, or fill its caches."""


class Pace:
    """A line through (cost, seconds) of recent batches: so much a batch, so much a unit of cost.

    A ratio alone would be wrong by orders of magnitude for a full batch after many short ones,
    whose time is mostly what any call costs. Not thread-safe.
    """

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._cold = COLD
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def learn(self, cost: int, seconds: float) -> None:
        """Take a measured batch into the estimate."""
        if self._weight == 0.0 and cost <= 0:
            return
        if self._cold:
            self._cold -= 1
            return
        self._weight = KEPT * self._weight + 1.0
        self._x = KEPT * self._x + cost
        self._y = KEPT * self._y + seconds
        self._xx = KEPT * self._xx + cost * cost
        self._xy = KEPT * self._xy + cost * seconds

    def seconds(self, cost: float) -> float:
        """What so much will take, in batches of the budget; 0 while nothing was measured."""
        if cost <= 0 or self._x <= 0:
            return 0.0
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        slope, fixed = mean_y / mean_x, 0.0
        variance = self._xx / self._weight - mean_x * mean_x
        covariance = self._xy / self._weight - mean_x * mean_y
        if variance > (SPREAD * mean_x) ** 2 and covariance > 0:
            slope = min(slope, covariance / variance)
            fixed = mean_y - slope * mean_x
        return fixed * max(1.0, cost / self._budget) + slope * cost
