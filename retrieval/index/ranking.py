"""Orders of results that are the same on every engine.

Engines compute scores in float32 and break ties as they like. Here scores are rounded to what
float32 can tell apart and ties go by passage id, so that a result list is a function of the
collection and the query alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Scored: TypeAlias = list[tuple[str, float]]
"""(passage id, score), best first."""

DENSE_DECIMALS = 6
SPARSE_DECIMALS = 5

_SPARE = 8
_MOST_TIED = 10_000


def leading(fetch: Callable[[int], Scored], limit: int, decimals: int) -> Scored:
    """The best `limit` of what `fetch(n)` gives, by score, then by id.

    Where the cut falls among equal scores, more is fetched until the tie ends (or 10,000 more
    were seen), since an engine hands out any members of a tie.
    """
    asked = limit + _SPARE
    while True:
        found = [(key, round(score, decimals)) for key, score in fetch(asked)]
        found.sort(key=_order)
        exhausted = len(found) < asked
        if exhausted or found[-1][1] < found[limit - 1][1] or asked >= limit + _MOST_TIED:
            return found[:limit]
        asked = min(asked * 8, limit + _MOST_TIED)


def _order(item: tuple[str, float]) -> tuple[float, str]:
    return -item[1], item[0]
