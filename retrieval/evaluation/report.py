"""What an evaluation found: rows of figures, and the runs they were taken from.

The JSON form (`EvaluationReport.as_dict`) keeps these keys; later versions only add to them:

    encoder        name of the encoder; null where another machine searched and named none
    reranker       name of the reranker, or null
    queries        how many judged queries were searched
    judgements     how many (query, document) pairs are judged
    depth          how many passages the first stage fetched for each query
    candidates     how many of them were re-ranked
    batch_size     how many queries were searched together
    measures       display names, in the order of the columns
    rows           one for each mode, and one more where it was re-ranked; those of given runs last:
        name           "dense", "dense+rerank", …; a given run has its own name
        mode           "dense", "sparse", "lexical", "hybrid"; null for a given run
        reranked       true or false
        blend          "none", "rrf" or "scores"
        measures       {display name: mean over the queries}
        intervals      {display name: [low, high]}, 95% by bootstrap over the queries
        judged_at_10   how much of the first 10 results is judged at all, mean over the queries
        ms_per_query   median, from the query's text to this row's order; of a given run that was
                       re-ranked, of the second stage alone; null for a given run
        per_query      {query id: {display name: value}}
    notices        what the searches had to say, each once

and, where `retrieval eval` made it, what it takes to make it again:

    set            name, split and files of the judgements, each file with its sha256
    parameters     every option that was in effect, also by default
    versions       of this library, of Python and what searches run on, and the machine
    seeds          {"bootstrap": of the intervals}
    created        when, in ISO 8601 and UTC
    command        a line for a shell; null from Python
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from retrieval.evaluation.metrics import PerQuery
from retrieval.evaluation.text_table import text_table
from retrieval.evaluation.trec import Qrels, Run
from retrieval.types import Blend, Mode

_NOTICES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class First:
    """What stood first for a query: its key in the qrels, and a line of it for people."""

    key: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class ScoreSample:
    """A stage's raw scores of relevant and of other candidates, as 32-bit floats."""

    relevant: array[float] = field(default_factory=lambda: array("f"))
    others: array[float] = field(default_factory=lambda: array("f"))


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One order of results and how good it is.

    Attributes:
        mode: first stage; None for a run that was given.
        reranked: whether a second stage put it in order.
        blend: how both orders were joined.
        measures: display name → mean over the judged queries.
        ms_per_query: median in milliseconds; queries searched together share their batch's time
            equally. None for a run that was given.
        run: query id → document id → 1 / rank: a run records an order, and scores of two stages
            share no scale.
        source: the name of a run that was given; empty for a search of ours.
        per_query: display name → query id → value.
        intervals: display name → (low, high), 95% by bootstrap over the queries.
        judged_at_10: how much of the first 10 results is judged at all, mean over the queries.
        firsts: query id → what stood first.
        scores: of the stage that this row adds.
    """

    mode: Mode | None
    reranked: bool
    blend: Blend
    measures: Mapping[str, float]
    ms_per_query: float | None
    run: Run = field(repr=False)
    source: str = ""
    per_query: PerQuery = field(default_factory=dict, repr=False)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    judged_at_10: float = 0.0
    firsts: Mapping[str, First] = field(default_factory=dict, repr=False)
    scores: ScoreSample = field(default_factory=ScoreSample, repr=False)

    @property
    def first_stage(self) -> str:
        """The mode, or the name of the run."""
        return self.source or str(self.mode)

    @property
    def name(self) -> str:
        """`dense`, `dense+rerank` …; the stem of its run file."""
        return f"{self.first_stage}+rerank" if self.reranked else self.first_stage

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the keys are in the module's docstring."""
        queries = next(iter(self.per_query.values()), {})
        return {
            "name": self.name,
            "mode": self.mode,
            "reranked": self.reranked,
            "blend": self.blend,
            "measures": dict(self.measures),
            "intervals": {name: list(bounds) for name, bounds in self.intervals.items()},
            "judged_at_10": self.judged_at_10,
            "ms_per_query": None if self.ms_per_query is None else round(self.ms_per_query, 3),
            "per_query": {
                query: {name: values[query] for name, values in self.per_query.items()}
                for query in queries
            },
        }


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """All rows, and what they were measured with.

    `texts` has the text of every query that was measured. `origin` is what it takes to make the
    report again, by the keys that the module names.
    """

    encoder: str | None
    reranker: str | None
    queries: int
    depth: int
    candidates: int
    batch_size: int
    measures: tuple[str, ...]
    rows: tuple[EvaluationRow, ...]
    qrels: Qrels = field(repr=False)
    notices: tuple[str, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict, repr=False)
    origin: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def judgements(self) -> int:
        """How many (query, document) pairs are judged."""
        return sum(len(grades) for grades in self.qrels.values())

    @property
    def runs(self) -> dict[str, Run]:
        """Row name → run."""
        return {row.name: row.run for row in self.rows}

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the keys are in the module's docstring."""
        return {
            "encoder": self.encoder,
            "reranker": self.reranker,
            "queries": self.queries,
            "judgements": self.judgements,
            "depth": self.depth,
            "candidates": self.candidates,
            "batch_size": self.batch_size,
            "measures": list(self.measures),
            "rows": [row.as_dict() for row in self.rows],
            "notices": list(self.notices),
            **self.origin,
        }


def report_as_text(report: EvaluationReport) -> str:
    """A table for a terminal: a line for each row, a column for each measure."""
    first = f"{report.queries:,} queries, {report.judgements:,} judgements"
    models = [f"encoder {report.encoder}"] if report.encoder is not None else []
    if report.reranker is not None:
        depth = f"on {report.candidates} of {report.depth} candidates"
        models.append(f"reranker {report.reranker} {depth}")
    head = ["first stage", "second stage", *report.measures, "ms/query"]
    lines = [
        [
            row.first_stage,
            _second_stage(row),
            *(f"{row.measures[name]:.4f}" for name in report.measures),
            "-" if row.ms_per_query is None else f"{row.ms_per_query:.1f}",
        ]
        for row in report.rows
    ]
    table = text_table([head, *lines], left=2)
    notes = [f"note: {notice}" for notice in report.notices[:_NOTICES_SHOWN]]
    if len(report.notices) > _NOTICES_SHOWN:
        notes.append(f"note: … and {len(report.notices) - _NOTICES_SHOWN:,} more (all in the JSON)")
    return "\n".join(["; ".join([first, ", ".join(models)]).rstrip("; "), "", *table, *notes])


def _second_stage(row: EvaluationRow) -> str:
    if not row.reranked:
        return "-"
    return "rerank" if row.blend == "none" else f"rerank, blended ({row.blend})"
