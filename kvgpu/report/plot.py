"""Plots of lines as SVG. What lies under the pointer is shown by CSS alone, so a page needs no script."""

import html
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from kvgpu.console.printable import printable
from kvgpu.report.axes import Axis

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 12, 42
NUM_COLORS = 8
"""Of lines; the next ones have the same, dashed."""

GREY = -1
"""The color of bounds."""

LINE_OF_TIP, LETTER = 17, 6.6
"""Height of a line, and width of a letter, of what is shown under the pointer."""


class Line(NamedTuple):
    """Points (x, y) in the order of x; `color` is a number of a palette, or `GREY`."""

    label: str
    points: Sequence[tuple[float, float]]
    color: int


def shown(text: str) -> str:
    """Return text as HTML, without anything that a page would obey. O(len(text))."""
    return html.escape(printable(text))


def plot(name: str, title: str, x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """Return a figure: title, names of lines that can be switched off, and the drawing.

    Args:
        name: Of the figure, unlike those of others on the page.
        title: What it shows.
        x, y: Axes.
        lines: At most some dozens. One without a label, which is alone, cannot be switched off.

    O(points * lines).
    """
    lines = [line for line in lines if line.points]
    switches = "".join(
        f'<label><input type="checkbox" id="{name}-{place}" checked>'
        f'<svg class="key" viewBox="0 0 18 8"><path class="{_class(line)}" d="M0 4H18"/></svg>'
        f"{shown(line.label)}</label>"
        for place, line in enumerate(lines)
        if line.label
    )
    rules = "".join(
        f"#{name}:has(#{name}-{place}:not(:checked)) .l{place}{{display:none}}"
        for place, line in enumerate(lines)
        if line.label
    )
    drawn = [_frame(x, y)]
    drawn += [f'<path class="l{place} {_class(line)}" d="{_path(line, x, y)}"/>' for place, line in enumerate(lines)]
    if max((len(line.points) for line in lines), default=0) <= 20:
        drawn += [
            f'<circle class="l{place} {_class(line)}" cx="{_x(x, at):.1f}" cy="{_y(y, value):.1f}" r="3.5"/>'
            for place, line in enumerate(lines)
            for at, value in line.points
        ]
    drawn.append(_bands(x, y, lines))
    return (
        f'<figure id="{name}"><style>{rules}</style><figcaption>{shown(title)}</figcaption>'
        f'<div class="keys">{switches}</div>'
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{shown(title)}">'
        f"{''.join(drawn)}</svg></figure>"
    )


def _class(line: Line) -> str:
    if line.color == GREY:
        return "bound"
    dashed = " dashed" if line.color >= NUM_COLORS else ""
    return f"c{line.color % NUM_COLORS}{dashed}"


def _x(axis: Axis, value: float) -> float:
    return LEFT + axis.place(value) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.place(value) * (HEIGHT - TOP - BOTTOM)


def _path(line: Line, x: Axis, y: Axis) -> str:
    return "M" + "L".join(f"{_x(x, at):.1f} {_y(y, value):.1f}" for at, value in line.points)


def _frame(x: Axis, y: Axis) -> str:
    parts = []
    for value in y.ticks():
        at = _y(y, value)
        parts.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{shown(y.text(value))}</text>')
    for value in x.ticks():
        at = _x(x, value)
        parts.append(f'<path class="axis" d="M{at:.1f} {HEIGHT - BOTTOM}v4"/>')
        anchor = "end" if at > WIDTH - RIGHT - 20 else "middle"
        parts.append(
            f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="{anchor}">{shown(x.text(value))}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{shown(x.label)}</text>')
    parts.append(
        f'<text transform="rotate(-90)" x="{-(TOP + HEIGHT - BOTTOM) / 2}" y="11" text-anchor="middle">'
        f"{shown(y.label)}</text>"
    )
    return "".join(parts)


def _bands(x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    """Return for each x a band that shows all values there while the pointer is in it."""
    values: dict[float, list[tuple[float, Line]]] = {}
    for line in lines:
        for at, value in line.points:
            values.setdefault(at, []).append((value, line))
    places = sorted(values)
    centers = [_x(x, at) for at in places]
    ends = [(a + b) / 2 for a, b in pairwise(centers)]
    begins = [float(LEFT), *ends]
    ends.append(float(WIDTH - RIGHT))
    parts = []
    for at, center, begin, end in zip(places, centers, begins, ends, strict=True):
        parts.append(
            f'<g class="at"><rect x="{begin:.1f}" y="{TOP}" width="{max(end - begin, 1):.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>{_tip(x, y, at, center, values[at])}</g>'
        )
    return "".join(parts)


def _tip(x: Axis, y: Axis, at: float, center: float, values: Sequence[tuple[float, Line]]) -> str:
    ranked = sorted(values, key=lambda item: -item[0])
    rows = [f"{x.label}: {x.text(at)}", *(f"{line.label}  {y.text(value)}" for value, line in ranked)]
    width = LETTER * max(map(len, rows)) + 30
    height = LINE_OF_TIP * len(rows) + 10
    left = center + 10 if center + 10 + width < WIDTH else max(center - 10 - width, 0.0)
    top = max(min(TOP + 4, HEIGHT - height), 0)
    parts = [f'<path class="cross" d="M{center:.1f} {TOP}V{HEIGHT - BOTTOM}"/>']
    parts += [f'<circle class="{_class(line)}" cx="{center:.1f}" cy="{_y(y, v):.1f}" r="4"/>' for v, line in ranked]
    parts.append(f'<rect class="box" x="{left:.1f}" y="{top}" width="{width:.0f}" height="{height}" rx="4"/>')
    for place, row in enumerate(rows):
        baseline = top + LINE_OF_TIP * (place + 1)
        if place:
            line = ranked[place - 1][1]
            parts.append(f'<path class="{_class(line)}" d="M{left + 7:.1f} {baseline - 4}h10"/>')
        parts.append(f'<text x="{left + (22 if place else 8):.1f}" y="{baseline}">{shown(row)}</text>')
    return f'<g class="tip">{"".join(parts)}</g>'
