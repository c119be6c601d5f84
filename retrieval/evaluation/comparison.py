"""What a comparison of settings found, and which of them to take.

The rule, by the measure on the judged queries and the time of a search alone:

1. A setting may be taken if it is not worse than the best one: p > 0.05 without correction, which
   guards against the other mistake, that of calling chance an improvement. The baseline may be
   kept unless it is significantly worse than the best.
2. Another one is preferred to the baseline only if it is significantly better, or if it is not
   worse (p > 0.05 without correction) and takes less time: at least 10% and 10 ms a search; with
   fewer than 25 queries, only if it is significantly better.
3. Of these the cheapest is taken; where times are equal, within 10% or 10 ms of each other, the
   baseline is kept, else the better mean is taken.

Significant is what has p <= 0.05 after Holm's correction for all comparisons that were made.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from retrieval.evaluation.settings import Setting
from retrieval.evaluation.significance import (
    ALPHA,
    PairedDifference,
    bootstrap_interval,
    compare_all,
)

LEAST_QUERIES = 25
"""With fewer, hardly any loss could be seen, and nothing is taken only because it is cheaper."""

EQUAL_SHARE = 0.1
EQUAL_MS = 10.0
"""Two medians that differ by no more than one of these are equal: a few searches say no more, and
nobody notices less."""


@dataclass(frozen=True, slots=True)
class SettingResult:
    """One setting, measured.

    Attributes:
        name: short, see `retrieval.evaluation.grid.names`.
        setting: as it was searched.
        values: query id → value of the measure.
        run: query id → keys, best first.
        milliseconds: of single searches.
        model_bytes, index_bytes: None where unknown.
        notices: of its searches, each once.
    """

    name: str
    setting: Setting
    values: Mapping[str, float]
    run: Mapping[str, Sequence[str]] = field(repr=False)
    milliseconds: tuple[float, ...]
    model_bytes: int | None = None
    index_bytes: int | None = None
    notices: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Of the measure over the queries."""
        return statistics.fmean(self.values.values())

    @property
    def ms(self) -> float:
        """The median of a search."""
        return statistics.median(self.milliseconds)

    @property
    def ms_p90(self) -> float:
        """What nine of ten searches stay within."""
        return sorted(self.milliseconds)[-(-9 * len(self.milliseconds) // 10) - 1]

    def takes_less(self, other: SettingResult) -> bool:
        """Whether a search takes less time, by more than chance and by enough to matter."""
        return self.ms <= min((1 - EQUAL_SHARE) * other.ms, other.ms - EQUAL_MS)


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """All settings, every pair of them compared, and the one to take.

    `results` are in the grid's order; the first one is the baseline. `intervals` are the 95%
    intervals of the means, in the same order.
    """

    judged: str
    split: str
    measure: str
    depth: int
    results: tuple[SettingResult, ...]
    intervals: tuple[tuple[float, float], ...]
    pairs: tuple[PairedDifference, ...]
    notices: tuple[str, ...] = ()

    @property
    def baseline(self) -> SettingResult:
        """What the others are compared with."""
        return self.results[0]

    @property
    def ranked(self) -> list[SettingResult]:
        """Best mean first."""
        return sorted(self.results, key=lambda one: -one.mean)

    @property
    def best(self) -> SettingResult:
        """The one with the best mean, whatever that is worth."""
        return self.ranked[0]

    def difference(self, first: SettingResult, second: SettingResult) -> PairedDifference:
        """How two settings differ, `first` minus `second`."""
        for one in self.pairs:
            if (one.first, one.second) == (first.name, second.name):
                return one
            if (one.first, one.second) == (second.name, first.name):
                return one.reversed()
        raise KeyError((first.name, second.name))

    def interval(self, result: SettingResult) -> tuple[float, float]:
        """The 95% interval of a setting's mean."""
        return self.intervals[self.results.index(result)]

    @property
    def few(self) -> bool:
        """Whether there are too few queries for "does not seem worse" to mean anything."""
        return len(self.baseline.values) < LEAST_QUERIES

    @property
    def choice(self) -> tuple[SettingResult, Literal["better", "cheaper", "baseline"]]:
        """The setting to take, and why, by the rule at the top of this file."""
        baseline, best = self.baseline, self.best
        why: dict[str, Literal["better", "cheaper", "baseline"]] = {}
        for one in self.results:
            if one is baseline:
                if not self._significantly_better(best, baseline):
                    why[one.name] = "baseline"
            elif self._seems_worse(one, best):
                continue
            elif self._significantly_better(one, baseline):
                why[one.name] = "better"
            elif self.few or self._seems_worse(one, baseline):
                continue
            elif one.takes_less(baseline):
                why[one.name] = "cheaper"
        allowed = [one for one in self.results if one.name in why]
        least = min(allowed, key=lambda one: one.ms)
        cheapest = [one for one in allowed if not least.takes_less(one)]
        chosen = baseline if baseline in cheapest else max(cheapest, key=lambda one: one.mean)
        return chosen, why[chosen.name]

    def _significantly_better(self, one: SettingResult, other: SettingResult) -> bool:
        found = None if one is other else self.difference(one, other)
        return found is not None and found.significant and found.difference > 0

    def _seems_worse(self, one: SettingResult, other: SettingResult) -> bool:
        found = None if one is other else self.difference(one, other)
        return found is not None and found.p <= ALPHA and found.difference < 0


def compared(
    results: Sequence[SettingResult],
    *,
    judged: str,
    split: str,
    measure: str,
    depth: int,
    notices: Sequence[str] = (),
) -> ComparisonReport:
    """Compare settings that were measured on the same queries; the first one is the baseline.

    Raises:
        InvalidInput: there are fewer than two.
    """
    import numpy as np

    queries = list(results[0].values)
    values = {one.name: [one.values[query] for query in queries] for one in results}
    pairs = compare_all(values)
    low, high = bootstrap_interval(np.array(list(values.values())))
    own = [notice for one in results for notice in one.notices]
    return ComparisonReport(
        judged=judged,
        split=split,
        measure=measure,
        depth=depth,
        results=tuple(results),
        intervals=tuple(zip(low.tolist(), high.tolist(), strict=True)),
        pairs=pairs,
        notices=tuple(dict.fromkeys([*notices, *own])),
    )
