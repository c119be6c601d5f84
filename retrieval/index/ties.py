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

SPARE = 8
"""How many more than `limit` are asked for at first, so that a tie at the cut is seen."""

_MOST_TIED = 10_000


def leading(
    first: Scored,
    limit: int,
    decimals: int,
    more: Callable[[int], Scored],
    most: int | None = None,
) -> Scored:
    """The best `limit` results by score, then by id.

    Where the cut falls among equal scores, more is fetched until the tie ends (or 10,000 more
    were seen), since an engine hands out any members of a tie.

    Args:
        first: the engine's answer when asked for `limit + SPARE`, or for `most` if that is less.
        more: the engine's answer when asked for that number.
        most: how much an engine gives at all, at least `limit`; then a tie that goes on beyond it
            is cut as the engine cut it.
    """
    longest = limit + _MOST_TIED if most is None else most
    asked, answer = min(limit + SPARE, longest), first
    while True:
        found = ordered(answer, decimals)
        exhausted = len(found) < asked
        if exhausted or found[-1][1] < found[limit - 1][1] or asked >= longest:
            return found[:limit]
        asked = min(asked * 8, longest)
        answer = more(asked)


def ordered(scored: Scored, decimals: int) -> Scored:
    """By rounded score, best first, ties by id."""
    return sorted(
        ((key, round(score, decimals)) for key, score in scored),
        key=lambda item: (-item[1], item[0]),
    )
