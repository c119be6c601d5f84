"""Axes and frames of plots as SVG; what is drawn into them is in `svg_plots`.

Colours are classes of the page's style. Every plot has a title and a description for readers of
screens, axes with numbers and units, and the same size, so that its letters stay readable on a
phone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 60, 14, 14, 46


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale and its numbers.

    Attributes:
        label: what it measures, with its unit.
        low, high: its ends.
        ticks: where numbers stand.
        log: whether it is logarithmic.
    """

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log(value), math.log(low), math.log(high)
        return (value - low) / (high - low)

    @classmethod
    def over(cls, label: str, values: Sequence[float], *, least: float | None = None) -> Axis:
        """Round ends around some values; `least` is the lowest that can be."""
        low, high = min(values), max(values)
        spread = high - low or abs(high) * 0.1 or 1.0
        step = 10 ** math.floor(math.log10(spread / 4))
        step *= next(one for one in (1, 2, 5, 10) if spread / (step * one) <= 5)
        first = math.floor((low - 0.02 * spread) / step)
        first = first if least is None else max(first, math.floor(least / step))
        last = max(math.ceil((high + 0.02 * spread) / step), first + 1)
        ticks = tuple(round(n * step, 10) for n in range(first, last + 1))
        return cls(label, ticks[0], ticks[-1], ticks)

    @classmethod
    def logarithmic(cls, label: str, values: Sequence[float]) -> Axis:
        """From the 1, 2 or 5 below the values to the one above them."""
        low, high = max(min(values), 1e-3), max(values)
        powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
        steps = [one * 10.0**power for power in powers for one in (1, 2, 5)]
        first = max(n for n, step in enumerate(steps) if step < low)
        last = next(n for n, step in enumerate(steps) if step > high)
        ticks = steps[first : last + 1]
        if len(ticks) > 7:
            ticks = [tick for tick in ticks if math.log10(tick) == round(math.log10(tick))]
        return cls(label, steps[first], steps[last], tuple(ticks), log=True)


@dataclass(slots=True)
class Plot:
    """A frame with two axes, into which marks are drawn."""

    title: str
    about: str
    x: Axis
    y: Axis
    marks: list[Markup] = field(default_factory=list)

    def at_x(self, value: float) -> float:
        """Horizontal place of a value."""
        return LEFT + self.x.share(value) * (WIDTH - LEFT - RIGHT)

    def at_y(self, value: float) -> float:
        """Vertical place of a value."""
        return HEIGHT - BOTTOM - self.y.share(value) * (HEIGHT - TOP - BOTTOM)

    def add(self, mark: str, **values: object) -> None:
        """A mark; values are escaped, numbers shortened."""
        short = {k: f"{v:.1f}" if isinstance(v, float) else v for k, v in values.items()}
        self.marks.append(Markup(mark).format(**short))

    def line(self, points: Sequence[tuple[float, float]], style: str, title: str = "") -> None:
        """A line through points of the axes."""
        path = " ".join(f"{self.at_x(x):.1f},{self.at_y(y):.1f}" for x, y in points)
        told = Markup("<title>{}</title>").format(title) if title else ""
        self.add(
            '<polyline class="{style}" points="{path}">{told}</polyline>',
            style=style, path=path, told=told,
        )  # fmt: skip

    def svg(self) -> Markup:
        """The whole plot."""
        frame = [self._tick_x(tick) for tick in self.x.ticks]
        frame += [self._tick_y(tick) for tick in self.y.ticks]
        middle = (TOP + HEIGHT - BOTTOM) / 2
        return Markup(
            '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}. {about}">'
            "<title>{title}</title><desc>{about}</desc>{frame}"
            '<text class="label" x="{x}" y="{below}" text-anchor="middle">{x_label}</text>'
            '<text class="label" transform="translate(13 {middle}) rotate(-90)" '
            'text-anchor="middle">{y_label}</text>{marks}</svg>'
        ).format(
            width=WIDTH, height=HEIGHT, title=self.title, about=self.about,
            frame=Markup().join(frame), marks=Markup().join(self.marks),
            x=(LEFT + WIDTH - RIGHT) / 2, below=HEIGHT - 8, middle=middle,
            x_label=self.x.label, y_label=self.y.label,
        )  # fmt: skip

    def _tick_x(self, tick: float) -> Markup:
        x, low = f"{self.at_x(tick):.1f}", HEIGHT - BOTTOM
        # a long number at the right end would be cut off by the edge
        long = len(written(tick)) > 4 and self.at_x(tick) > WIDTH - RIGHT - 1
        return Markup(
            '<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{low}"/>'
            '<text class="tick" x="{x}" y="{y}" text-anchor="{anchor}">{n}</text>'
        ).format(
            x=x, top=TOP, low=low, y=low + 17, n=written(tick), anchor="end" if long else "middle"
        )

    def _tick_y(self, tick: float) -> Markup:
        y = self.at_y(tick)
        return Markup(
            '<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            '<text class="tick" x="{x}" y="{low:.1f}" text-anchor="end">{n}</text>'
        ).format(left=LEFT, right=WIDTH - RIGHT, y=y, x=LEFT - 6, low=y + 4, n=written(tick))


def written(number: float) -> str:
    """A number of an axis: no more digits than it has, and a true minus."""
    text = f"{number:,.10f}".rstrip("0").rstrip(".")
    return text.replace("-", "−") if text not in ("-0", "") else "0"
