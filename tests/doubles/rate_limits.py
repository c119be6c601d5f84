"""`read_rate_limit` and `write_rate_limit` of strict mode: a bucket of tokens for each collection.

A bucket holds a minute's tokens and fills evenly. What a call costs: a retrieve one an id; a
scroll, a count and each search of a batch one, and one more for each condition of its filter (a
search by several vectors: one a vector); a write one a point.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .rejected import Rejected
from .strict_mode import conditions

if TYPE_CHECKING:
    from .backend import Kept


@dataclass
class _Bucket:
    limit: int
    tokens: float
    at: float


@dataclass
class RateLimits:
    """The buckets of one double. `now`: seconds, for tests that bring their own time."""

    now: Callable[[], float] = time.monotonic
    spent: dict[str, int] = field(default_factory=dict)
    """Tokens by "read" and "write", of all collections, whether they are limited or not."""
    _buckets: dict[tuple[int, str], _Bucket] = field(default_factory=dict)

    def read(self, kept: Kept, cost: int) -> None:
        """Take tokens for reading, or refuse."""
        self._take(kept, "read", cost)

    def write(self, kept: Kept, cost: int) -> None:
        """Take tokens for writing, or refuse."""
        self._take(kept, "write", cost)

    def _take(self, kept: Kept, kind: str, cost: int) -> None:
        given = kept.config.strict_mode_config
        limit = getattr(given, f"{kind}_rate_limit") if given is not None and given.enabled else 0
        if limit:
            self._check(self._bucket(kept, kind, limit), kind.capitalize(), cost)
        self.spent[kind] = self.spent.get(kind, 0) + cost

    def _bucket(self, kept: Kept, kind: str, limit: int) -> _Bucket:
        key, now = (id(kept), kind), self.now()
        bucket = self._buckets.get(key)
        if bucket is None or bucket.limit != limit:
            bucket = self._buckets[key] = _Bucket(limit, limit, now)
        bucket.tokens = min(limit, bucket.tokens + (now - bucket.at) * limit / 60)
        bucket.at = now
        return bucket

    @staticmethod
    def _check(bucket: _Bucket, kind: str, cost: int) -> None:
        start = f"Rate limiting exceeded: {kind} rate limit exceeded"
        if cost > bucket.limit:
            raise Rejected(
                429,
                f"{start}, request larger than rate limiter capacity, please try to split your "
                "request",
            )
        if cost > bucket.tokens:
            wait = math.ceil((cost - bucket.tokens) * 60 / bucket.limit)
            raise Rejected(
                429,
                f"{start}: Operation requires {cost} tokens but only {bucket.tokens:.1f} were "
                f"available. Retry after {wait}s",
                wait,
            )
        bucket.tokens -= cost


def read_cost(where: Any) -> int:
    """Of a scroll, a count, or a search by one vector."""
    return 1 + len(list(conditions(where)))


def search_cost(asked: Any) -> int:
    """Of one search: by token vectors it compares with each."""
    query = getattr(asked.query, "nearest", asked.query)
    many = isinstance(query, list) and query and isinstance(query[0], list)
    return read_cost(asked.filter) - 1 + (len(query) if many else 1)
