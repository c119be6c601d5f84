"""What judged queries' candidates scored, stage by stage, and which of them are relevant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from retrieval.evaluation.calibration import Judged
from retrieval.evaluation.judged import JudgedQueries
from retrieval.types import Hit


@dataclass(slots=True)
class _Scores:
    """The best scores of one key of one query; NaN where there is none."""

    relevant: bool
    stage1: float = math.nan
    stage2: float = math.nan
    score: float = math.nan
    before: float = math.nan


class Seen:
    """What searches gave of every judged query, by what judgements are of (MaxP)."""

    def __init__(self, judged: JudgedQueries, grade: int) -> None:
        self._judged = judged
        self._grade = grade
        self.queries: list[list[_Scores]] = []
        self.lengths: list[int] = []
        self.relevant = 0
        self.found = 0
        self._top = [0, 0]

    def add(self, id_: str, hits: Sequence[Hit]) -> None:
        """The candidates of a query."""
        grades = self._judged.qrels[id_]
        own: dict[str, _Scores] = {}
        for place, hit in enumerate(hits):
            key = self._judged.key(id_, hit.passage)
            if place < 10:
                self._top[0] += 1
                self._top[1] += key in grades
            one = own.setdefault(key, _Scores(grades.get(key, 0) >= self._grade))
            one.stage1 = _best(one.stage1, hit.stage1_score)
            one.stage2 = _best(one.stage2, hit.stage2_score)
            one.score = _best(one.score, None if hit.stage2_score is None else hit.score)
            one.before = _best(one.before, hit.relevance)
        self.queries.append(list(own.values()))
        self.lengths.append(len(self._judged.queries[id_]))
        self.relevant += sum(grade >= self._grade for grade in grades.values())
        self.found += sum(one.relevant for one in own.values())

    @property
    def judged_top10(self) -> float:
        """Share of the first ten hits of every query that is judged."""
        return self._top[1] / max(self._top[0], 1)

    def of(self, signal: str, *, read: bool = False) -> list[Judged]:
        """The candidates of every query by one score; `read`: only those the reranker read."""
        return [
            Judged(
                np.array(
                    [
                        math.nan if read and math.isnan(one.stage2) else getattr(one, signal)
                        for one in own
                    ]
                ),
                np.array([one.relevant for one in own], dtype=bool),
            )
            for own in self.queries
        ]


def _best(known: float, new: float | None) -> float:
    if new is None:
        return known
    return new if math.isnan(known) else max(known, new)
