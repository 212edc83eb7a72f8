"""Small charts as inline SVG: no script, no network, colours from the page's CSS, a text alternative on each."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 34
_BELOW_LEGEND = _TOP + 18


class _Axes:
    """Data to pixels, with a few round ticks."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], height: int = HEIGHT, top: int = _TOP) -> None:
        self.x, self.y, self.height, self.top = _widened(x), _widened(y), height, top

    def px(self, value: float) -> float:
        return _LEFT + (value - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - _LEFT - _RIGHT)

    def py(self, value: float) -> float:
        return self.height - _BOTTOM - (value - self.y[0]) / (self.y[1] - self.y[0]) * (self.height - self.top - _BOTTOM)

    def frame(self, x_label: str, y_label: str, x_ticks: bool = True) -> str:
        parts = []
        for tick in ticks(*self.y):
            y = self.py(tick)
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>'
            )
        for tick in ticks(*self.x) if x_ticks else []:
            parts.append(
                f'<text class="tick" x="{self.px(tick):.1f}" y="{self.height - _BOTTOM + 15}" text-anchor="middle">{tick:g}</text>'
            )
        parts.append(
            f'<text class="label" x="{(WIDTH + _LEFT) / 2}" y="{self.height - 4}" text-anchor="middle">{escape(x_label)}</text>'
        )
        parts.append(
            f'<text class="label" transform="translate(12 {self.height / 2 - 8}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
        )
        return "".join(parts)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers within [low, high]."""
    raw = (high - low) / count
    magnitude = 10.0 ** np.floor(np.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw)
    return [float(round(t, 10)) for t in np.arange(np.ceil(low / step) * step, high + step * 1e-9, step)]


def _widened(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    return (low - 0.5, high + 0.5) if high - low < 1e-12 else (low, high)


def _svg(body: str, alt: str, height: int = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(alt, quote=True)}">'
        f"<title>{escape(alt)}</title>{body}</svg>"
    )


def intervals(rows: Sequence[tuple[str, float, float, float]], x_label: str, alt: str) -> str:
    """Rows of (name, mean, low, high) as dots with bars."""
    height = _TOP + _BOTTOM + 34 * len(rows)
    low, high = min(r[2] for r in rows), max(r[3] for r in rows)
    pad = 0.08 * (high - low or 1.0)
    axes = _Axes((low - pad, high + pad), (0, 1), height)
    left = 150
    scale = lambda v: left + (v - axes.x[0]) / (axes.x[1] - axes.x[0]) * (WIDTH - left - 60)  # noqa: E731
    parts = []
    for tick in ticks(*axes.x):
        parts.append(
            f'<line class="grid" x1="{scale(tick):.1f}" x2="{scale(tick):.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>'
            f'<text class="tick" x="{scale(tick):.1f}" y="{height - _BOTTOM + 15}" text-anchor="middle">{tick:g}</text>'
        )
    for i, (name, mean, lower, upper) in enumerate(rows):
        y = _TOP + 34 * i + 17
        parts.append(
            f'<text class="name" x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(name)}</text>'
            f'<line class="bar s{i % 3}" x1="{scale(lower):.1f}" x2="{scale(upper):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot s{i % 3}" cx="{scale(mean):.1f}" cy="{y}" r="5"/>'
            f'<text class="value" x="{min(scale(upper) + 8, WIDTH - 40):.1f}" y="{y + 4}">{mean:.1f}</text>'
        )
    parts.append(f'<text class="label" x="{(WIDTH + left) / 2}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>')
    return _svg("".join(parts), alt, height)


def differences(values: Sequence[float], x_label: str, y_label: str, alt: str) -> str:
    """One bar a query, sorted; gains and losses in two colours."""
    ordered = sorted(values, reverse=True)
    reach = max(max(map(abs, ordered), default=1.0), 1e-9)
    axes = _Axes((0, len(ordered)), (-reach, reach))
    width = max((WIDTH - _LEFT - _RIGHT) / max(len(ordered), 1) * 0.8, 0.8)
    bars = "".join(
        f'<rect class="{"gain" if v > 0 else "loss"}" x="{axes.px(i + 0.1):.1f}" width="{width:.1f}" '
        f'y="{min(axes.py(v), axes.py(0)):.1f}" height="{max(abs(axes.py(v) - axes.py(0)), 0.6):.1f}"/>'
        for i, v in enumerate(ordered)
    )
    return _svg(axes.frame(x_label, y_label, x_ticks=False) + bars, alt)


def lines(series: Sequence[tuple[str, Sequence[float], Sequence[float]]], x_label: str, y_label: str, alt: str) -> str:
    """Series of (name, xs, ys), each a line (a dot where it has one point)."""
    xs = [x for _, values, _ in series for x in values]
    ys = [y for _, _, values in series for y in values]
    axes = _Axes((min(xs), max(xs)), (min(ys), max(ys)), top=_BELOW_LEGEND)
    parts = [axes.frame(x_label, y_label), _legend([name for name, _, _ in series])]
    for i, (_, px, py) in enumerate(series):
        points = " ".join(f"{axes.px(x):.1f},{axes.py(y):.1f}" for x, y in zip(px, py, strict=True))
        parts.append(f'<polyline class="line s{i % 3}" points="{points}"/>')
        parts += [
            f'<circle class="dot s{i % 3}" cx="{axes.px(x):.1f}" cy="{axes.py(y):.1f}" r="3"/>'
            for x, y in zip(px, py, strict=True)
        ][:60]
    return _svg("".join(parts), alt)


def histogram(series: Sequence[tuple[str, Sequence[float]]], x_label: str, alt: str, bins: int = 30) -> str:
    """Shares of values in equal bins, one outline a series."""
    low = min(min(values) for _, values in series)
    high = max(max(values) for _, values in series)
    edges = np.linspace(*_widened((low, high)), bins + 1)
    shares = [np.histogram(values, edges)[0] / max(len(values), 1) for _, values in series]
    axes = _Axes((float(edges[0]), float(edges[-1])), (0, 100 * float(max(s.max() for s in shares))), top=_BELOW_LEGEND)
    parts = [axes.frame(x_label, "share, %"), _legend([name for name, _ in series])]
    for i, share in enumerate(shares):
        points = [f"{axes.px(edges[0]):.1f},{axes.py(0):.1f}"]
        for k, value in enumerate(share):
            points += [
                f"{axes.px(edges[k]):.1f},{axes.py(100 * value):.1f}",
                f"{axes.px(edges[k + 1]):.1f},{axes.py(100 * value):.1f}",
            ]
        points.append(f"{axes.px(edges[-1]):.1f},{axes.py(0):.1f}")
        parts.append(f'<polyline class="area s{i % 3}" points="{" ".join(points)}"/>')
    return _svg("".join(parts), alt)


def _legend(names: Sequence[str]) -> str:
    """A row above the frame, where it hides no data."""
    parts, x = [], _LEFT
    for i, name in enumerate(names):
        parts.append(
            f'<rect class="key s{i % 3}" x="{x}" y="6" width="10" height="10"/>'
            f'<text class="name" x="{x + 16}" y="15">{escape(name)}</text>'
        )
        x += 40 + 7 * len(name)
    return "".join(parts)
