"""Whether tuned models may take the place of those before: measured before and after, by a rule.

The rule, on the whole pipeline (two-stage; hybrid where there is no reranker), for what is new:

1. On the task it must be better: a higher mean, and p <= 0.05 after Holm's correction for the
   whole table. With `need="not-worse"` it must only not have lost too much (2).
2. On no general set, a test that it was not tuned for, may it lose more than `most_loss`. Which
   losses count is `losses`:

   observed     the mean fell by more than that (the default: the burden of proof is on the change)
   possible     the 95% interval reaches beyond it: a change that is not shown to be harmless fails
   significant  the mean fell by more than that, and p <= 0.05 after Holm's correction

Where both models are new, the new encoder with the old reranker and the old encoder with the new
reranker are judged by the same rule: an encoder that finds other candidates can spoil what a
reranker was good at. Of those that pass, the one with the best mean on the task is recommended; of
equal ones the smaller change.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from retrieval._validate import number, one_of
from retrieval.errors import InvalidInput
from retrieval.evaluation.significance import PairedDifference, compare_pairs

New: TypeAlias = Literal["encoder", "reranker", "both"]
"""Which of the two models is the one after; the other is the one before."""

Need: TypeAlias = Literal["better", "not-worse"]
Losses: TypeAlias = Literal["observed", "possible", "significant"]

MOST_LOSS = 0.01

_SMALLEST_FIRST: tuple[New, ...] = ("reranker", "encoder", "both")
"""A new reranker needs no new index."""


@dataclass(frozen=True, slots=True)
class GateRule:
    """What passes, see the module.

    Raises:
        InvalidInput: a value cannot be used.
    """

    need: Need = "better"
    most_loss: float = MOST_LOSS
    losses: Losses = "observed"

    def __post_init__(self) -> None:
        one_of(self.need, Need, "need")
        one_of(self.losses, Losses, "losses")
        number(
            self.most_loss, "most_loss", least=0, expected="a loss of the measure, 0 or more",
            fix="Give what a general set may lose, such as 0.01.",
        )  # fmt: skip

    def too_much(self, found: PairedDifference) -> bool:
        """Whether a difference, after minus before, is a loss that refuses."""
        if self.losses == "possible":
            return found.low < -self.most_loss
        fell = found.difference < -self.most_loss
        return fell and (self.losses == "observed" or found.significant)


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """What one system gave on one set, query id → value, before and after.

    Attributes:
        set, split: the judged set.
        task: whether the models were tuned for it; else it is a general one.
        system: what was searched with: dense, hybrid, two-stage.
        new: which model is new in `after`.
    """

    set: str
    split: str
    task: bool
    system: str
    new: New
    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class GateRow:
    """The same with means, and how they differ (`found`: after minus before)."""

    set: str
    split: str
    task: bool
    system: str
    new: New
    queries: int
    before: float
    after: float
    found: PairedDifference

    @property
    def name(self) -> str:
        """Of the set, with its split."""
        return f"{self.set} {self.split}"

    @property
    def outcome(self) -> Literal["won", "lost", "equal", "open"]:
        """What can be told; open where the queries are too few to tell."""
        if self.found.equal == self.queries:
            return "equal"
        if not self.found.significant:
            return "open"
        return "won" if self.found.difference > 0 else "lost"

    @property
    def more_queries(self) -> int:
        """How many more would show a difference as large as this one; 0 where none are needed."""
        if self.outcome != "open" or self.found.queries_needed is None:
            return 0
        return max(0, self.found.queries_needed - self.queries)


@dataclass(frozen=True, slots=True)
class GateReport:
    """Before and after in rows, and the verdict.

    Attributes:
        measure: its display name.
        before, after: names of encoder and reranker; None for no reranker.
        changed: what is new in `after`.
        system: the pipeline that the verdict is about.
        rule: what passes.
        rows: all that was compared, one family of tests.
        notices: what there is to say beside, in sentences.
    """

    measure: str
    before: tuple[str, str | None]
    after: tuple[str, str | None]
    changed: New
    system: str
    rule: GateRule
    rows: tuple[GateRow, ...]
    notices: tuple[str, ...] = ()

    def deciding(self, new: New) -> list[GateRow]:
        """The rows that decide on what is new: the task's, then those of general sets."""
        rows = [row for row in self.rows if row.new == new and row.system == self.system]
        return sorted(rows, key=lambda row: not row.task)

    def holds(self, row: GateRow) -> bool:
        """Whether a deciding row allows what is new."""
        if row.task and self.rule.need == "better":
            return row.outcome == "won"
        return not self.rule.too_much(row.found)

    def passes(self, new: New) -> bool:
        """Whether all of its rows allow it."""
        rows = self.deciding(new)
        return bool(rows) and all(self.holds(row) for row in rows)

    @property
    def passed(self) -> bool:
        """Whether what was asked about passes: all that is new."""
        return self.passes(self.changed)

    @property
    def variants(self) -> tuple[New, ...]:
        """What can be new, the smallest change first."""
        return tuple(new for new in _SMALLEST_FIRST if self.deciding(new))

    @property
    def recommended(self) -> New | None:
        """What to take, by the rule of the module; None for the models before."""
        allowed = [new for new in self.variants if self.passes(new)]
        return max(allowed, key=lambda new: self._gain(new), default=None)

    def _gain(self, new: New) -> float:
        return statistics.fmean(row.found.difference for row in self.deciding(new) if row.task)


def gate_report(
    measured: Sequence[BeforeAfter],
    *,
    measure: str,
    before: tuple[str, str | None],
    after: tuple[str, str | None],
    changed: New,
    system: str,
    rule: GateRule | None = None,
    notices: Sequence[str] = (),
) -> GateReport:
    """Compare all pairs as one family of tests, and judge by the rule of the module.

    Raises:
        InvalidInput: a system was not measured on the same queries before and after, or nothing
            of the task was measured.

    Example:
        >>> queries = [f"q{n}" for n in range(30)]
        >>> low, high = dict.fromkeys(queries, 0.5), dict.fromkeys(queries, 0.7)
        >>> report = gate_report(
        ...     [BeforeAfter("own", "dev", True, "two-stage", "reranker", low, high),
        ...      BeforeAfter("news", "test", False, "two-stage", "reranker", high, high)],
        ...     measure="nDCG@10", before=("e", "r"), after=("e", "r2"), changed="reranker",
        ...     system="two-stage",
        ... )
        >>> report.passed, report.recommended, [row.outcome for row in report.rows]
        (True, 'reranker', ['won', 'equal'])
    """
    import numpy as np

    for one in measured:
        if one.before.keys() != one.after.keys() or not one.before:
            raise InvalidInput(
                f"{one.system} on {one.set} {one.split} was measured on {len(one.before):,} "
                f"queries before and {len(one.after):,} after, expected the same ones",
                fix="Measure both on the same judged queries.",
            )
    pairs = [
        (
            "after",
            "before",
            np.array([one.after[query] - value for query, value in one.before.items()]),
        )
        for one in measured
    ]
    rows = tuple(
        GateRow(
            set=one.set, split=one.split, task=one.task, system=one.system, new=one.new,
            queries=len(one.before), before=statistics.fmean(one.before.values()),
            after=statistics.fmean(one.after.values()), found=found,
        )
        for one, found in zip(measured, compare_pairs(pairs), strict=True)
    )  # fmt: skip
    report = GateReport(
        measure=measure, before=before, after=after, changed=changed, system=system,
        rule=rule or GateRule(), rows=rows, notices=tuple(dict.fromkeys(notices)),
    )  # fmt: skip
    if not any(row.task for row in report.deciding(changed)):
        raise InvalidInput(
            f"{system} was not measured on the task with what is new ({changed})",
            fix="Measure it there: it decides.",
        )
    return report
