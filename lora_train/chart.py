"""The loss curve as SVG, for a page or a file. Standard library only, since the WebUI's process draws it too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

Point = tuple[int, float]

WIDTH, HEIGHT = 760, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 62, 52, 32
_BUCKETS = 320
_SLICES = 96
_ACCENT = "var(--loss-color,#3b82f6)"
_ALARM = "#ef4444"
_STYLE = (
    ".lora-loss-slice line,.lora-loss-slice circle{opacity:0}"
    ".lora-loss-slice:hover line{opacity:.35}.lora-loss-slice:hover circle{opacity:1}"
)


class _Axes:
    """From steps and losses to pixels."""

    def __init__(self, steps: tuple[float, float], losses: tuple[float, float]) -> None:
        self.steps, self.losses = steps, losses

    def x(self, step: float) -> float:
        low, high = self.steps
        return _LEFT + (step - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, loss: float) -> float:
        """Clamped, so that a spike leaves through the frame's edge and no further."""
        low, high = self.losses
        part = min(1.0, max(0.0, (loss - low) / (high - low)))
        return HEIGHT - _BOTTOM - part * (HEIGHT - _TOP - _BOTTOM)


def loss_chart(losses: Sequence[Point], epochs: Sequence[int] = ()) -> str:
    """SVG of (step, loss) pairs in order; epochs: the last step of epoch 1, 2, …

    The thin line is each step's loss, the strong one its moving average. Colours follow the page's text.
    """
    finite = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    bad = [step for step, loss in losses if not math.isfinite(loss)]
    if not finite:
        return _svg(
            "No loss yet",
            [_empty("Every loss so far is not a number" if bad else "The loss curve begins with the first step")],
        )
    average = smoothed(finite)
    axes = _axes(finite, average, [*bad, *epochs])
    last_step, last = average[-1]
    parts = [
        _grid(axes),
        _epoch_marks(axes, epochs),
        _line(axes, thinned(finite), "stroke:currentColor;stroke-width:1;opacity:.28"),
        _line(axes, _every(average, 2 * _BUCKETS), f"stroke:{_ACCENT};stroke-width:2.25"),
        _last_value(axes, last_step, last),
        _bad_marks(axes, bad),
        _legend(),
        _slices(axes, finite, average),
    ]
    return _svg(f"Loss: average {_number(last)} at step {last_step:,}", parts)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Exponential moving average, corrected for its start; its memory is a twentieth of the series, 5 to 200 steps."""
    beta = 1 - 1 / max(5.0, min(200.0, len(points) / 20))
    total, weight, result = 0.0, 0.0, []
    for step, loss in points:
        total, weight = beta * total + (1 - beta) * loss, beta * weight + (1 - beta)
        result.append((step, total / weight))
    return result


def thinned(points: Sequence[Point], buckets: int = _BUCKETS) -> list[Point]:
    """At most two points a bucket, its lowest and its highest, so that no spike is lost."""
    if len(points) <= 2 * buckets:
        return list(points)
    kept: list[Point] = []
    for index in range(buckets):
        part = points[index * len(points) // buckets : (index + 1) * len(points) // buckets]
        ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


def ticks(low: float, high: float, count: int, smallest: float = 0.0) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) that cover low..high from inside."""
    rough = max((high - low) / max(1, count), smallest, 1e-12)
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(smallest, next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _axes(points: Sequence[Point], average: Sequence[Point], steps: Sequence[int]) -> _Axes:
    """The whole average, and all but the outermost hundredth of the single losses."""
    ordered = sorted(loss for _, loss in points)
    margin = len(ordered) // 100
    low = min(ordered[margin], min(loss for _, loss in average))
    high = max(ordered[-1 - margin], max(loss for _, loss in average))
    flat = high - low < 1e-6 * max(abs(high), abs(low))
    pad = (abs(high) * 0.1 if flat else (high - low) * 0.06) or 0.1
    first, last = min(points[0][0], *steps, points[-1][0]), max(points[-1][0], *steps, points[0][0] + 1)
    floor = 0.0 if low >= 0 else low - pad
    return _Axes((first, last), (max(floor, low - pad), high + pad))


def _svg(title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" role="img" '
        f'aria-label="{escape(title, {chr(34): "&quot;"})}" fill="none" '
        f'style="max-width:{2 * WIDTH}px;font:12px system-ui,sans-serif">'
        f"<style>{_STYLE}</style>{''.join(parts)}</svg>"
    )


def _empty(text: str) -> str:
    frame = (
        f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8" stroke="currentColor" opacity=".15"/>'
    )
    return frame + _text(WIDTH / 2, HEIGHT / 2, text, "text-anchor:middle;font-size:14px;opacity:.65")


def _text(x: float, y: float, text: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" style="fill:currentColor;{style}">{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" style="stroke:currentColor;{style}"/>'


def _grid(axes: _Axes) -> str:
    """Level lines with their numbers on the left, steps below."""
    parts = []
    levels = ticks(*axes.losses, 5)
    digits = _digits(levels)
    for level in levels:
        y = axes.y(level)
        parts.append(_rule(_LEFT, y, WIDTH - _RIGHT, y, "opacity:.13"))
        parts.append(_text(_LEFT - 8, y + 4, f"{level:.{digits}f}", "text-anchor:end;opacity:.7"))
    bottom = HEIGHT - _BOTTOM
    for step in ticks(*axes.steps, 8, smallest=1):
        parts.append(_rule(axes.x(step), bottom, axes.x(step), bottom + 4, "opacity:.4"))
        parts.append(_text(axes.x(step), bottom + 18, f"{round(step):,}", "text-anchor:middle;opacity:.7"))
    parts.append(_rule(_LEFT, bottom, WIDTH - _RIGHT, bottom, "opacity:.4"))
    parts.append(_text(WIDTH - 6, bottom + 18, "step", "text-anchor:end;opacity:.7"))
    return "".join(parts)


def _epoch_marks(axes: _Axes, epochs: Sequence[int]) -> str:
    """A dashed line at each epoch's end; numbers only as close as they can be read."""
    if not epochs:
        return ""
    spacing = (axes.x(epochs[-1]) - axes.x(axes.steps[0])) / len(epochs)
    every = max(1, math.ceil((10 + 8 * len(str(len(epochs)))) / max(spacing, 0.1)))
    shown = [number for number in range(every, len(epochs), every) if len(epochs) - number >= every] + [len(epochs)]
    parts = [_text(_LEFT - 8, _TOP - 6, "epoch", "text-anchor:end;font-size:11px;opacity:.7")]
    for number, step in ((number, epochs[number - 1]) for number in shown):
        x = axes.x(step)
        line = _rule(x, _TOP, x, HEIGHT - _BOTTOM, "stroke-dasharray:2 4;opacity:.45")
        label = _text(x, _TOP - 6, str(number), "text-anchor:middle;font-size:11px;opacity:.7")
        parts.append(f"<g>{line}{label}<title>epoch {number} ends at step {step:,}</title></g>")
    return "".join(parts)


def _line(axes: _Axes, points: Sequence[Point], style: str) -> str:
    places = " ".join(f"{axes.x(step):.1f},{axes.y(loss):.1f}" for step, loss in points)
    return f'<polyline points="{places}" style="{style};stroke-linejoin:round;stroke-linecap:round"/>'


def _last_value(axes: _Axes, step: int, loss: float) -> str:
    x, y = axes.x(step), axes.y(loss)
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill:{_ACCENT}"/>'
    return dot + _text(x + 8, y + 4, _number(loss), "font-weight:600")


def _bad_marks(axes: _Axes, steps: Sequence[int]) -> str:
    """Red marks where the loss was not a number."""
    bottom = HEIGHT - _BOTTOM
    marks = []
    for step in _every(list(steps), _SLICES):
        rule = _rule(axes.x(step), bottom - 10, axes.x(step), bottom, f"stroke:{_ALARM};stroke-width:3")
        marks.append(f"<g>{rule}<title>step {step:,}: the loss is not a number</title></g>")
    return "".join(marks)


def _legend() -> str:
    """Above the plot, where no curve runs."""
    y = 16
    average = (
        f'<line x1="{_LEFT}" y1="{y - 4}" x2="{_LEFT + 18}" y2="{y - 4}" style="stroke:{_ACCENT};stroke-width:2.25"/>'
    )
    single = _rule(_LEFT + 138, y - 4, _LEFT + 156, y - 4, "opacity:.4")
    words = _text(_LEFT + 24, y, "loss, averaged", "opacity:.8") + _text(
        _LEFT + 162, y, "loss of each step", "opacity:.8"
    )
    return average + single + words


def _slices(axes: _Axes, points: Sequence[Point], average: Sequence[Point]) -> str:
    """Upright strips over the curve; hovering one shows its step and values."""
    count = min(len(points), _SLICES)
    picked = sorted({round(index * (len(points) - 1) / max(1, count - 1)) for index in range(count)})
    centres = [axes.x(points[index][0]) for index in picked]
    edges = [
        _LEFT,
        *((a + b) / 2 for a, b in pairwise(centres)),
        max(centres[-1], WIDTH - _RIGHT),
    ]
    height = HEIGHT - _TOP - _BOTTOM
    parts = []
    for place, index in enumerate(picked):
        (step, loss), (_, mean), x = points[index], average[index], centres[place]
        parts.append(
            f'<g class="lora-loss-slice"><rect x="{edges[place]:.1f}" y="{_TOP}" '
            f'width="{edges[place + 1] - edges[place]:.1f}" height="{height}" style="fill:transparent"/>'
            f"{_rule(x, _TOP, x, HEIGHT - _BOTTOM, '')}"
            f'<circle cx="{x:.1f}" cy="{axes.y(mean):.1f}" r="3.5" style="fill:{_ACCENT}"/>'
            f"<title>step {step:,}\nloss {_number(loss)}\naverage {_number(mean)}</title></g>"
        )
    return "".join(parts)


def _every(items: Sequence, most: int) -> list:
    """The items, thinned evenly to `most`, the first and last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def _digits(levels: Sequence[float]) -> int:
    gap = levels[1] - levels[0] if len(levels) > 1 else abs(levels[0]) if levels else 1.0
    return max(0, min(8, -math.floor(math.log10(gap or 1.0) + 1e-9)))


def _number(loss: float) -> str:
    return f"{loss:.4f}" if 0.001 <= abs(loss) < 1000 else f"{loss:.3g}"
