"""A value that is made when it is first needed: by one thread, the others wait for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from retrieval.errors import RetrievalError

T = TypeVar("T")


class Lazy(Generic[T]):
    """A value made on the first `get`; a failure is remembered for a while, then tried again.

    Otherwise every request that needs something unavailable (a server that does not answer, a
    model whose weights are missing) would try again by itself, one after the other.

    Args:
        make: makes the value; a `RetrievalError` of it is what `get` raises.
        retry_s: how long a failure holds.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        make: Callable[[], T],
        *,
        retry_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._retry_s = retry_s
        self._clock = clock
        self._lock = threading.Lock()
        self._made: tuple[T] | None = None
        self._failure: tuple[RetrievalError, float] | None = None

    @property
    def value(self) -> T | None:
        """The value if it was made, else None; never waits."""
        made = self._made
        return None if made is None else made[0]

    def get(self) -> T:
        """The value; made now where it is missing.

        Raises:
            RetrievalError: what `make` raised, now or less than `retry_s` ago.
        """
        made = self._made
        if made is not None:
            return made[0]
        with self._lock:
            if self._made is not None:
                return self._made[0]
            if self._failure is not None and self._clock() < self._failure[1]:
                raise self._failure[0].with_traceback(None)
            try:
                value = self._make()
            except RetrievalError as error:
                self._failure = (error, self._clock() + self._retry_s)
                raise
            self._made, self._failure = (value,), None
            return value

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No other thread makes the value inside the block; a failure is forgotten after it."""
        with self._lock:
            try:
                yield
            finally:
                self._failure = None
