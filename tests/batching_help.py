"""A model that can be held, to see what gathers meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from app.batching.batcher import Batcher
from app.batching.deadline import Control
from app.batching.queue import Request
from app.types import Observer
from retrieval.errors import InvalidInput


class Model:
    """Squares numbers. Negative ones fail."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.seconds = 0.0
        self.free = threading.Event()
        self.free.set()
        self._entered = threading.Semaphore(0)

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self._entered.release()
        assert self.free.wait(20)
        if self.seconds:
            time.sleep(self.seconds)
        if any(item < 0 for item in items):
            raise InvalidInput("a negative number was given", fix="Give positive ones.")
        return [item * item for item in items]

    def hold(self, batcher: Batcher[int, int]) -> Request[int, int]:
        """The model is busy with an item until `free.set()`."""
        self.free.clear()
        self._entered = threading.Semaphore(0)
        first = batcher.submit([1], Control(client="first"))
        assert self._entered.acquire(timeout=10)
        return first


class Observed(Observer):
    """What a batcher says of itself."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int]] = []
        self.queue = (0, 0)
        self.waits: list[float] = []
        self.refused: list[str] = []

    def batch(self, model: str, items: int, tokens: int, seconds: float) -> None:
        self.batches.append((items, tokens))

    def waiting(self, model: str, items: int, tokens: int) -> None:
        self.queue = (items, tokens)

    def waited(self, model: str, seconds: float) -> None:
        self.waits.append(seconds)

    def shed(self, reason: str) -> None:
        self.refused.append(reason)


MakeBatcher = Callable[..., Batcher[int, int]]
