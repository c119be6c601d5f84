"""What a gate found, as text and JSON, with the reasons of its verdict in sentences.

The JSON form (`gate_as_dict`) keeps these keys; later versions only add to them:

    measure        display name of what decides
    before, after  {"encoder": name, "reranker": name or null}
    changed        what is new in after: "encoder", "reranker" or "both"
    system         the pipeline that decides: "two-stage", or "hybrid" without a reranker
    rule           {"need", "most_loss", "losses"}, see `retrieval.evaluation.gate`
    passed         whether what is new passes
    recommended    "encoder", "reranker", "both", or null for the models before
    advice         the same as a sentence
    verdicts       one for each way to take what is new, the smallest change first:
        new, passed
        reasons    [{"holds": whether it allows the change, "text": a sentence}]
    rows           all that was compared:
        set, split, task, system, new, queries
        before, after      means
        outcome            "won", "lost", "equal" or "open": too few queries to tell
        difference, low, high, p, p_holm, significant, smallest, queries_needed,
        better, worse, equal      after minus before, as `retrieval compare` has them
    notices        what there is to say beside
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from retrieval.evaluation.comparison_report import p_text, rounded, signed
from retrieval.evaluation.gate import GateReport, GateRow, New
from retrieval.evaluation.text_table import text_table

_NOTICES_SHOWN = 5
_TAKE: dict[New, str] = {
    "encoder": "the new encoder with the reranker before",
    "reranker": "the new reranker with the encoder before",
    "both": "both new models",
}
_MARKS = {True: "ok    ", False: "FAILED"}


def gate_as_text(report: GateReport) -> str:
    """The table, the verdict with its reasons, and what to take."""
    lines = [
        f"before  {_models(report.before)}",
        f"after   {_models(report.after)}",
        "",
        *_table(report),
        f"{report.measure}; * significant after Holm's correction for the whole table; more: "
        "queries that would show such a difference",
        "",
    ]
    for new in reversed(report.variants):
        verdict = "passes" if report.passes(new) else "does not pass"
        lines.append(f"{_take(report, new)}: {verdict}")
        rows = report.deciding(new)
        lines += [f"  {_MARKS[report.holds(row)]}  {reason(report, row)}" for row in rows]
    lines += ["", *(f"note: {notice}" for notice in report.notices[:_NOTICES_SHOWN])]
    if len(report.notices) > _NOTICES_SHOWN:
        hidden = len(report.notices) - _NOTICES_SHOWN
        lines.append(f"note: … and {hidden:,} more (all in the JSON)")
    return "\n".join([*lines, advice(report)])


def advice(report: GateReport) -> str:
    """What to take, in a sentence."""
    taken = report.recommended
    if taken is None:
        return "Keep the models before: nothing that is new passes."
    gain = "".join(
        f" {report.system} on {row.name} goes from {row.before:.4f} to {row.after:.4f}."
        for row in report.deciding(taken)
        if row.task
    )
    return f"Take {_take(report, taken)[0].lower()}{_take(report, taken)[1:]}.{gain}"


def reason(report: GateReport, row: GateRow) -> str:
    """What a row says for or against the change, in a sentence or two."""
    found, rule = row.found, report.rule
    where = f"{report.system} on {row.name}" + (" (the task)" if row.task else "")
    many = len(report.rows)
    chance = f"p {p_text(found.p_holm, equals=True)}" + (
        f" after Holm over {many:,} comparisons" if many > 1 else ""
    )
    size = f"{signed(found.difference)} [{signed(found.low)} to {signed(found.high)}], {chance}"
    if row.outcome == "equal":
        return f"{where} is the same on every query."
    if row.task and rule.need == "better":
        if row.outcome == "won":
            return f"{where} is better: {size}."
        if row.outcome == "lost":
            return f"{where} is worse: {size}."
        return f"{where} is not shown to be better: {size}.{_more(row)}"
    if rule.too_much(found):
        told = {"observed": "loses", "possible": "may lose", "significant": "loses"}[rule.losses]
        return f"{where} {told} more than {rule.most_loss:g}: {size}.{_more(row)}"
    possible = (
        f" A loss of up to {-found.low:.4f} is possible.{_more(row)}"
        if found.low < -rule.most_loss
        else ""
    )
    return f"{where} loses no more than {rule.most_loss:g}: {size}.{possible}"


def gate_as_dict(report: GateReport) -> dict[str, Any]:
    """For JSON; the keys are in the module's docstring."""
    return {
        "measure": report.measure,
        "before": dict(zip(("encoder", "reranker"), report.before, strict=True)),
        "after": dict(zip(("encoder", "reranker"), report.after, strict=True)),
        "changed": report.changed,
        "system": report.system,
        "rule": asdict(report.rule),
        "passed": report.passed,
        "recommended": report.recommended,
        "advice": advice(report),
        "verdicts": [
            {
                "new": new,
                "passed": report.passes(new),
                "reasons": [
                    {"holds": report.holds(row), "text": reason(report, row)}
                    for row in report.deciding(new)
                ],
            }
            for new in report.variants
        ],
        "rows": [_row_as_dict(row) for row in report.rows],
        "notices": list(report.notices),
    }


def _row_as_dict(row: GateRow) -> dict[str, Any]:
    own = asdict(row)
    found = own.pop("found")
    del found["first"], found["second"]
    return {**own, "outcome": row.outcome, **found, "significant": row.found.significant}


def _table(report: GateReport) -> list[str]:
    head = ["set", "system", "new", "queries", "before", "after", "difference", "95% interval"]
    rows = [[*head, "p (Holm)", "", "more"]]
    for row in report.rows:
        found = row.found
        rows.append(
            [
                row.name + (" (task)" if row.task else ""), row.system, row.new,
                f"{row.queries:,}", f"{row.before:.4f}", f"{row.after:.4f}",
                signed(found.difference), f"{signed(found.low)} to {signed(found.high)}",
                p_text(found.p_holm) + (" *" if found.significant else "  "), row.outcome,
                rounded(row.more_queries) if row.more_queries else "-",
            ]
        )  # fmt: skip
    return text_table(rows, left=3)


def _take(report: GateReport, new: New) -> str:
    """What is new, as the beginning of a sentence."""
    text = _TAKE[new]
    if report.changed != "both":  # the other one is the same before and after
        text = f"the new {new}"
    return text[0].upper() + text[1:]


def _models(pair: tuple[str, str | None]) -> str:
    encoder, reranker = pair
    return encoder if reranker is None else f"{encoder} + {reranker}"


def _more(row: GateRow) -> str:
    more = row.more_queries
    return f" About {rounded(more)} more queries would show such a difference." if more else ""
