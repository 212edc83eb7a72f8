"""Small charts as inline SVG: no script, no network, colours from the page's CSS, a text alternative on each.

A colour class names what is drawn, so that it looks alike in every chart of a page: `s0` BM25 (or the first of several), `s1` the start,
`s2` the tuned model. Lines also differ in their dashes, for print and for eyes that see colours otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 12, 40
_LEGEND_ROW = 20
_ROW = 30
_MOST_DOTS = 80

_COLOURS = """
svg { --ink: #1b2330; --soft: #556070; --line: #d5dbe4; --a: #6b7686; --b: #2568a8; --c: #b3541a; }
@media (prefers-color-scheme: dark) { svg { --ink: #e7ebf1; --soft: #a8b2bf; --line: #38414e; --a: #98a4b5; --b: #6cabea; --c: #ea9c63; } }
text { font: 13px system-ui, sans-serif; fill: var(--ink); } .tick, .label { fill: var(--soft); } .grid { stroke: var(--line); }
.reference { fill: none; stroke: var(--soft); stroke-dasharray: 2 4; } .bar { stroke-width: 3; } .dot { stroke-width: 2; }
.s0 { stroke: var(--a); fill: var(--a); } .s1 { stroke: var(--b); fill: var(--b); } .s2 { stroke: var(--c); fill: var(--c); }
"""
"""Of charts that are files; those of a page have its style sheet's."""

Span = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line through (xs, ys), with a band from `low` to `high` where given. `dots`: each point marked too; `steps`: constant
    between the points; `filled`: the area below."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    style: str = "s0"
    dots: bool = False
    steps: bool = False
    filled: bool = False
    line: bool = True


def plot(
    series: Sequence[Series], x_label: str, y_label: str, alt: str, x: Span | None = None, y: Span | None = None,
    diagonal: bool = False, level: float | None = None, under: Sequence[Series] = (),
) -> Markup:
    """Lines over common axes; `x`, `y`: their spans, those of the data where not given. `diagonal`: where both are equal; `level`:
    a horizontal line at that value; `under`: drawn first, not in the legend."""
    everything = [*under, *series]
    xs = [value for s in everything for value in s.xs]
    ys = [value for s in everything for values in (s.ys, s.low, s.high) for value in values]
    ys += [] if level is None else [level]
    legend, top = _legend(series)
    axes = _Axes(x or (min(xs), max(xs)), y or (min(ys), max(ys)), HEIGHT, top)
    parts = [axes.frame(x_label, y_label), legend]
    if diagonal:
        parts.append(axes.polyline([axes.x[0], axes.x[1]], [axes.x[0], axes.x[1]], "reference"))
    if level is not None:
        parts.append(axes.polyline(axes.x, [level, level], "reference"))
    return _svg("".join(parts) + "".join(_drawn(axes, s) for s in everything), alt)


def lines(series: Sequence[tuple[str, Sequence[float], Sequence[float]]], x_label: str, y_label: str, alt: str) -> Markup:
    """Series of (name, xs, ys), each a line with dots, in the order of the colours."""
    drawn = [Series(name, xs, ys, style=f"s{i % 3}", dots=True) for i, (name, xs, ys) in enumerate(series)]
    return plot(drawn, x_label, y_label, alt)


def bubbles(points: Sequence[tuple[float, float, int]], span: Span, x_label: str, y_label: str, alt: str) -> Markup:
    """Points of (x, y, how many) around the diagonal, area by how many; above it gains, below it losses."""
    axes = _Axes(span, span, WIDTH, _TOP)
    most = max((count for _, _, count in points), default=1)
    parts = [axes.frame(x_label, y_label), axes.polyline(span, span, "reference")]
    for x, y, count in sorted(points, key=lambda point: -point[2]):
        kind = "gain" if y > x else "loss" if y < x else "same"
        parts.append(f'<circle class="bubble {kind}" cx="{axes.px(x):.1f}" cy="{axes.py(y):.1f}" r="{4 + 12 * (count / most) ** 0.5:.1f}">'
                     f"<title>{x:.3f} to {y:.3f}: {count}</title></circle>")
    return _svg("".join(parts), alt, WIDTH)


def intervals(
    rows: Sequence[tuple[str, float, float, float, str]], x_label: str, alt: str, level: float | None = None,
) -> Markup:
    """Rows of (name, mean, low, high, colour class) as dots with bars."""
    height = _TOP + _BOTTOM + _ROW * len(rows)
    marks = [v for row in rows for v in row[1:4]] + ([] if level is None else [level])
    pad = 0.08 * (max(marks) - min(marks) or 1.0)
    left = 24 + 7.4 * max(len(row[0]) for row in rows)
    axes = _Axes((min(marks) - pad, max(marks) + pad), (0, 1), height, _TOP, left, 50)
    parts = [axes.verticals(x_label)]
    if level is not None:
        parts.append(axes.polyline([level, level], [0, 1], "reference"))
    for i, (name, mean, low, high, style) in enumerate(rows):
        y = _TOP + _ROW * i + _ROW / 2
        parts.append(
            f'<text class="name" x="{left - 10:.0f}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
            f'<line class="bar {style}" x1="{axes.px(low):.1f}" x2="{axes.px(high):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot {style}" cx="{axes.px(mean):.1f}" cy="{y}" r="5"/>'
            f'<text class="value" x="{WIDTH - 4}" y="{y + 4}" text-anchor="end">{signed(mean) if level == 0 else f"{mean:.1f}"}</text>'
        )
    return _svg("".join(parts), alt, height)


def bars(rows: Sequence[tuple[str, float, str]], alt: str) -> Markup:
    """Rows of (name, length, what is written at its end)."""
    left, longest = 24 + 7.4 * max(len(name) for name, _, _ in rows), max(max(value for _, value, _ in rows), 1e-9)
    room = WIDTH - left - 24 - 7.4 * max(len(text) for _, _, text in rows)
    parts = []
    for i, (name, value, text) in enumerate(rows):
        y, width = _TOP + _ROW * i, max(room * value / longest, 1)
        parts.append(
            f'<text class="name" x="{left - 10:.0f}" y="{y + 17}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="s1" x="{left:.0f}" y="{y + 4}" width="{width:.1f}" height="{_ROW - 12}"/>'
            f'<text class="value" x="{left + width + 8:.1f}" y="{y + 17}">{escape(text)}</text>')
    return _svg("".join(parts), alt, _TOP + _ROW * len(rows))


def standalone(chart: Markup) -> str:
    """A chart as an SVG file, with colours of its own for light and dark."""
    head, end, body = str(chart).partition(">")
    return head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ') + end + f"<style>{_COLOURS}</style>" + body


def outline(values: Sequence[float], edges: np.ndarray) -> tuple[list[float], list[float]]:
    """A histogram as (xs, ys) of a line with steps: ys are percentages."""
    shares = 100 * np.histogram(values, edges)[0] / max(len(values), 1)
    return edges.tolist(), [*shares.tolist(), 0.0]


def thinned(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly spaced, first and last among them."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(count, most))}) if count else []


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]."""
    raw = (high - low) / count
    magnitude = 10.0 ** np.floor(np.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw)
    return [float(round(t, 10)) + 0.0 for t in np.arange(np.ceil(low / step) * step, high + step * 1e-9, step)]


def signed(value: float, digits: int = 1) -> str:
    """With its sign, as print has it; no sign where it rounds to 0."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


class _Axes:
    """Data to pixels, with a few round ticks."""

    def __init__(self, x: Span, y: Span, height: int, top: int, left: float = _LEFT, right: float = _RIGHT) -> None:
        self.x, self.y, self.height, self.top, self.left, self.right = _widened(x), _widened(y), height, top, left, right

    def px(self, value: float) -> float:
        return self.left + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - self.left - self.right)

    def py(self, value: float) -> float:
        return self.height - _BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - self.top - _BOTTOM)

    def polyline(self, xs: Sequence[float], ys: Sequence[float], style: str) -> str:
        points = " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in zip(xs, ys, strict=True))
        return f'<polyline class="{style}" points="{points}"/>'

    def frame(self, x_label: str, y_label: str) -> str:
        parts = []
        for tick in ticks(*self.y):
            y = self.py(tick)
            parts.append(
                f'<line class="grid" x1="{self.left}" x2="{WIDTH - self.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="tick" x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
            )
        middle = self.top + (self.height - self.top - _BOTTOM) / 2
        parts += [
            f'<text class="tick" x="{self.px(tick):.1f}" y="{self.height - _BOTTOM + 17}" text-anchor="middle">{_number(tick)}</text>'
            for tick in ticks(*self.x)
        ]
        parts.append(
            f'<text class="label" x="{(WIDTH + self.left) / 2}" y="{self.height - 5}" text-anchor="middle">{escape(x_label)}</text>'
            f'<text class="label" transform="translate(12 {middle:.0f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
        )
        return "".join(parts)

    def verticals(self, x_label: str) -> str:
        foot = self.height - _BOTTOM
        parts = [
            f'<line class="grid" x1="{self.px(tick):.1f}" x2="{self.px(tick):.1f}" y1="{self.top}" y2="{foot}"/>'
            f'<text class="tick" x="{self.px(tick):.1f}" y="{foot + 17}" text-anchor="middle">{_number(tick)}</text>'
            for tick in ticks(*self.x)
        ]
        middle = (WIDTH - self.right + self.left) / 2
        return "".join(parts) + f'<text class="label" x="{middle:.0f}" y="{self.height - 5}" text-anchor="middle">{escape(x_label)}</text>'


def _drawn(axes: _Axes, series: Series) -> str:
    xs, ys, parts = list(series.xs), list(series.ys), []
    if len(series.low):
        around = axes.polyline([*xs, *reversed(xs)], [*series.low, *reversed(series.high)], f"band {series.style}")
        parts.append(around.replace("<polyline", "<polygon"))
    if series.steps:
        xs, ys = [x for x in xs for _ in (0, 1)][1:], [y for y in ys for _ in (0, 1)][:-1]
    if series.filled:
        parts.append(axes.polyline([xs[0], *xs, xs[-1]], [axes.y[0], *ys, axes.y[0]], f"fill {series.style}"))
    if series.line and len(xs) > 1:
        parts.append(axes.polyline(xs, ys, f"line {series.style}"))
    if series.dots or len(xs) == 1:
        parts += [
            f'<circle class="dot {series.style}" cx="{axes.px(series.xs[i]):.1f}" cy="{axes.py(series.ys[i]):.1f}" r="3.5"/>'
            for i in thinned(len(series.xs), _MOST_DOTS)
        ]
    return "".join(parts)


def _legend(series: Sequence[Series]) -> tuple[str, int]:
    """Rows above the frame, where they hide no data, and where the frame begins. One series needs none."""
    if len(series) < 2:
        return "", _TOP
    parts, x, y = [], 4.0, 14
    for s in series:
        width = 44 + 7.2 * len(s.name)
        if x + width > WIDTH and x > 4:
            x, y = 4.0, y + _LEGEND_ROW
        parts.append(
            (f'<polyline class="line {s.style}" points="{x},{y - 4} {x + 24},{y - 4}"/>' if s.line else "")
            + (f'<circle class="dot {s.style}" cx="{x + 12}" cy="{y - 4}" r="3.5"/>' if s.dots else "")
            + f'<text class="name" x="{x + 30}" y="{y}">{escape(s.name)}</text>')
        x += width
    return "".join(parts), y + 12


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _widened(span: Span) -> Span:
    low, high = span
    return (low - 0.5, high + 0.5) if high - low < 1e-12 else (low, high)


def _svg(body: str, alt: str, height: int = HEIGHT) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(alt, quote=True)}">{body}</svg>'
    )
