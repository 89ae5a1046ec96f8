"""A bar chart as SVG: groups of bars on a scale of powers of ten."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

COLOURS = ("#b2182b", "#ef8a62", "#67a9cf", "#2166ac", "#053061")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 960, 420, 60, 50, 60
LOWEST = 0.001


def draw(cells: Mapping[str, Mapping[str, float]], title: str) -> str:
    """Shares (0 to 1) by series and group."""
    groups = list(next(iter(cells.values())))
    step = (WIDTH - LEFT) / len(groups)
    bar = step * 0.8 / len(cells)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="20" font-size="15">{escape(title)}</text>',
    ]
    for share in (0.001, 0.01, 0.1, 1.0):
        y = _y(share)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share:.1%}</text>')
    for number, (series, values) in enumerate(cells.items()):
        colour = COLOURS[number % len(COLOURS)]
        x = LEFT + number * 170
        parts.append(
            f'<rect x="{x}" y="30" width="12" height="12" fill="{colour}"/><text x="{x + 16}" y="40">{escape(series)}</text>'
        )
        for index, group in enumerate(groups):
            y = _y(values[group])
            left = LEFT + index * step + step * 0.1 + number * bar
            parts.append(
                f'<rect x="{left:.1f}" y="{y:.1f}" width="{bar * 0.9:.1f}" height="{_y(LOWEST) - y:.1f}" fill="{colour}">'
                f"<title>{escape(series)}, {escape(group)}: {values[group]:.1%}</title></rect>"
            )
    for index, group in enumerate(groups):
        x = LEFT + (index + 0.5) * step
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{escape(group)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _y(share: float) -> float:
    height = HEIGHT - TOP - BOTTOM
    return TOP + height * (1 - (math.log10(max(share, LOWEST)) - math.log10(LOWEST)) / -math.log10(LOWEST))
