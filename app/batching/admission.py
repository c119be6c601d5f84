"""How many requests are let in: as many as will be answered in time."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from app.batching.batcher import Lane
from app.batching.reservations import expected
from app.errors import Overloaded, Stopping
from app.types import Observer, Unobserved

LEAST_RETRY_S = 0.1

SLACK = 2.0
"""A request may itself end so many times the limit from now: an estimate of what waits ahead of
it, and what it asks for itself."""


class Admission:
    """Refuses at once what would wait too long, instead of letting everything wait.

    Args:
        max_requests: how many may be inside.
        max_wait_ms: how much work may be ahead of a new request at any model it needs.
        observer: is told of refusals.
    """

    def __init__(
        self, max_requests: int, max_wait_ms: float, observer: Observer | None = None
    ) -> None:
        self._max_requests = max_requests
        self._max_wait = max_wait_ms / 1000.0
        self._observer: Observer = observer or Unobserved()
        self._inside = 0
        self._closing = False
        self._changed = threading.Condition()

    @property
    def inside(self) -> int:
        """How many requests are in work."""
        with self._changed:
            return self._inside

    @contextmanager
    def enter(self, lanes: Mapping[Lane[Any, Any], int] | None = None) -> Iterator[None]:
        """Let a request in, for as long as the context lasts; never waits.

        Args:
            lanes: what it will ask of the models, as `Lane.cost` or `cost_of` estimate it.
                It counts as waiting there until the request submits it; that is noticed by the
                context (threads must be started with `contextvars.copy_context().run`).

        Raises:
            Overloaded: too many are inside, or too much work is ahead. A request is never refused
                for its own size where all its models are idle.
            Stopping: the service is being stopped.
        """
        needed = {lane: cost for lane, cost in (lanes or {}).items() if cost > 0}
        with self._changed:
            if self._closing:
                raise Stopping(
                    "the service is being stopped and takes no new requests",
                    fix="Ask again when the service has been started again.",
                )
            try:
                self._check(needed)
            except Overloaded:
                self._observer.shed("overloaded")
                raise
            self._inside += 1
            own = [lane.expect(cost) for lane, cost in needed.items()]
        try:
            with expected(own):
                yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Let nobody in any more; who is inside goes on."""
        with self._changed:
            self._closing = True

    def drained(self, timeout: float | None = None) -> bool:
        """Wait until nobody is inside; False where that takes longer than so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._inside == 0, timeout)

    def _check(self, needed: Mapping[Lane[Any, Any], int]) -> None:
        if self._inside >= self._max_requests:
            ahead = max((lane.seconds_ahead() for lane in needed), default=0.0)
            raise Overloaded(
                f"{self._inside} requests are in work, as many as the service takes",
                fix="Ask again a little later, or raise the setting max_requests.",
                retry_after_s=max(LEAST_RETRY_S, ahead),
            )
        for lane, cost in needed.items():
            if lane.idle():
                continue
            ahead = lane.seconds_ahead()
            own = lane.seconds_for(cost)
            if ahead > self._max_wait:
                raise Overloaded(
                    f"work for {ahead:.1f} s waits for {lane.name!r}; the service lets "
                    f"{self._max_wait:g} s wait (max_wait_ms)",
                    fix="Ask again later, or send fewer requests at a time.",
                    retry_after_s=max(LEAST_RETRY_S, ahead - self._max_wait / 2),
                )
            if ahead + own > SLACK * self._max_wait:
                raise Overloaded(
                    f"work for {ahead:.1f} s waits for {lane.name!r}, and this request would take "
                    f"it {own:.1f} s more; the service takes {SLACK * self._max_wait:g} s together",
                    fix="Send fewer texts or candidates in one request, or ask again later.",
                    retry_after_s=max(LEAST_RETRY_S, ahead),
                )
