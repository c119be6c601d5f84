"""Limits of the rate of requests, one for each client, without a list of past requests."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from app.settings.settings import rate_of

# Beyond this number, the client that was silent for longest is forgotten and starts anew.
MOST_CLIENTS = 10_000


class RateLimits:
    """Counts requests by client; for one event loop, without locks.

    Each client may send `count` requests at once and gets new ones evenly over the time (the
    generic cell rate algorithm): one number a client, and the wait until the next request is
    exact. In any stretch of `seconds` that follows a pause, fewer than twice `count` pass.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: OrderedDict[str, float] = OrderedDict()
        self._rates: dict[str, tuple[int, float]] = {}

    def wait(self, client: str, rate: str) -> float:
        """Count one request; 0.0 where it may pass, else the seconds until the next may.

        Args:
            client: who sends it.
            rate: such as "600/minute".

        Raises:
            InvalidInput: `rate` is not a rate.
        """
        count, seconds = self._rates.get(rate) or self._rates.setdefault(rate, rate_of(rate))
        step = seconds / count
        now = self._clock()
        due = max(self._due.get(client, now), now)
        early = due - now - (seconds - step)
        if early > 1e-9:  # seconds; sums of steps are not exact
            return early
        self._due[client] = due + step
        self._due.move_to_end(client)
        if len(self._due) > MOST_CLIENTS:
            self._due.popitem(last=False)
        return 0.0
