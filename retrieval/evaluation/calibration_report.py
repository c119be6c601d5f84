"""What a calibration found: as text, and as the JSON of `--json`.

The JSON keeps these keys; later versions only add to them:

    collection    its name
    calibration   what is stored with the collection, as `retrieval info --json` shows it
    stored        whether it was
    found         share of the relevant that are among the candidates at all
    judged_top10  share of the first ten hits that is judged; others count as not relevant
    tried         one for each score and method: signal, method, absolute, brier, ece (held-out
                  queries)
    before        brier and ece of the relevance as it was; null where there was none
    reliability   bins of equal width: count, predicted, observed (held-out queries)
    histogram     edges, and counts of relevant and of other candidates between them
    notices       sentences
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from retrieval.evaluation.calibration import Bin, Method
from retrieval.evaluation.text_table import text_table
from retrieval.types import Calibration, Signal

_SHOWN = (0.8, 0.9, 0.95, 0.99)
SIGNALS = {
    "stage1": "the first stage's score",
    "stage2": "the reranker's score",
    "score": "the blended score",
}


@dataclass(frozen=True, slots=True)
class Tried:
    """A score and a method, and how they did on held-out queries.

    absolute: whether the score means the same from query to query. Fused and blended ones are
    brought to one scale within each query: the best of a question without any answer looks like
    the best of another.
    """

    signal: Signal
    method: Method
    absolute: bool
    brier: float
    ece: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Candidates by score: `edges` (n + 1), and how many lie between them."""

    edges: tuple[float, ...]
    relevant: tuple[int, ...]
    others: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """The calibration, and what it was chosen by; the module says what the fields are."""

    collection: str
    calibration: Calibration
    stored: bool
    found: float
    judged_top10: float
    tried: tuple[Tried, ...]
    before: tuple[float, float] | None
    reliability: tuple[Bin, ...]
    histogram: Histogram
    notices: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON values; the keys are in the module's docstring."""
        values = asdict(self)
        if self.before is not None:
            values["before"] = dict(zip(("brier", "ece"), self.before, strict=True))
        return values

    def as_text(self) -> str:
        """For a terminal: what was chosen, how good it is, and the thresholds."""
        made = self.calibration
        before = ""
        if self.before is not None:
            before = f"; before: Brier {self.before[0]:.4f}, ECE {self.before[1]:.4f}"
        lines = [
            f"{self.collection}: the probability of being relevant, by {made.method} regression "
            f"of {SIGNALS[made.signal]}",
            f"  on {made.queries:,} judged queries with {made.judged:,} candidates, "
            f"{made.relevant:,} of them relevant; the candidates hold {self.found:.1%} of the "
            "relevant",
            f"  Brier {made.brier:.4f}, ECE {made.ece:.4f} on held-out queries{before}",
            "",
            *text_table(
                [
                    ["score", "method", "Brier", "ECE", ""],
                    *[
                        [
                            SIGNALS[one.signal],
                            one.method,
                            f"{one.brier:.4f}",
                            f"{one.ece:.4f}",
                            "" if one.absolute else "relative to the query",
                        ]
                        for one in self.tried
                    ],
                ],
                left=5,
            ),
            "",
            *text_table([["threshold", "score", "what it promises"], *self.thresholds()], left=3),
            "",
            "Recall holds in the mean over queries, precision with 95% confidence, both for "
            "queries drawn as the judged ones were; what nobody judged counts as not relevant.",
        ]
        if made.cascade is not None:
            drop, keep = made.cascade
            lines.append(
                f"Cascade: below a first-stage score of {drop:.3f} candidates are dropped, from "
                f"{keep:.3f} on kept, without the reranker."
            )
        lines.append("Stored with the collection." if self.stored else "Not stored.")
        return "\n".join([*lines, *(f"note: {notice}" for notice in self.notices)])

    def thresholds(self) -> list[list[str]]:
        """Name, score and promise of some thresholds, and of those that have a name."""
        made = self.calibration
        rows = []
        for kind, table in (("recall", made.recall), ("precision", made.precision)):
            have = dict(table)
            for level in _SHOWN:
                score = have.get(level)
                promise = (
                    f"keeps {level:.0%} of the relevant candidates"
                    if kind == "recall"
                    else f"{level:.0%} of what it keeps is relevant"
                )
                if score is None:
                    promise = f"not to be had with {made.queries} judged queries"
                rows.append(
                    [f"{kind}:{level:g}", "-" if score is None else f"{score:.4f}", promise]
                )
        names = [[name, "", f"= {threshold}"] for name, threshold in made.names.items()]
        return rows + names
