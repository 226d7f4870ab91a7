"""Small pictures drawn as inline SVG: they need no script, follow the page's colours and print sharp.

Colours stand in the page's style sheet, under the class names used here. Lengths are in SVG user units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

Point = tuple[int, float]

WIDTH, HEIGHT = 340, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 26, 40
BAR_WIDTH, BAR_HEIGHT = 100, 12


def curve(points: Sequence[Point], *, marked: Point, word: str, label: str, below: bool = False) -> Markup:
    """A quantity against the epoch, with one of its points marked and its value written there.

    Args:
        points: (epoch, value), in the order of the epochs; at least one.
        marked: the point to mark.
        word: what that point is, such as `best`.
        label: what the quantity is; also what a screen reader says.
        below: write the value below the marked point, for a quantity that falls.
    """
    epochs, values = [epoch for epoch, _ in points], [value for _, value in points]
    ticks = nice_ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]
    first, last = epochs[0], epochs[-1]

    def x(epoch: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (epoch - first) / max(last - first, 1), 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)

    parts = [_level(y(tick), f"{tick:g}") for tick in ticks]
    shown = {int(tick) for tick in nice_ticks(first, last) if first <= tick <= last} | {first}
    parts += [_text(x(epoch), HEIGHT - 20, str(epoch)) for epoch in sorted(shown)]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, "epoch"))
    line = " ".join(f"{x(epoch)},{y(value)}" for epoch, value in points)
    parts.append(Markup('<polyline class="curve" points="{}"/>').format(line))
    across, up = x(marked[0]), y(marked[1])
    parts.append(Markup('<circle class="mark" cx="{}" cy="{}" r="4"/>').format(across, up))
    side, anchor = (8, "start") if marked[0] <= (first + last) / 2 else (-8, "end")
    value = f"{word} {marked[1]:.4g}"
    parts.append(_text(across + side, up + (18 if below else -8), value, anchor=anchor, kind="strong"))
    said = f"{label}: {len(points)} epochs, {word} {marked[1]:.4g} at epoch {marked[0]}"
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, said, Markup("").join(parts)
    )


def bar(interval: Mapping[str, float], limit: float) -> Markup:
    """A bar from 0 to the mean, with a line over the interval.

    Hidden from screen readers: the numbers stand beside it.

    Args:
        interval: `mean`, `low` and `high`, not negative.
        limit: the value at the right end.
    """
    scale = BAR_WIDTH / limit if limit > 0 else 0.0
    mean, low, high = (round(interval[key] * scale, 2) for key in ("mean", "low", "high"))
    shape = Markup('<rect class="fill" x="0" y="2" width="{}" height="8"/>').format(mean)
    return _small(shape if math.isnan(low) else shape + _whisker(low, high))


def reach(interval: Mapping[str, float]) -> float:
    """How far the bar of an interval reaches; a group of too few users has a mean alone."""
    return interval["mean"] if math.isnan(interval["high"]) else interval["high"]


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, that enclose [low, high]."""
    size = max(abs(low), abs(high))
    if size < 1e-12:
        size = 1.0  # nothing to tell apart, and too near 0 to divide
    span = high - low if high - low > 1e-9 * size else size
    digits = math.floor(math.log10(span / count))
    step = next(factor * 10.0**digits for factor in (1, 2, 5, 10) if factor * 10.0**digits >= span / count)
    start, stop = math.floor(low / step), math.ceil(high / step)
    return [round(place * step, 1 - digits) for place in range(start, max(stop, start + 1) + 1)]


def _level(y: float, value: str) -> Markup:
    """A line of the grid, and its value at the left."""
    line = Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, y, y)
    return line + _text(LEFT - 6, y + 4, value, anchor="end")


def _text(x: float, y: float, content: str, *, anchor: str = "middle", kind: str = "") -> Markup:
    """Text of a class that begins, ends or has its middle at x."""
    form = '<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>'
    return Markup(form).format(kind, x, y, anchor, content)


def _whisker(low: float, high: float) -> Markup:
    return Markup('<line class="whisker" x1="{}" x2="{}" y1="6" y2="6"/>').format(low, high)


def _small(content: Markup) -> Markup:
    return Markup(
        '<svg class="bar" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
    ).format(BAR_WIDTH, BAR_HEIGHT, content)
