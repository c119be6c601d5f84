"""What was computed before, within a number of bytes: query vectors and scores of pairs."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from cachetools import LRUCache

from app.types import Observer, Unobserved

Value = TypeVar("Value")

ENTRY_BYTES = 400
"""What an entry takes beside its value: its key, and its places in the cache's tables."""

KEY_BYTES = 24


class ByteCache(Generic[Value]):
    """Least recently used values go first. May be used from many threads; 0 bytes keep nothing.

    Args:
        name: for the observer: "queries" or "scores".
        max_bytes: what all entries may take together.
        size_of: bytes that a value takes in memory, with what it refers to.
        observer: is told of every look.
    """

    def __init__(
        self,
        name: str,
        max_bytes: int,
        size_of: Callable[[Value], int],
        *,
        observer: Observer | None = None,
    ) -> None:
        self.name = name
        self._max_bytes = max(0, max_bytes)
        self._size_of = size_of
        self._observer: Observer = observer or Unobserved()
        self._lock = threading.Lock()
        self._kept: LRUCache[bytes, Value] = LRUCache(self._max_bytes, getsizeof=self._size)

    @property
    def held_bytes(self) -> int:
        """What the entries take now."""
        with self._lock:
            return int(self._kept.currsize)

    def __len__(self) -> int:
        with self._lock:
            return len(self._kept)

    def get(self, keys: Sequence[bytes]) -> list[Value | None]:
        """The value of each key, None where it is not kept. One look for the observer."""
        if not self._max_bytes:
            return [None] * len(keys)
        with self._lock:
            found = [self._kept.get(key) for key in keys]
            held = int(self._kept.currsize)
        hits = sum(value is not None for value in found)
        self._observer.cache(self.name, hits, len(found) - hits, held)
        return found

    def put(self, entries: Iterable[tuple[bytes, Value]]) -> None:
        """Keep values; one that is larger than the cache is not kept."""
        if not self._max_bytes:
            return
        with self._lock:
            for key, value in entries:
                if self._size(value) <= self._max_bytes:
                    self._kept[key] = value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def _size(self, value: Value) -> int:
        return ENTRY_BYTES + self._size_of(value)


def digest(*parts: str | bytes) -> bytes:
    """A key of texts: different lists of parts have different keys.

    Two texts with one key would show one caller another's result: 192 bits cannot be made to
    collide.
    """
    state = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        # surrogatepass: lone surrogates are not text, but two different ones are different.
        data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.digest()
