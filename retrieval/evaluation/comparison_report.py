"""A comparison of settings as text and JSON, with the sentence that says which setting to take.

The JSON form (`comparison_as_dict`) keeps these keys; later versions only add to them:

    judged, split  the set and its split
    queries        how many were searched
    measure        display name of what decides
    depth          how many passages were ranked for each query
    baseline       name of the setting that the others are compared with
    choice         name of the setting to take
    why            "better", "cheaper" or "baseline", by the rule above
    advice         the same as a sentence
    settings       best first:
        name           short: what varies
        setting        each dimension as a grid's file writes it
        mean           of the measure
        low, high      its 95% interval: bootstrap over queries
        ms_median, ms_p90, ms_searches   milliseconds of a search, and of how many
        model_bytes    how much memory its models took, or null
        index_bytes    what the index takes on disk, or null
        values         {query id: value of the measure}
    comparisons    one for each pair; differences are first minus second:
        first, second, difference, low, high, p, p_holm, significant,
        smallest           the smallest difference that so many queries show, or null
        queries_needed     to show the one observed, or null
        better, worse, equal   queries
    how            how each of these was measured, in sentences
    notices        what there is to say beside
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from retrieval.evaluation.comparison import (
    LEAST_QUERIES,
    ComparisonReport,
    SettingResult,
)
from retrieval.evaluation.significance import (
    ALPHA,
    FLIPS_PER_TEST,
    LEAST_FLIPS,
    SAMPLES,
    PairedDifference,
)
from retrieval.evaluation.text_table import text_table

CAUTION = (
    "A choice made on these judgements looks better on them than it is: show it on others, such as "
    "another split, before you rely on the figures."
)
_NOTICES_SHOWN = 5

HOW = {
    "interval": f"percentiles of {SAMPLES:,} bootstrap resamples of the queries, paired",
    "p": "two-sided paired randomisation test, signs of the differences flipped at random at least "
    f"{LEAST_FLIPS:,} times and {FLIPS_PER_TEST} times for each comparison; exact for few queries",
    "p_holm": "p after Holm's correction for all comparisons listed",
    "smallest": "shown with 80% probability at the level of 0.05 divided by the comparisons",
    "ms": "ms_searches searches of one query at a time for 10 hits, after a first one that is not "
    "counted; the queries are drawn at random with a fixed seed, and nothing is taken from the "
    "comparison's caches",
    "model_bytes": "growth of the process' resident memory while the models were loaded and first "
    "used (on macOS of its peak)",
    "index_bytes": "as the engine says, on disk",
}


def comparison_as_text(report: ComparisonReport) -> str:
    """Settings best first, each against the best and the baseline, and what to do."""
    lines = [
        f"{report.judged} {report.split}: {len(report.baseline.values):,} queries, "
        f"{len(report.results)} settings, {len(report.pairs):,} comparisons",
        "",
        *_settings(report),
        "",
    ]
    compared_with = {report.best.name: "the best", report.baseline.name: "the baseline"}
    if report.best is report.baseline:
        compared_with = {report.best.name: "the best, which is the baseline"}
    for one in dict.fromkeys((report.best.name, report.baseline.name)):
        other = next(result for result in report.results if result.name == one)
        lines += [f"Against {compared_with[one]}, {one}:", "", *_against(report, other), ""]
    notes = [f"note: {notice}" for notice in report.notices[:_NOTICES_SHOWN]]
    if len(report.notices) > _NOTICES_SHOWN:
        notes.append(f"note: … and {len(report.notices) - _NOTICES_SHOWN:,} more (all in the JSON)")
    return "\n".join([*lines, *notes, *([""] if notes else []), advice(report), CAUTION])


def advice(report: ComparisonReport) -> str:
    """Which setting to take, and how sure that is, in a sentence or two."""
    chosen, why = report.choice
    baseline, best = report.baseline, report.best
    if why == "better":
        found = report.difference(chosen, baseline)
        text = (
            f"Take {chosen.name}: its {report.measure} is better than that of the baseline "
            f"({baseline.name}) by {_difference(found)} ({_chance(report, found)}), and a search "
            f"takes {_times(chosen, baseline)}."
        )
        if chosen is not best:
            text += (
                f" {best.name} has the best mean, and {_no_difference(report, best, chosen)}; it "
                f"takes {best.ms:.0f} ms."
            )
        return text
    if why == "cheaper":
        low = report.difference(chosen, baseline).low
        risk = f" It may be worse by up to {-low:.3f}." if low < -0.0005 else ""
        return (
            f"{_untold(report, chosen, baseline)} Take {chosen.name}, the cheaper one: a search "
            f"takes {_times(chosen, baseline)}.{risk}"
        )
    if report.few:
        count = len(baseline.values)
        too_few = "1 query is too few" if count == 1 else f"{count} queries are too few"
        return (
            f"Keep the baseline ({baseline.name}): {too_few} to tell that another setting is as "
            f"good; judge {LEAST_QUERIES} or more."
        )
    if best is baseline:
        return (
            f"Keep the baseline ({baseline.name}): no setting has a better mean, and none that is "
            f"as good takes less time ({baseline.ms:.0f} ms a search)."
        )
    return (
        f"{_untold(report, best, baseline)} Keep the baseline: {_kept(best, baseline)}, and none "
        "that is as good takes less."
    )


def comparison_as_dict(report: ComparisonReport) -> dict[str, Any]:
    """For JSON; the keys are in the module's docstring."""
    chosen, why = report.choice
    return {
        "judged": report.judged,
        "split": report.split,
        "queries": len(report.baseline.values),
        "measure": report.measure,
        "depth": report.depth,
        "baseline": report.baseline.name,
        "choice": chosen.name,
        "why": why,
        "advice": advice(report),
        "settings": [_setting_as_dict(report, one) for one in report.ranked],
        "comparisons": [{**asdict(one), "significant": one.significant} for one in report.pairs],
        "how": {**HOW, "significant": f"p_holm is at most {ALPHA}"},
        "notices": list(report.notices),
    }


def _setting_as_dict(report: ComparisonReport, result: SettingResult) -> dict[str, Any]:
    low, high = report.interval(result)
    return {
        "name": result.name,
        "setting": result.setting.as_dict(),
        "mean": result.mean,
        "low": low,
        "high": high,
        "ms_median": round(result.ms, 3),
        "ms_p90": round(result.ms_p90, 3),
        "ms_searches": len(result.milliseconds),
        "model_bytes": result.model_bytes,
        "index_bytes": result.index_bytes,
        "values": dict(result.values),
    }


def _kept(best: SettingResult, baseline: SettingResult) -> str:
    if baseline.takes_less(best):
        return f"its searches take {_times(baseline, best)}"
    return f"its searches take as long ({_times(baseline, best)})"


def _untold(report: ComparisonReport, one: SettingResult, baseline: SettingResult) -> str:
    found = report.difference(one, baseline)
    if found.equal == len(one.values):
        return (
            f"{one.name} and the baseline ({baseline.name}) have the same {report.measure} on "
            "every query."
        )
    text = (
        f"These data cannot tell {one.name} from the baseline ({baseline.name}): the difference is "
        f"{_difference(found)} ({_chance(report, found)})"
    )
    count = len(one.values)
    if found.smallest is not None:
        text += f"; {count:,} queries show differences from {found.smallest:.3f} on"
    more = 0 if found.queries_needed is None else found.queries_needed - count
    if more > 0:
        text += f", and you would need about {rounded(more)} more queries to show this one"
    return text + "."


def _no_difference(report: ComparisonReport, one: SettingResult, other: SettingResult) -> str:
    found = report.difference(one, other)
    if found.equal == len(one.values):
        return "is the same on every query"
    return (
        f"these data cannot tell the two apart: the difference is {_difference(found)} "
        f"({_chance(report, found)})"
    )


def _difference(found: PairedDifference) -> str:
    return f"{found.difference:.3f} [{found.low:.3f}, {found.high:.3f}]"


def _chance(report: ComparisonReport, found: PairedDifference) -> str:
    many = len(report.pairs)
    after = f" after Holm over {many:,} comparisons" if many > 1 else ""
    return f"p {p_text(found.p_holm, equals=True)}{after}"


def p_text(p: float, *, equals: bool = False) -> str:
    """A p-value as it is written: three digits, or that it is smaller."""
    if p < 0.001:
        return "< 0.001"
    return f"{'= ' if equals else ''}{p:.3f}"


def _times(one: SettingResult, other: SettingResult) -> str:
    return f"{one.ms:.0f} ms instead of {other.ms:.0f}"


def rounded(count: int) -> str:
    """Two digits of a number: an estimate has no more."""
    digits = max(0, len(str(count)) - 2)
    return f"{round(count, -digits):,}"


def _settings(report: ComparisonReport) -> list[str]:
    chosen, _ = report.choice
    rows = [["", "setting", report.measure, "95% interval", "ms", "90% within", "models", "index"]]
    for one in report.ranked:
        low, high = report.interval(one)
        mark = ("→" if one is chosen else "") + ("b" if one is report.baseline else "")
        rows.append(
            [
                mark, one.name, f"{one.mean:.4f}", f"{low:.4f} to {high:.4f}", f"{one.ms:.0f}",
                f"{one.ms_p90:.0f} ms", _size(one.model_bytes), _size(one.index_bytes),
            ]
        )  # fmt: skip
    return [
        *text_table(rows, left=rows[0].index("setting") + 1),
        "→ to take, b the baseline; memory of the models, the index on disk",
    ]


def _against(report: ComparisonReport, other: SettingResult) -> list[str]:
    rows = [["setting", "difference", "95% interval", "p", "after Holm", "smallest shown"]]
    for one in report.ranked:
        if one is other:
            continue
        found = report.difference(one, other)
        smallest = "-" if found.smallest is None else f"{found.smallest:.4f}"
        rows.append(
            [
                one.name, signed(found.difference),
                f"{signed(found.low)} to {signed(found.high)}",
                p_text(found.p),
                p_text(found.p_holm) + (" *" if found.significant else "  "), smallest,
            ]
        )  # fmt: skip
    return text_table(rows, left=rows[0].index("setting") + 1)


def signed(number: float) -> str:
    """A difference with four digits and its sign."""
    return f"{round(number, 4) + 0.0:+.4f}"  # no minus before a zero


def _size(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e6:,.0f} MB"
