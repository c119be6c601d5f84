"""Which of many merges to take: task against general quality, the front, and a stated rule."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One merge of two models, measured.

    Attributes:
        share: of the first model; the second has the rest.
        task: the measure on the task's judged queries.
        general: set → the measure on it; empty where none was given.
    """

    share: float
    task: float
    general: Mapping[str, float]

    @property
    def general_mean(self) -> float:
        """The mean over the general sets; 0 where there are none."""
        return statistics.fmean(self.general.values()) if self.general else 0.0

    def general_loss(self, original: SweepPoint) -> float:
        """The most that a general set loses against the original; below 0 where each gains."""
        return max(
            (original.general[name] - value for name, value in self.general.items()), default=0.0
        )


def pareto_front(points: Sequence[SweepPoint]) -> list[int]:
    """Places of the points that no other beats in task or general mean without losing in the
    other."""

    def beats(one: SweepPoint, other: SweepPoint) -> bool:
        mine, theirs = (one.task, one.general_mean), (other.task, other.general_mean)
        return mine != theirs and mine[0] >= theirs[0] and mine[1] >= theirs[1]

    return [
        place
        for place, point in enumerate(points)
        if not any(beats(other, point) for other in points)
    ]


def choose(points: Sequence[SweepPoint], original: SweepPoint, most_loss: float) -> int:
    """The place of the best on the task among those that lose at most `most_loss` on each general
    set; of equals the one that loses least, then the one with less of the first model.

    Args:
        original: the second model alone, which qualifies always.

    Example:
        >>> original = SweepPoint(0.0, 0.60, {"cisi": 0.30})
        >>> points = [original, SweepPoint(0.5, 0.66, {"cisi": 0.295}),
        ...           SweepPoint(1.0, 0.68, {"cisi": 0.25})]
        >>> choose(points, original, 0.01)
        1
    """
    within = [
        place
        for place, point in enumerate(points)
        if point.general_loss(original) <= most_loss + 1e-12
    ]
    return min(
        within,
        key=lambda place: (
            -points[place].task,
            points[place].general_loss(original),
            points[place].share,
        ),
    )
