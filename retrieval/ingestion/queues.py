"""Bounded queues between the threads of a run, and how all of them stop at the first failure."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(Exception):
    """The run is over; its first failure is raised in the caller."""


class Flow:
    """The threads of one run: started, watched, stopped and waited for together."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.failure: BaseException | None = None
        self.stopped = False
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` in its own thread; what it raises stops the others."""

        def run() -> None:
            try:
                work()
            except Stopped:
                pass
            except BaseException as error:  # noqa: BLE001  (handed to the caller, who raises it)
                self.stop(error)

        # A daemon: a source that never answers must not keep the process from ending.
        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self, failure: BaseException | None = None) -> None:
        """Let every thread end at its next look at a channel. The first failure stays."""
        with self.changed:
            if self.failure is None and not self.stopped:
                self.failure = failure
            self.stopped = True
            self.changed.notify_all()

    def wait(self, until: Callable[[], bool], timeout: float | None = None) -> bool:
        """Wait for something that a thread of the run brings about; False where time is over.

        Raises:
            Stopped
        """
        with self.changed:
            ready = self.changed.wait_for(lambda: self.stopped or until(), timeout)
            if self.stopped:
                raise Stopped
            return ready

    def join(self, seconds: float) -> None:
        """Wait for the threads, so long together."""
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))


class Channel(Generic[T]):
    """A queue with room for items of so much weight together.

    One item is always let through, however heavy it is. `end` with an error is for the taker to
    find in `error` after all items that were put before it. One thread takes.
    """

    def __init__(self, flow: Flow, room: int) -> None:
        self._flow = flow
        self._room = room
        self._items: deque[tuple[T, int]] = deque()
        self._weight = 0
        self._ended = False
        self.error: BaseException | None = None

    def put(self, item: T, weight: int, *, timeout: float | None = None) -> bool:
        """Wait for room, then add; False where there was none within `timeout` seconds.

        Raises:
            Stopped
        """
        with self._flow.changed:
            room = self._flow.wait(
                lambda: not self._items or self._weight + weight <= self._room, timeout
            )
            if not room:
                return False
            self._items.append((item, weight))
            self._weight += weight
            self._flow.changed.notify_all()
            return True

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more comes, for the reason given."""
        with self._flow.changed:
            self._ended, self.error = True, error
            self._flow.changed.notify_all()

    def take(
        self, most: int = 1, *, patience: float = 0.0, timeout: float | None = None
    ) -> list[T]:
        """The next items; none at the end, or when the time is over.

        Args:
            most: items at once.
            patience: seconds to wait for as many, once there is one.
            timeout: seconds to wait for one; None waits as long as it takes.

        Raises:
            Stopped
        """
        with self._flow.changed:
            self._flow.wait(lambda: bool(self._items) or self._ended, timeout)
            if patience and self._items:
                full = self._room // 2
                self._flow.wait(
                    lambda: len(self._items) >= most or self._weight >= full or self._ended,
                    patience,
                )
            taken: list[T] = []
            while self._items and len(taken) < most:
                item, weight = self._items.popleft()
                self._weight -= weight
                taken.append(item)
            self._flow.changed.notify_all()
            return taken

    @property
    def ended(self) -> bool:
        """Whether nothing is left and nothing comes."""
        return self._ended and not self._items
