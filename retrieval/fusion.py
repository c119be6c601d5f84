"""Joining ranked lists by their ranks alone, where their scores have no common scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

from retrieval.errors import InvalidInput

RRF_K = 20
"""A middle course: with small k the first places decide, with large k being in every list does."""


def rrf(
    rankings: Sequence[Sequence[str]],
    k: int = RRF_K,
    weights: Sequence[float] | None = None,
) -> list[tuple[str, float]]:
    """Reciprocal rank fusion: the sum over the rankings of weight / (k + rank), best first.

    Method: Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and
    individual rank learning methods", SIGIR 2009. Ranks start at 0, as they do in Qdrant; the
    paper counts from 1. An id that a ranking lacks gets nothing from it; one that a ranking holds
    twice counts at its better place. The result does not depend on the order of the rankings.

    Args:
        rankings: ids, best first; lengths may differ.
        k: how slowly the worth of a place falls; at least 1.
        weights: one finite number of at least 0 for each ranking; None weighs all alike.

    Returns:
        (id, score) of every id in any of the rankings, by score, ties by id.

    Raises:
        InvalidInput: `k` or `weights` cannot be used.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InvalidInput(
            f"the RRF constant k is {k!r}, expected a whole number of at least 1",
            fix=f"Leave it out for {RRF_K}, or give a positive number.",
        )
    used = [1.0] * len(rankings) if weights is None else [float(weight) for weight in weights]
    if len(used) != len(rankings) or not all(math.isfinite(w) and w >= 0.0 for w in used):
        raise InvalidInput(
            f"the weights {used} were given for {len(rankings)} rankings, expected one finite "
            "number of at least 0 for each",
            fix="Give one weight for each ranking, or none at all.",
        )
    parts: dict[str, list[float]] = {}
    for ranking, weight in zip(rankings, used, strict=True):
        for rank, key in enumerate(dict.fromkeys(ranking)):
            parts.setdefault(key, []).append(weight / (k + rank))
    # fsum rounds once: the order of the rankings cannot decide between equal sums.
    scores = [(key, math.fsum(values)) for key, values in parts.items()]
    return sorted(scores, key=lambda item: (-item[1], item[0]))
