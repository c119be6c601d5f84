"""Plots of an evaluation as SVG: no script, no outside asset. Their frames are in `svg_axes`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from retrieval.evaluation.svg_axes import BOTTOM, HEIGHT, LEFT, TOP, WIDTH, Axis, Plot, written

_LETTER = 7.5
"""About how wide a letter is."""

_BINS = 30


@dataclass(frozen=True, slots=True)
class Point:
    """A row in the plane of time and quality; `style` is its class, `bounds` its interval."""

    name: str
    x: float
    y: float
    bounds: tuple[float, float]
    style: str


def scatter(title: str, points: Sequence[Point], x_label: str, y_label: str) -> Markup:
    """Points with their intervals and names, and the front of those that nothing else beats."""
    times = [point.x for point in points]
    wide = max(times) > 8 * max(min(times), 1e-3)
    x = Axis.logarithmic(x_label, times) if wide else Axis.over(x_label, times, least=0.0)
    ends = [end for point in points for end in (*point.bounds, point.y)]
    best = pareto([(point.x, point.y) for point in points])
    front = [points[row] for row in best]
    about = "On the front: " + ", ".join(
        f"{one.name} ({one.y:.4f} in {one.x:.1f} ms)" for one in front
    )
    plot = Plot(title, about, x, Axis.over(y_label, ends, least=0.0))
    steps: list[tuple[float, float]] = []
    for one in front:
        steps += [(one.x, steps[-1][1])] if steps else []
        steps.append((one.x, one.y))
    if len(front) > 1:
        plot.line(steps, "front")
    for point in points:
        plot.add(
            '<line class="bar {style}" x1="{x}" x2="{x}" y1="{low}" y2="{high}"/>',
            style=point.style, x=plot.at_x(max(point.x, x.low)),
            low=plot.at_y(point.bounds[0]), high=plot.at_y(point.bounds[1]),
        )  # fmt: skip
    places = [(plot.at_x(max(point.x, x.low)), plot.at_y(point.y)) for point in points]
    for point, (left, top) in zip(points, places, strict=True):
        plot.add(
            '<circle class="dot {style}" cx="{left}" cy="{top}" r="5"><title>{name}: {told}</title>'
            "</circle>",
            style=point.style, left=left, top=top, name=point.name,
            told=f"{point.y:.4f} in {point.x:.1f} ms",
        )  # fmt: skip
    for point, (left, top) in _labels(points, places):
        plot.add(
            '<text class="name {style}" x="{left}" y="{top}">{name}</text>',
            style=point.style, left=left, top=top, name=point.name,
        )  # fmt: skip
    return plot.svg()


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Rows that no other beats in time (first) and quality (second), fastest first."""
    front: list[int] = []
    for row in sorted(range(len(points)), key=lambda one: (points[one][0], -points[one][1])):
        if not front or points[row][1] > points[front[-1]][1]:
            front.append(row)
    return front


def _labels(
    points: Sequence[Point], places: Sequence[tuple[float, float]]
) -> list[tuple[Point, tuple[float, float]]]:
    """Where names stand: beside their points, without covering another name or point."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    found = []
    for point, (x, y) in zip(points, places, strict=True):
        width = _LETTER * len(point.name)
        tries = [
            (left, y + down)
            for down in (4, -9, 17, -22, 30, -35, 43, -48, 56)
            for left in (x + 9, x - 9 - width)
        ]
        room = [
            (left, base)
            for left, base in tries
            if left >= LEFT and left + width <= WIDTH - 2 and TOP + 8 <= base <= HEIGHT - BOTTOM
        ]
        free = [
            one for one in room if not any(_overlap(_box(one, width), other) for other in taken)
        ]
        place = (free or room or tries)[0]
        taken.append(_box(place, width))
        found.append((point, place))
    return found


_Box = tuple[float, float, float, float]


def _box(place: tuple[float, float], width: float) -> _Box:
    left, base = place
    return left, base - 11, left + width, base + 3


def _overlap(one: _Box, other: _Box) -> bool:
    across = one[0] < other[2] and other[0] < one[2]
    return across and one[1] < other[3] and other[1] < one[3]


@dataclass(frozen=True, slots=True)
class Series:
    """A named line."""

    name: str
    points: tuple[tuple[float, float], ...]
    style: str


def curves(title: str, series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """Lines with a dot at each value."""
    last = "; ".join(f"{one.name} {one.points[-1][1]:.3f}" for one in series)
    plot = Plot(title, f"At {written(x.high)}: {last}", x, y)
    for one in series:
        plot.line(one.points, f"curve {one.style}", one.name)
        for at, value in one.points:
            plot.add(
                '<circle class="dot {style}" cx="{x}" cy="{y}" r="2.5">'
                "<title>{name} at {at}: {value}</title></circle>",
                style=one.style, x=plot.at_x(at), y=plot.at_y(value), name=one.name,
                at=written(at), value=f"{value:.4f}",
            )  # fmt: skip
    return plot.svg()


def differences(title: str, values: Sequence[float], y_label: str) -> Markup:
    """A bar for each query that differs, from the greatest gain to the greatest loss."""
    ordered = sorted((value for value in values if value), reverse=True)
    gains = sum(value > 0 for value in ordered)
    about = f"{gains} queries gain, {len(ordered) - gains} lose, {len(values) - len(ordered)} equal"
    count = max(len(ordered), 1)
    x = Axis("queries that differ, from gain to loss", 0, count, _counts(count))
    plot = Plot(title, about, x, Axis.over(y_label, [*ordered, 0.0]))
    zero = plot.at_y(0.0)
    wide = (plot.at_x(count) - plot.at_x(0)) / count
    for place, value in enumerate(ordered):
        top = plot.at_y(value)
        plot.add(
            '<rect class="{style}" x="{x}" y="{y}" width="{width}" height="{height}"/>',
            style="gain" if value > 0 else "loss", x=plot.at_x(place) + 0.1 * wide,
            y=min(top, zero), width=max(0.8 * wide, 0.4), height=max(abs(top - zero), 0.5),
        )  # fmt: skip
    plot.add(
        '<line class="zero" x1="{x}" x2="{right}" y1="{y}" y2="{y}"/>',
        x=plot.at_x(0), right=plot.at_x(count), y=zero,
    )  # fmt: skip
    return plot.svg()


def _counts(count: int) -> tuple[float, ...]:
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**9) if count / s <= 6)
    return tuple(range(0, count + 1, step)) if count >= step else (0.0, float(count))


def histogram(
    title: str, groups: Sequence[tuple[str, Sequence[float], str]], x_label: str
) -> Markup:
    """How the values of each group spread: the share of it in each of 30 equal bins."""
    every = [value for _, values, _ in groups for value in values]
    x = Axis.over(x_label, every)
    shares: list[list[float]] = []
    for _, values, _ in groups:
        counts = [0] * _BINS
        for value in values:
            counts[min(int(x.share(value) * _BINS), _BINS - 1)] += 1
        shares.append([count / max(len(values), 1) for count in counts])
    y = Axis.over("share of the group", [0.0, *(share for own in shares for share in own)], least=0)
    told = "; ".join(
        f"{name}: {len(values):,} scores, median {_median(values)}" for name, values, _ in groups
    )
    plot = Plot(title, told, x, y)
    for (name, _, style), own in zip(groups, shares, strict=True):
        edges = [x.low + (x.high - x.low) * n / _BINS for n in range(_BINS + 1)]
        outline = [(edges[0], 0.0)]
        for row, share in enumerate(own):
            outline += [(edges[row], share), (edges[row + 1], share)]
        outline.append((edges[-1], 0.0))
        plot.line(outline, f"area {style}", name)
    return plot.svg()


def _median(values: Sequence[float]) -> str:
    return f"{sorted(values)[len(values) // 2]:.3g}" if values else "none"


def bar(low: float, high: float, value: float, ends: tuple[float, float]) -> Markup:
    """A small interval with its mean for a cell of a table, on a scale from end to end."""
    span = ends[1] - ends[0] or 1.0
    at = [round(100 * (one - ends[0]) / span, 1) for one in (low, high, value)]
    return Markup(
        '<svg class="interval" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<line x1="{}" x2="{}" y1="4" y2="4"/><line class="mean" x1="{}" x2="{}" y1="0" y2="8"/>'
        "</svg>"
    ).format(at[0], at[1], at[2], at[2])
