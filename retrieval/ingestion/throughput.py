"""How fast a run is, and how long it will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

SPAN_S = 60.0
"""The rate is that of the last minute: long enough to be calm, short enough to follow a change."""

_STEP_S = 0.5


class Throughput:
    """Rates of the last minute. `clock` gives seconds.

    Two things are counted: passages encoded, for the rate, and characters of documents dealt with
    (encoded, unchanged or failed), for the time that remains.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._samples: deque[tuple[float, float, float]] = deque([(self._started, 0.0, 0.0)])

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return self._clock() - self._started

    def note(self, passages: float, characters: float) -> None:
        """How far the run is now."""
        now = self._clock()
        if len(self._samples) > 1 and now - self._samples[-2][0] < _STEP_S:
            self._samples.pop()
        self._samples.append((now, passages, characters))
        while len(self._samples) > 2 and self._samples[1][0] <= now - SPAN_S:
            self._samples.popleft()

    @property
    def passages_per_second(self) -> float:
        """The rate of the last minute; 0 before there is one."""
        return self._rate(1)

    def remaining(self, total_characters: float | None) -> float | None:
        """Seconds until `total_characters` are processed; None where that is unknown."""
        if total_characters is None:
            return None
        left = total_characters - self._samples[-1][2]
        rate = self._rate(2)
        if left > 0 and rate <= 0:
            return None
        return left / rate if left > 0 else 0.0

    def _rate(self, column: int) -> float:
        first, last = self._samples[0], self._samples[-1]
        took = last[0] - first[0]
        return (last[column] - first[column]) / took if took > 0 else 0.0
