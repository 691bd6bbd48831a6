"""Pictures of a run as SVG for one HTML page: curves and matrices, with titles, readable without colour."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from server.reporting.relations import Relations

WIDTH, HEIGHT = 380, 170
LEFT, RIGHT, TOP, BOTTOM = 72, 14, 16, 30
CELL = 52
MOST_NAMES = 24
"""Matrices of more names are drawn without numbers."""


def curve(task: str, metric: str, points: Sequence[tuple[int, float]], best: int | None) -> str:
    """One metric by version; the best version has a ring around it."""
    low, high = min(value for _, value in points), max(value for _, value in points)
    span = high - low or 1.0
    last = max(version for version, _ in points) or 1

    def place(version: int, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * version / last
        y = HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / span
        return round(x, 1), round(y, 1)

    places = [place(*point) for point in points]
    line = " ".join(f"{x},{y}" for x, y in places)
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="2.5" class="dot"/>' for x, y in places)
    rings = [f'<circle cx="{place(*p)[0]}" cy="{place(*p)[1]}" r="6" class="ring"/>' for p in points if p[0] == best]
    said = ", ".join(f"version {version}: {value:.4g}" for version, value in points)
    foot, top = HEIGHT - BOTTOM, TOP
    axes = f'<path d="M{LEFT} {top}V{foot}H{WIDTH - RIGHT}" class="axis"/>'
    labels = [
        _text(LEFT - 6, top + 4, f"{high:.4g}", "end"),
        _text(LEFT - 6, foot, f"{low:.4g}", "end") if high > low else "",
        _text(LEFT, HEIGHT - 12, "0"),
        _text(WIDTH - RIGHT, HEIGHT - 12, str(last), "end"),
        _text((LEFT + WIDTH) // 2, HEIGHT - 12, "version", "middle"),
    ]
    body = f'{axes}<polyline points="{line}" class="line"/>{dots}{"".join(rings)}{"".join(labels)}'
    return _svg(WIDTH, HEIGHT, f"{task}: {metric} by version", said, body)


def matrix(found: Relations) -> str:
    """A cell per pair; its number says what its shade says."""
    side, count = min(CELL, 900 // len(found.names)), len(found.names)
    left = top = 20 + 8 * min(max(map(len, found.names)), 18)
    largest = (
        max((abs(v) for i, row in enumerate(found.matrix) for j, v in enumerate(row) if i != j), default=1.0) or 1.0
    )
    parts = []
    for i, (name, row) in enumerate(zip(found.names, found.matrix, strict=True)):
        middle = side * i + side // 2
        parts.append(_text(left - 6, top + middle + 4, _short(name), "end"))
        at = f"rotate(-90 {left + middle + 4} {top - 6})"
        parts.append(f'<text x="{left + middle + 4}" y="{top - 6}" transform="{at}">{escape(_short(name))}</text>')
        for j, value in enumerate(row):
            x, y, sign = left + side * j, top + side * i, "more" if value >= 0 else "less"
            shade = round(min(abs(value) / largest, 1.0) * 0.6, 3)
            parts.append(
                f'<rect x="{x}" y="{y}" width="{side}" height="{side}" class="{sign}" fill-opacity="{shade}"/>'
            )
            if count <= MOST_NAMES and side >= 34:
                parts.append(_text(x + side // 2, y + side // 2 + 4, found.said(value, 2), "middle"))
    said = "The table below has the same numbers."
    return _svg(left + side * count + 8, top + side * count + 8, found.kind, said, "".join(parts))


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: int, title: str, desc: str, body: str) -> str:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg {size} role="img"><title>{escape(title)}</title><desc>{escape(desc)}</desc>{body}</svg>'
