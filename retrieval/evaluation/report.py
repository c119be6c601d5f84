"""What an evaluation found: rows of figures, and the runs they were taken from.

The JSON form (`EvaluationReport.as_dict`) keeps these keys; later versions only add to them:

    encoder        name of the encoder
    reranker       name of the reranker, or null
    queries        how many judged queries were searched
    judgements     how many (query, document) pairs are judged
    depth          how many passages the first stage fetched for each query
    candidates     how many of them were re-ranked
    batch_size     how many queries were searched together
    measures       display names, in the order of the columns
    rows           one for each mode, and one more where it was re-ranked:
        name           "dense", "dense+rerank", …
        mode           "dense", "sparse" or "hybrid"
        reranked       true or false
        blend          "none", "rrf" or "scores"
        measures       {display name: mean over the queries}
        ms_per_query   median, from the query's text to this row's order
    notices        what the searches had to say, each once
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval.evaluation.trec import Qrels, Run, write_atomically, write_qrels, write_run
from retrieval.types import Blend, Mode

_NOTICES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One order of results and how good it is.

    `measures` maps display names to means over the judged queries. `ms_per_query` is the median
    in milliseconds; queries searched together share their batch's time equally. `run` maps query
    id → document id → 1 / rank: a run records an order, and scores of two stages share no scale.
    """

    mode: Mode
    reranked: bool
    blend: Blend
    measures: Mapping[str, float]
    ms_per_query: float
    run: Run = field(repr=False)

    @property
    def name(self) -> str:
        """`dense`, `dense+rerank` …; the stem of its run file."""
        return f"{self.mode}+rerank" if self.reranked else self.mode

    def as_dict(self) -> dict[str, Any]:
        """For JSON; the keys are in the module's docstring."""
        return {
            "name": self.name,
            "mode": self.mode,
            "reranked": self.reranked,
            "blend": self.blend,
            "measures": dict(self.measures),
            "ms_per_query": round(self.ms_per_query, 3),
        }


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """All rows, and what they were measured with."""

    encoder: str
    reranker: str | None
    queries: int
    depth: int
    candidates: int
    batch_size: int
    measures: tuple[str, ...]
    rows: tuple[EvaluationRow, ...]
    qrels: Qrels = field(repr=False)
    notices: tuple[str, ...] = ()

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
        }


def report_as_text(report: EvaluationReport) -> str:
    """A table for a terminal: a line for each row, a column for each measure."""
    first = f"{report.queries:,} queries, {report.judgements:,} judgements"
    models = f"encoder {report.encoder}"
    if report.reranker is not None:
        models += (
            f", reranker {report.reranker} on {report.candidates} of {report.depth} candidates"
        )
    head = ["first stage", "second stage", *report.measures, "ms/query"]
    lines = [
        [
            row.mode,
            _second_stage(row),
            *(f"{row.measures[name]:.4f}" for name in report.measures),
            f"{row.ms_per_query:.1f}",
        ]
        for row in report.rows
    ]
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]
    table = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in [head, ["-" * width for width in widths], *lines]
    ]
    notes = [f"note: {notice}" for notice in report.notices[:_NOTICES_SHOWN]]
    if len(report.notices) > _NOTICES_SHOWN:
        notes.append(f"note: … and {len(report.notices) - _NOTICES_SHOWN:,} more (all in the JSON)")
    return "\n".join([f"{first}; {models}", "", *table, *notes])


def write_report(
    report: EvaluationReport,
    *,
    json_file: str | os.PathLike[str] | None = None,
    runs_folder: str | os.PathLike[str] | None = None,
) -> None:
    """Write the figures as JSON, the runs and qrels in TREC form; each file whole or not at all.

    Args:
        report: what `evaluate` returned.
        json_file: see the module for its keys.
        runs_folder: gets `<row name>.run` for each row and `qrels.txt`; made where missing.

    Raises:
        InvalidInput: a path cannot be written, or an id has blanks and cannot be in a TREC
            file. The JSON file is written first and stays.
        DiskFull: no space left.
    """
    if json_file is not None:
        text = json.dumps(report.as_dict(), indent=2, ensure_ascii=False)
        write_atomically(json_file, lambda file: file.write(text + "\n"))
    if runs_folder is not None:
        folder = Path(runs_folder)
        write_qrels(folder / "qrels.txt", report.qrels)
        for name, run in report.runs.items():
            write_run(folder / f"{name}.run", run, tag=name)


def _second_stage(row: EvaluationRow) -> str:
    if not row.reranked:
        return "-"
    return "rerank" if row.blend == "none" else f"rerank, blended ({row.blend})"
