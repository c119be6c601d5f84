"""How many requests are admitted: of every caller, as many as can be answered in time.

A request counts from the moment it is let in until it ends, with the tokens that it will ask of
each model. What a caller has to wait for follows from the order in which `FairQueue` serves:
all of its own tokens, and of every other caller at most the same number. So a caller that floods
the service waits, and is refused, for what it sent itself; others are let in as if it were one
more.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from app.batching.batcher import Batcher
from app.errors import Overloaded, Stopping
from app.types import Observer

Work: TypeAlias = Mapping[Batcher[Any, Any], int]
"""Tokens that a request will ask of each model."""

LEAST_RETRY_S = 0.1

SLACK = 2.0
"""A request may end this many times the longest wait from now, its own work included."""


class Admission:
    """Refuses at once what would wait too long, instead of letting everything wait.

    Args:
        max_requests: how many may be in work. Where they are reached, a caller with less than its
            equal share of them is let in all the same.
        max_wait_ms: how long a request may wait at any model that it needs.
        observer: gets refusals.
    """

    def __init__(
        self, max_requests: int, max_wait_ms: float, observer: Observer | None = None
    ) -> None:
        self._max_requests = max_requests
        self._max_wait = max_wait_ms / 1000.0
        self._observer = observer or Observer()
        self._requests: Counter[str] = Counter()  # in work, by caller
        self._tokens: dict[Batcher[Any, Any], Counter[str]] = {}
        self._closing = False
        self._changed = threading.Condition()

    @property
    def inside(self) -> int:
        """How many requests are in work."""
        with self._changed:
            return self._requests.total()

    @contextmanager
    def enter(self, caller: str, work: Work | None = None) -> Iterator[None]:
        """Let a request in, for as long as the context lasts; never waits.

        Args:
            caller: the id of its key.
            work: estimated tokens that it will ask of each model.

        Raises:
            Overloaded: too many requests are in work, or this one would wait too long. A caller is
                never refused for the size of a request where the models that it needs are idle.
            Stopping: the service is being stopped.
        """
        work = {batcher: tokens for batcher, tokens in (work or {}).items() if tokens > 0}
        with self._changed:
            if self._closing:
                raise Stopping(
                    "the service is being stopped and takes no new requests",
                    fix="Ask again when the service has been started again.",
                )
            try:
                self._check_requests(caller)
                for batcher, tokens in work.items():
                    self._check_wait(caller, batcher, tokens)
            except Overloaded:
                self._observer.shed("overloaded")
                raise
            self._requests[caller] += 1
            for batcher, tokens in work.items():
                self._tokens.setdefault(batcher, Counter())[caller] += tokens
        try:
            yield
        finally:
            with self._changed:
                _subtract(self._requests, caller, 1)
                for batcher, tokens in work.items():
                    _subtract(self._tokens[batcher], caller, tokens)
                self._changed.notify_all()

    def close(self) -> None:
        """Let no more requests in; those that are inside go on."""
        with self._changed:
            self._closing = True

    def drained(self, timeout: float | None = None) -> bool:
        """Wait until no request is inside; False where that takes longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._requests, timeout)

    def _check_requests(self, caller: str) -> None:
        total = self._requests.total()
        share = self._max_requests // len(self._requests.keys() | {caller})
        if total < self._max_requests or self._requests[caller] < share:
            return
        waits = (
            batcher.rate.seconds(_served_before(tokens, caller, tokens[caller]))
            for batcher, tokens in self._tokens.items()
        )
        raise Overloaded(
            f"{total} requests are in work, and the service takes no more",
            fix="Ask again a little later, or raise the setting max_requests.",
            retry_after_s=max([LEAST_RETRY_S, *waits]),
        )

    def _check_wait(self, caller: str, batcher: Batcher[Any, Any], tokens: int) -> None:
        inside = self._tokens.get(batcher)
        if not inside:
            return
        own = inside[caller]
        wait = batcher.rate.seconds(_served_before(inside, caller, own))
        whole = batcher.rate.seconds(_served_before(inside, caller, own + tokens) + tokens)
        if wait > self._max_wait:
            raise Overloaded(
                f"work for {wait:.1f} s waits for {batcher.name!r}; the service lets "
                f"{self._max_wait:g} s wait (max_wait_ms)",
                fix="Ask again later, or send fewer requests at a time.",
                retry_after_s=max(LEAST_RETRY_S, wait - self._max_wait / 2),
            )
        if whole > SLACK * self._max_wait:
            raise Overloaded(
                f"work for {wait:.1f} s waits for {batcher.name!r}, and this request would take "
                f"it {whole - wait:.1f} s more; the service takes {SLACK * self._max_wait:g} s "
                "together",
                fix="Send fewer texts or candidates in one request, or ask again later.",
                retry_after_s=max(LEAST_RETRY_S, wait),
            )


def _served_before(inside: Counter[str], caller: str, own: int) -> int:
    """Tokens that are served before a caller's `own` are, its new request left out."""
    others = sum(min(tokens, own) for other, tokens in inside.items() if other != caller)
    return inside[caller] + others


def _subtract(counter: Counter[str], key: str, count: int) -> None:
    counter[key] -= count
    if not counter[key]:
        del counter[key]
