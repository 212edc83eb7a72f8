"""Trials as lines across one axis a value: parallel coordinates, inline SVG without script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from readqg.tuning.search import Range

_WIDTH, _HEIGHT, _SIDE, _TOP, _BOTTOM = 900, 320, 60, 34, 30


def parallel(axes: Sequence[tuple[str, Range]], rows: Sequence[tuple[Sequence[float], str]], alt: str) -> str:
    """`axes`: (name, range), from left to right; `rows`: (a value an axis, CSS class), drawn in order, so the last lies on top."""
    parts = []
    for i, (name, span) in enumerate(axes):
        x = _x(i, len(axes))
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'<text class="name" x="{x:.1f}" y="{_TOP - 18}" text-anchor="middle">{escape(name)}</text>'
            f'<text class="tick" x="{x:.1f}" y="{_TOP - 4}" text-anchor="middle">{span.high:.3g}</text>'
            f'<text class="tick" x="{x:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">{span.low:.3g}</text>'
        )
    for values, kind in rows:
        points = " ".join(
            f"{_x(i, len(axes)):.1f},{_y(value, span):.1f}" for i, (value, (_, span)) in enumerate(zip(values, axes, strict=True))
        )
        parts.append(f'<polyline class="trial {escape(kind, quote=True)}" points="{points}"/>')
    label = escape(alt, quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>{"".join(parts)}</svg>'


def _x(index: int, count: int) -> float:
    return _SIDE + index * (_WIDTH - 2 * _SIDE) / max(count - 1, 1)


def _y(value: float, span: Range) -> float:
    low, high = (math.log(span.low), math.log(span.high)) if span.log else (span.low, span.high)
    share = ((math.log(value) if span.log else value) - low) / (high - low) if high > low else 0.5
    return _HEIGHT - _BOTTOM - min(max(share, 0.0), 1.0) * (_HEIGHT - _TOP - _BOTTOM)
