"""A report as one page: no script, no outside asset; every text in it is escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from retrieval._validate import without_surrogates
from retrieval.evaluation.metrics import measure
from retrieval.evaluation.report import EvaluationReport, EvaluationRow, First
from retrieval.evaluation.svg_axes import Axis
from retrieval.evaluation.svg_plots import (
    Point,
    Series,
    bar,
    curves,
    differences,
    histogram,
    scatter,
)

_DEPTHS = (1, 2, 5, 10, 20, 50, 100)
_EXAMPLES = 10
_COLOURS = 8
# They would break a page, or be seen as nothing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def report_as_html(report: EvaluationReport) -> str:
    """The page: measures with intervals, plots, the queries that gain and lose most, its origin.

    Plots that there is nothing to draw for are left out: quality against time without times, wins
    and losses without a second stage.

    Example:
        >>> import retrieval
        >>> documents = [retrieval.Document("a", "Red apples."), retrieval.Document("b", "Rain.")]
        >>> _ = retrieval.ingest(documents, "judged", encoder="starter")
        >>> with retrieval.open("judged", reranker=None) as retriever:
        ...     report = retrieval.evaluate(retriever, {"q": "red fruit"}, {"q": {"a": 1}})
        >>> report_as_html(report).startswith("<!DOCTYPE html>")
        True
    """
    styles = _styles(report)
    pair = best_pair(report)
    origin = {name: value for name, value in report.origin.items() if name != "command"}
    return rendered(
        "report.html.j2",
        report=report,
        title=_title(report),
        styles=styles,
        table=_table(report),
        time_plot=_times(report, styles),
        recall_plot=_recall(report, styles),
        pair=None if pair is None else _pair(report, *pair),
        command=report.origin.get("command"),
        created=report.origin.get("created"),
        origin=json.dumps(origin, indent=2, ensure_ascii=False) if origin else "",
    )


def rendered(template: str, **values: Any) -> str:
    """A page of one of this folder's templates; texts are escaped, control characters dropped."""
    page = Environment(
        loader=PackageLoader("retrieval.evaluation", "."), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        finalize=lambda value: _clean(value) if isinstance(value, str) else value,
    )  # fmt: skip
    return page.get_template(template).render(**values)


def best_pair(report: EvaluationReport) -> tuple[EvaluationRow, EvaluationRow] | None:
    """The best first stage that was re-ranked, by the first measure, and the re-ranked order."""
    name = report.measures[0]
    rows = {row.name: row for row in report.rows}
    pairs = [(rows[row.first_stage], row) for row in report.rows if row.reranked]
    return max(pairs, key=lambda pair: pair[0].measures[name], default=None)


def _clean(text: str) -> str:
    cleaned = _CONTROL.sub(" ", without_surrogates(text))
    return Markup(cleaned) if isinstance(text, Markup) else cleaned


def _title(report: EvaluationReport) -> str:
    found: Mapping[str, Any] = report.origin.get("set", {})
    return f"{found['name']} ({found['split']})" if found else "Evaluation"


def _styles(report: EvaluationReport) -> dict[str, str]:
    """Row → classes of its marks: a colour for each first stage; what is plain is dashed."""
    stages = list(dict.fromkeys(row.first_stage for row in report.rows))
    return {
        row.name: f"c{stages.index(row.first_stage) % _COLOURS}"
        + (" reranked" if row.reranked else " plain")
        for row in report.rows
    }


def _table(report: EvaluationReport) -> list[dict[str, Any]]:
    """Rows with a cell for each measure: the mean, its interval, and whether it is the best."""
    ends = {
        name: (
            min(row.intervals[name][0] for row in report.rows),
            max(row.intervals[name][1] for row in report.rows),
        )
        for name in report.measures
    }
    best = {name: max(row.measures[name] for row in report.rows) for name in report.measures}
    return [
        {
            "row": row,
            "cells": [
                {
                    "mean": f"{row.measures[name]:.4f}",
                    "interval": "{:.3f} – {:.3f}".format(*row.intervals[name]),
                    "bar": bar(*row.intervals[name], row.measures[name], ends[name]),
                    "best": row.measures[name] == best[name],
                }
                for name in report.measures
            ],
            "ms": "–" if row.ms_per_query is None else f"{row.ms_per_query:,.1f}",
            "judged": f"{row.judged_at_10:.0%}",
        }
        for row in report.rows
    ]


def _times(report: EvaluationReport, styles: Mapping[str, str]) -> Markup | None:
    name = report.measures[0]
    points = [
        Point(row.name, row.ms_per_query, row.measures[name], row.intervals[name], styles[row.name])
        for row in report.rows
        if row.ms_per_query is not None
    ]
    if not points:
        return None
    return scatter(
        f"{name} against time", points, "milliseconds a query (median)", f"{name}, 95% interval"
    )


def _recall(report: EvaluationReport, styles: Mapping[str, str]) -> Markup:
    depths = [depth for depth in _DEPTHS if depth <= max(report.depth, 1)]
    names = [f"recall@{depth}" for depth in depths]
    series = []
    for row in report.rows:
        found = measure(report.qrels, row.run, names)
        points = tuple((float(depth), found[f"recall@{depth}"]) for depth in depths)
        series.append(Series(row.name, points, styles[row.name]))
    ticks = tuple(map(float, depths))
    x = Axis("k, results looked at", ticks[0], ticks[-1], ticks, log=True)
    if len(ticks) == 1:
        x = Axis("k, results looked at", 0.0, ticks[0], (0.0, *ticks))
    y = Axis("recall@k", 0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))
    return curves("Recall by depth", series, x, y)


def _pair(report: EvaluationReport, before: EvaluationRow, after: EvaluationRow) -> dict[str, Any]:
    """What re-ranking changed, query by query, and how scores spread."""
    name = report.measures[0]
    old, new = before.per_query[name], after.per_query[name]
    change = {query: new[query] - old[query] for query in old}
    ordered = sorted(change, key=lambda query: (-change[query], query))
    gains = [query for query in ordered if change[query] > 0]
    losses = [query for query in reversed(ordered) if change[query] < 0]

    def told(query: str) -> dict[str, Any]:
        stood = [_stood(row.firsts.get(query), report.qrels[query]) for row in (before, after)]
        labels = ("First before", "First after")
        if stood[0] == stood[1]:
            stood, labels = stood[:1], ("First before and after", "")
        return {
            "id": query,
            "text": report.texts.get(query, ""),
            "old": f"{old[query]:.3f}",
            "new": f"{new[query]:.3f}",
            "firsts": list(zip(labels, stood, strict=False)),
        }

    return {
        "before": before.name,
        "after": after.name,
        "gains": len(gains),
        "losses": len(losses),
        "equal": len(change) - len(gains) - len(losses),
        "plot": differences(
            f"{name} of each query, {after.name} minus {before.name}",
            list(change.values()),
            f"change of {name}",
        ),
        "examples": [
            ("gain", "What gained most", [told(query) for query in gains[:_EXAMPLES]]),
            ("loss", "What lost most", [told(query) for query in losses[:_EXAMPLES]]),
        ],
        "scores": [
            (row, plot)
            for row in (before, after)
            if (plot := _scores(row, "second" if row.reranked else "first")) is not None
        ],
    }


def _stood(first: First | None, grades: Mapping[str, int]) -> dict[str, Any] | None:
    if first is None:
        return None
    grade = grades.get(first.key)
    if grade is None:
        return {"first": first, "judged": "not judged", "style": ""}
    if grade < 1:
        return {"first": first, "judged": "not relevant", "style": "irrelevant"}
    judged = "relevant" if grade == 1 else f"relevant, grade {grade}"
    return {"first": first, "judged": judged, "style": "relevant"}


def _scores(row: EvaluationRow, stage: str) -> Markup | None:
    relevant, others = row.scores.relevant, row.scores.others
    if not relevant and not others:
        return None
    groups = [("relevant", relevant, "hit"), ("other", others, "miss")]
    return histogram(f"Scores of {row.name}", groups, f"score of the {stage} stage")
