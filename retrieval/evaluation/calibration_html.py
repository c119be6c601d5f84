"""A calibration as one page: reliability, scores, what was tried, thresholds."""

from __future__ import annotations

from markupsafe import Markup

from retrieval.evaluation.calibration_report import SIGNALS, CalibrationReport
from retrieval.evaluation.html_report import rendered
from retrieval.evaluation.svg_axes import Axis, Plot


def calibration_as_html(report: CalibrationReport) -> str:
    """The page; it needs nothing beside itself, and every text in it is escaped."""
    made = report.calibration
    return rendered(
        "calibration.html.j2",
        title=f"Calibration of {report.collection}",
        report=report,
        made=made,
        signal=SIGNALS[made.signal],
        signals=SIGNALS,
        reliability=_reliability(report),
        scores=_scores(report),
        thresholds=report.thresholds(),
    )


def _reliability(report: CalibrationReport) -> Markup:
    points = [(one.predicted, one.observed) for one in report.reliability]
    ticks = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    x = Axis("probability that was said", 0.0, 1.0, ticks)
    about = f"Expected calibration error {report.calibration.ece:.4f}"
    plot = Plot("Reliability", about, x, Axis("share that is relevant", 0.0, 1.0, ticks))
    plot.line([(0.0, 0.0), (1.0, 1.0)], "curve plain c7", "perfect")
    plot.line(points, "curve c0", "calibrated")
    for one in report.reliability:
        plot.add(
            '<circle class="dot c0" cx="{x}" cy="{y}" r="4"><title>{told}</title></circle>',
            x=plot.at_x(one.predicted),
            y=plot.at_y(one.observed),
            told=f"{one.count} candidates: said {one.predicted:.3f}, {one.observed:.3f} relevant",
        )
    return plot.svg()


def _scores(report: CalibrationReport) -> Markup:
    found = report.histogram
    shares = [
        [count / max(sum(counts), 1) for count in counts]
        for counts in (found.relevant, found.others)
    ]
    x = Axis.over(SIGNALS[report.calibration.signal], found.edges)
    y = Axis.over("share of the group", [0.0, *shares[0], *shares[1]], least=0)
    about = f"{sum(found.relevant):,} relevant, {sum(found.others):,} others"
    plot = Plot("Scores", about, x, y)
    for style, own in zip(("hit", "miss"), shares, strict=True):
        outline = [(found.edges[0], 0.0)]
        for row, share in enumerate(own):
            outline += [(found.edges[row], share), (found.edges[row + 1], share)]
        outline.append((found.edges[-1], 0.0))
        plot.line(outline, f"area {style}", style)
    return plot.svg()
