"""How far the judging of a pool is, and whether its figures can be trusted yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from retrieval.evaluation.pool_files import PoolHead, PoolQuery, StoredItem
from retrieval.evaluation.pool_judgements import Judgements

ENOUGH = 0.8
"""The share of a system's top that should be judged before its figures are compared."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Counts of a pool.

    Attributes:
        collection: that it is of.
        queries: how many, by origin.
        items: documents to judge, over all queries.
        judged: how many have a grade.
        skipped: how many were skipped.
        grades: how many documents have each grade, of people's queries.
        judged_queries: people's queries with a judgement; only these are measured.
        without_relevant: how many of them have no relevant document among those judged.
        synthetic_judged: synthetic queries whose passage a person has judged.
        synthetic_agreed: those of which the person says that it answers the query.
        depth: how deep `systems` looks.
        systems: system → share of its top `depth` that is judged, over the queries measured.
        warnings: sentences about figures that would mislead.
    """

    collection: str
    queries: Mapping[str, int]
    items: int
    judged: int
    skipped: int
    grades: Mapping[int, int]
    judged_queries: int
    without_relevant: int
    synthetic_judged: int
    synthetic_agreed: int
    depth: int
    systems: Mapping[str, float]
    warnings: tuple[str, ...]


def status_of(
    queries: Mapping[str, PoolQuery],
    items: Mapping[tuple[str, str], StoredItem],
    judgements: Judgements,
    head: PoolHead,
) -> PoolStatus:
    """Count.

    Args:
        queries: of the pool, by id.
        items: by (query, key).
        judgements: of them.
        head: of the pool.
    """
    grades = judgements.grades
    people = {
        pair: grade for pair, grade in grades.items() if queries[pair[0]].origin != "synthetic"
    }
    counts = Counter(people.values())
    checked = [grade for pair, grade in grades.items() if pair not in people]
    measured = {query for query, _ in people}
    relevant = {query for (query, _), grade in people.items() if grade > 0}
    depth = min(10, head.depth)
    systems = _shares(head.systems, items, people, measured, depth)
    return PoolStatus(
        collection=head.collection,
        queries=Counter(query.origin for query in queries.values()),
        items=len(items),
        judged=len(grades),
        skipped=len(judgements.skipped),
        grades=dict(sorted(counts.items())),
        judged_queries=len(measured),
        without_relevant=len(measured - relevant),
        synthetic_judged=len(checked),
        synthetic_agreed=sum(grade > 0 for grade in checked),
        depth=depth,
        systems=systems,
        warnings=_warnings(systems, depth, len(measured), len(measured - relevant)),
    )


def _shares(
    systems: list[str],
    items: Mapping[tuple[str, str], StoredItem],
    grades: Mapping[tuple[str, str], int],
    measured: set[str],
    depth: int,
) -> dict[str, float]:
    """System → judged share of its top; those that found nothing for these queries are left out."""
    found = dict.fromkeys(systems, 0)
    judged = dict.fromkeys(systems, 0)
    for pair, item in items.items():
        for system, rank in item.ranks.items():
            if rank <= depth and pair[0] in measured and system in found:
                found[system] += 1
                judged[system] += pair in grades
    return {name: judged[name] / number for name, number in found.items() if number}


def _warnings(
    systems: Mapping[str, float], depth: int, measured: int, without: int
) -> tuple[str, ...]:
    told = [
        f"{name} is measured on {share:.0%} judged of its top {depth}; judge on, or its figures "
        "are too low."
        for name, share in systems.items()
        if share < ENOUGH
    ]
    if without:
        told.append(
            f"{without:,} of {measured:,} judged queries have no relevant document so far; they "
            "count as 0 for every system."
        )
    return tuple(told)
