"""Measures by name, calculated by ir-measures (trec_eval underneath), never by formulas of ours.

A measure is written as its name, an optional smallest relevant grade, and a cutoff: `nDCG@10`,
`MRR@10`, `recall@100`, `recall(rel=2)@100`, `MAP`. Letter case does not matter, and trec_eval's
short names work too (`RR@10`, `R@100`, `AP`). Results are keyed by the display name.

A query that has judgements but no results counts as 0 in every mean: leaving it out would reward
a retriever for finding nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from retrieval.errors import InvalidInput
from retrieval.evaluation.significance import bootstrap_interval
from retrieval.evaluation.trec import Qrels, ranking

if TYPE_CHECKING:
    from retrieval.evaluation.trec import Run

DEFAULT_MEASURES = ("nDCG@10", "MRR@10", "recall@100")

PerQuery: TypeAlias = dict[str, dict[str, float]]
"""Measure's display name → query id → value."""

# Measures that can be requested, in lower case → (name in ir-measures, display name). Measures that
# need subtopics, costs or a second qrels file are left out.
_NAMES = {
    "ndcg": ("nDCG", "nDCG"),
    "mrr": ("RR", "MRR"),
    "rr": ("RR", "MRR"),
    "recall": ("R", "recall"),
    "r": ("R", "recall"),
    "map": ("AP", "MAP"),
    "ap": ("AP", "MAP"),
    "p": ("P", "P"),
    "precision": ("P", "P"),
    "success": ("Success", "success"),
    "judged": ("Judged", "judged"),
    "rprec": ("Rprec", "Rprec"),
    "bpref": ("Bpref", "Bpref"),
}
_NEED_CUTOFF = {"R", "P", "Success"}
_TAKE_CUTOFF = {"nDCG", "RR", "AP", "Judged"} | _NEED_CUTOFF
_TAKE_REL = {"RR", "R", "AP", "P", "Success", "Rprec", "Bpref"}
_WRITTEN = re.compile(r"([A-Za-z]+)(?:\(rel=([1-9]\d*)\))?(?:@([1-9]\d*))?")
_EXAMPLES = "Write it as nDCG@10, MRR@10, recall@100, P@5, MAP@100, success@5 or recall(rel=2)@100."


def display_name(measure: str) -> str:
    """The name under which results carry a measure: `rr@10` → `MRR@10`.

    Raises:
        InvalidInput: no such measure, or a cutoff it does not take.
    """
    return _parse(measure)[0]


def measure(qrels: Qrels, run: Run, measures: Sequence[str] = DEFAULT_MEASURES) -> dict[str, float]:
    """Means over all judged queries, by display name, in the requested order.

    Args:
        qrels: query id → document id → grade. Grades below 1 are not relevant; negative ones
            count as 0 in nDCG.
        run: query id → document id → score; ties are broken by document id, ascending. Queries
            without judgements are ignored.
        measures: see the module.

    Raises:
        InvalidInput: an unknown measure, no judgements, or a score that is not finite.
    """
    per_query = measure_per_query(qrels, run, measures)
    return {name: sum(values.values()) / len(values) for name, values in per_query.items()}


def measure_per_query(
    qrels: Qrels, run: Run, measures: Sequence[str] = DEFAULT_MEASURES
) -> PerQuery:
    """Like `measure`, one value for each judged query (0 where the run has no results for it)."""
    import ir_measures

    parsed = dict(_parse(name) for name in measures)
    if not parsed:
        raise InvalidInput("no measure was named", fix=_EXAMPLES)
    judged = {query: _for_trec_eval(grades) for query, grades in qrels.items() if grades}
    if not judged:
        raise InvalidInput(
            "the qrels have no judgements, so there is nothing to measure against",
            fix="Give qrels as query id → document id → grade, with at least one query.",
        )
    # trec_eval reads scores as 32-bit floats and breaks ties by descending id, other parts of
    # ir-measures by ascending id. Ranks as scores leave no ties, so all agree on our order.
    ranks: dict[str, dict[str, float]] = {}
    for query, scored in run.items():
        order = ranking(scored, query=query)
        if query in judged and order:
            ranks[query] = {id_: 1.0 / rank for rank, id_ in enumerate(order, start=1)}
    names = {str(asked): name for name, asked in parsed.items()}
    result: PerQuery = {name: dict.fromkeys(judged, 0.0) for name in parsed}
    for metric in ir_measures.iter_calc(list(parsed.values()), judged, ranks):
        result[names[str(metric.measure)]][metric.query_id] = float(metric.value)
    return result


def _for_trec_eval(grades: Mapping[str, int]) -> dict[str, int]:
    """The grades; 0 instead of negative ones where there is no other.

    trec_eval keeps a table from 0 to a query's highest grade, and writes before its beginning where
    that is negative. Nothing is relevant either way, so every measure is the same.
    """
    if max(grades.values()) >= 0:
        return dict(grades)
    return dict.fromkeys(grades, 0)


@dataclass(frozen=True, slots=True)
class Comparison:
    """How much better `run` is than `baseline` in one measure, and how sure that is.

    `difference` is run minus baseline; `low` and `high` bound it at the requested confidence.
    `better`, `worse` and `equal` count queries.
    """

    measure: str
    baseline: float
    run: float
    difference: float
    low: float
    high: float
    better: int
    worse: int
    equal: int


def compare(
    qrels: Qrels,
    baseline: Run,
    run: Run,
    measures: Sequence[str] = DEFAULT_MEASURES,
    *,
    confidence: float = 0.95,
    samples: int = 10_000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare two runs over the same queries: paired bootstrap, percentile intervals.

    See `retrieval.evaluation.significance.bootstrap_interval`. The same seed gives the same
    interval.

    Raises:
        InvalidInput: as `measure`, or `confidence` not between 0 and 1, or `samples` below 100.
    """
    import numpy as np

    if not 0.0 < confidence < 1.0:
        raise InvalidInput(
            f"confidence is {confidence!r}, expected a number between 0 and 1",
            fix="Use 0.95 for the usual 95% interval.",
        )
    if samples < 100:
        raise InvalidInput(
            f"samples is {samples!r}, expected at least 100",
            fix="10,000 resamples give a steady interval.",
        )
    before = measure_per_query(qrels, baseline, measures)
    after = measure_per_query(qrels, run, measures)
    result = {}
    for name, values in before.items():
        difference = np.array([after[name][query] - value for query, value in values.items()])
        low, high = bootstrap_interval(
            difference[None, :], confidence=confidence, samples=samples, seed=seed
        )
        result[name] = Comparison(
            measure=name,
            baseline=_mean(values),
            run=_mean(after[name]),
            difference=float(difference.mean()),
            low=float(low[0]),
            high=float(high[0]),
            better=int((difference > 0).sum()),
            worse=int((difference < 0).sum()),
            equal=int((difference == 0).sum()),
        )
    return result


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def _parse(written: str) -> tuple[str, Any]:
    """Display name, and ir-measures' object.

    ir-measures has its own parser, but it uses parts of `ast` that Python 3.14 removed.
    """
    import ir_measures

    match = _WRITTEN.fullmatch(written.strip()) if isinstance(written, str) else None
    known = _NAMES.get(match[1].lower()) if match else None
    if match is None or known is None:
        raise InvalidInput(f"there is no measure {written!r}", fix=_EXAMPLES)
    name, shown = known
    rel, cutoff = match[2], match[3]
    if cutoff is None and name in _NEED_CUTOFF:
        raise InvalidInput(f"{written!r} needs a cutoff", fix=f"Write {shown}@10, for example.")
    if cutoff is not None and name not in _TAKE_CUTOFF:
        raise InvalidInput(
            f"{shown} takes no cutoff, but was given {written!r}", fix=f"Write {shown}."
        )
    if rel is not None and name not in _TAKE_REL:
        raise InvalidInput(
            f"{shown} uses every grade and takes no rel=, but was given {written!r}",
            fix=f"Write {shown}@10.",
        )
    asked = ir_measures.measures.registry[name]
    if rel is not None and rel != "1":
        asked = asked(rel=int(rel))
        shown = f"{shown}(rel={rel})"
    if cutoff is not None:
        asked = asked @ int(cutoff)
        shown = f"{shown}@{cutoff}"
    return shown, asked
