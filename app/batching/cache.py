"""Values that were computed before, in a bounded number of bytes: query vectors and scores of
pairs."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from cachetools import LRUCache

from app.batching.batcher import Batcher
from app.batching.deadline import Control
from app.types import Observer
from retrieval.types import ProgressCallback

Item = TypeVar("Item")
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
        observer: gets every lookup.
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
        self._observer = observer or Observer()
        self._lock = threading.Lock()
        self._kept: LRUCache[bytes, Value] = LRUCache(self._max_bytes, getsizeof=self._size)

    @property
    def held_bytes(self) -> int:
        """What the entries take now."""
        with self._lock:
            return int(self._kept.currsize)

    def __len__(self) -> int:
        """How many entries there are."""
        with self._lock:
            return len(self._kept)

    def get(self, keys: Sequence[bytes]) -> list[Value | None]:
        """The value of each key, None where it is not kept. One lookup for the observer."""
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

    def _size(self, value: Value) -> int:
        return ENTRY_BYTES + self._size_of(value)


class CachedBatcher(Generic[Item, Value]):
    """Gives values from a cache, and lets a batcher compute those that are missing.

    Args:
        batcher: computes.
        cache: of values; None keeps none.
        keys_of: of the items of a call, as `digest` gives them; empty where none is kept.
    """

    def __init__(
        self,
        batcher: Batcher[Item, Value],
        cache: ByteCache[Value] | None,
        keys_of: Callable[[Sequence[Item]], list[bytes]],
    ) -> None:
        self._batcher = batcher
        self._cache = cache
        self._keys_of = keys_of

    def values(
        self, items: Sequence[Item], progress: ProgressCallback | None = None
    ) -> list[Value]:
        """The values of items; blocks and raises as `Batcher.run`."""
        keys, values, missing = self._look_up(items)
        computed: list[Value] = []
        known, total = len(items) - len(missing), len(items)
        if progress is not None and known:
            progress(known, total)
        if missing:
            computed = self._batcher.run(
                [items[index] for index in missing],
                progress=progress and (lambda done, _: progress(known + done, total)),
            )
        return self._filled(keys, values, missing, computed)

    async def values_async(self, items: Sequence[Item], control: Control) -> list[Value]:
        """`values` on the event loop, as `Batcher.run_async`."""
        keys, values, missing = self._look_up(items)
        computed: list[Value] = []
        if missing:
            wanted = [items[index] for index in missing]
            computed = await self._batcher.run_async(wanted, control)
        return self._filled(keys, values, missing, computed)

    def _look_up(self, items: Sequence[Item]) -> tuple[list[bytes], list[Value | None], list[int]]:
        """Keys and values of the items, and the indices of those that are missing."""
        keys = self._keys_of(items) if self._cache is not None else []
        if self._cache is None or not keys:
            return [], [None] * len(items), list(range(len(items)))
        values = self._cache.get(keys)
        return keys, values, [index for index, value in enumerate(values) if value is None]

    def _filled(
        self,
        keys: list[bytes],
        values: list[Value | None],
        missing: list[int],
        computed: list[Value],
    ) -> list[Value]:
        for index, value in zip(missing, computed, strict=True):
            values[index] = value
        if self._cache is not None and keys and missing:
            self._cache.put((keys[i], value) for i, value in zip(missing, computed, strict=True))
        return [value for value in values if value is not None]


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
