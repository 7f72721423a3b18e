"""Charts of a training as SVG, for a page or a file. Standard library only: the WebUI's process draws them too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

Point = tuple[int, float]

WIDTH, HEIGHT, VALIDATION_HEIGHT = 760, 300, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 62, 52, 32
_BUCKETS = 320
_SLICES = 96
_ACCENT = "var(--loss-color,#3b82f6)"
_HELD_OUT, _TRAIN, _BAND = "#c026d3", "#0d9488", "#84cc16"  # told apart in both themes, and from a page's accent
_ALARM = "#ef4444"
_CHARACTER = 6.4  # mean width in pixels, for the legend's places
_STYLE = (
    ".lora-loss-slice line,.lora-loss-slice circle{opacity:0}"
    ".lora-loss-slice:hover line{opacity:.35}.lora-loss-slice:hover circle{opacity:1}"
)


class _Axes:
    """From steps and values to pixels, for a plot between `top` and `bottom`."""

    def __init__(
        self,
        steps: tuple[float, float],
        values: tuple[float, float],
        top: float = _TOP,
        bottom: float = HEIGHT - _BOTTOM,
    ) -> None:
        self.steps, self.values, self.top, self.bottom = steps, values, top, bottom

    def x(self, step: float) -> float:
        low, high = self.steps
        return _LEFT + (step - low) / (high - low) * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Clamped, so that a spike leaves through the frame's edge and no further."""
        low, high = self.values
        part = min(1.0, max(0.0, (value - low) / (high - low)))
        return self.bottom - part * (self.bottom - self.top)


def loss_chart(
    losses: Sequence[Point],
    epochs: Sequence[int] = (),
    *,
    train: Sequence[Point] = (),
    held_out: Sequence[Point] = (),
    band: tuple[int, int] | None = None,
) -> str:
    """SVG of (step, loss) pairs in order; epochs: the last step of epoch 1, 2, …

    The thin line is each step's loss, the strong one its moving average. Below them, on a scale of their own, the
    measured curves: (step, loss) of the fixed training pictures and of the held-out ones. band: the first and last
    candidate epoch, shaded. Colours follow the page's text.
    """
    finite, bad = _finite(losses), [step for step, loss in losses if not math.isfinite(loss)]
    train, held_out = _finite(train), _finite(held_out)
    if not finite:
        return _svg(
            "No loss yet",
            [_empty("Every loss so far is not a number" if bad else "The loss curve begins with the first step")],
        )
    average = smoothed(finite)
    measured = [*train, *held_out]
    axes = _axes(finite, average, [*bad, *epochs, *(step for step, _ in measured)])
    plots = [axes]
    if measured:
        plots.append(_below(axes, measured))
    shaded = _band_steps(band, epochs)
    keys = [(_swatch(_ACCENT), "loss, averaged"), (_thin_swatch(), "loss of each step")]
    last_step, last = average[-1]
    parts = [
        *(_shade(plot, shaded, band) for plot in plots),
        *(_levels(plot) for plot in plots),
        _steps_below(plots[-1]),
        *(_epoch_marks(plot, epochs, plot is axes) for plot in plots),
        _line(axes, thinned(finite), "stroke:currentColor;stroke-width:1;opacity:.28"),
        _line(axes, _every(average, 2 * _BUCKETS), f"stroke:{_ACCENT};stroke-width:2.25"),
        _last_value(axes, last_step, last, _ACCENT),
        _bad_marks(axes, bad),
    ]
    if measured:
        parts += _measured(plots[-1], train, held_out)
    if shaded and band:
        keys.append((_band_swatch(), f"candidates: epochs {band[0]}–{band[1]} (estimate)"))
    parts += [_legend(keys, 16), _slices(axes, finite, average)]
    height = HEIGHT + (VALIDATION_HEIGHT if measured else 0)
    return _svg(f"Loss: average {_number(last)} at step {last_step:,}", parts, height)


def rate_chart(points: Sequence[Point], plateau: float | None = None) -> str:
    """SVG of (step, d×lr) in order: the rate that an adaptive optimizer uses; plateau: where it comes to rest."""
    finite = _finite(points)
    if not finite:
        return _svg("No rate yet", [_empty("The curve of the learning rate begins with the first step")])
    step, rate = finite[-1]
    top = max([value for _, value in finite] + ([plateau] if plateau else []))
    first, last = finite[0][0], max(step, finite[0][0] + 1)
    axes = _Axes((first, last), (0.0, top * 1.08 or 1.0))
    keys = [(_swatch(_ACCENT), "learning rate in use (d × lr)")]
    parts = [_levels(axes), _steps_below(axes), _line(axes, thinned(finite), f"stroke:{_ACCENT};stroke-width:2.25")]
    if plateau:
        y = axes.y(plateau)
        begun = next((s for s, value in finite if value >= 0.99 * plateau), step)
        parts.append(_rule(_LEFT, y, WIDTH - _RIGHT, y, f"stroke:{_HELD_OUT};stroke-width:1.5;stroke-dasharray:6 4"))
        parts.append(_dot(axes, begun, plateau, _HELD_OUT, f"step {begun:,}: the plateau is reached"))
        keys.append((_dashed_swatch(_HELD_OUT), f"plateau {short(plateau)}, reached at step {begun:,} (estimate)"))
    else:
        parts.append(_last_value(axes, step, rate, _ACCENT, short(rate)))
    return _svg(f"Learning rate {short(rate)} at step {step:,}", [*parts, _legend(keys, 16)])


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


def short(rate: float) -> str:
    """A learning rate as people write it: 0.00012 is 1.2e-4."""
    if not rate or 0.01 <= abs(rate) < 1000:
        return f"{rate:.3g}"
    mantissa, exponent = f"{rate:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _finite(points: Iterable[Point]) -> list[Point]:
    return [(step, value) for step, value in points if math.isfinite(value)]


# Ranges


def _axes(points: Sequence[Point], average: Sequence[Point], steps: Sequence[int]) -> _Axes:
    """The whole average, and all but the outermost hundredth of the single losses."""
    ordered = sorted(loss for _, loss in points)
    margin = len(ordered) // 100
    low = min(ordered[margin], min(loss for _, loss in average))
    high = max(ordered[-1 - margin], max(loss for _, loss in average))
    first, last = min(points[0][0], *steps, points[-1][0]), max(points[-1][0], *steps, points[0][0] + 1)
    return _Axes((first, last), _padded(low, high))


def _below(axes: _Axes, measured: Sequence[Point]) -> _Axes:
    """A second plot over the same steps. Its own scale shows a rise of a hundredth, which the steps' noise hides."""
    values = [value for _, value in measured]
    top = HEIGHT + 10
    return _Axes(axes.steps, _padded(min(values), max(values)), top, HEIGHT + VALIDATION_HEIGHT - _BOTTOM)


def _padded(low: float, high: float) -> tuple[float, float]:
    flat = high - low < 1e-6 * max(abs(high), abs(low))
    pad = (abs(high) * 0.1 if flat else (high - low) * 0.06) or 0.1
    floor = 0.0 if low >= 0 else low - pad
    return max(floor, low - pad), high + pad


def _band_steps(band: tuple[int, int] | None, epochs: Sequence[int]) -> tuple[int, int] | None:
    """The candidate epochs' last steps; None where the epochs' ends aren't known."""
    if band is None or not 1 <= band[0] <= band[1] <= len(epochs):
        return None
    return epochs[band[0] - 1], epochs[band[1] - 1]


# Parts


def _svg(title: str, parts: Sequence[str], height: int = HEIGHT) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="100%" role="img" '
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


def _levels(axes: _Axes) -> str:
    """Level lines with their numbers on the left, and the plot's base line."""
    parts = []
    levels = ticks(*axes.values, 5 if axes.bottom - axes.top > 180 else 4)
    digits = _digits(levels)
    for level in levels:
        y = axes.y(level)
        label = f"{level:.{digits}f}" if digits <= 4 else short(level)
        parts.append(_rule(_LEFT, y, WIDTH - _RIGHT, y, "opacity:.13"))
        parts.append(_text(_LEFT - 8, y + 4, label, "text-anchor:end;opacity:.7"))
    parts.append(_rule(_LEFT, axes.bottom, WIDTH - _RIGHT, axes.bottom, "opacity:.4"))
    return "".join(parts)


def _steps_below(axes: _Axes) -> str:
    """Numbers of steps under a plot."""
    parts = []
    for step in ticks(*axes.steps, 8, smallest=1):
        parts.append(_rule(axes.x(step), axes.bottom, axes.x(step), axes.bottom + 4, "opacity:.4"))
        parts.append(_text(axes.x(step), axes.bottom + 18, f"{round(step):,}", "text-anchor:middle;opacity:.7"))
    parts.append(_text(WIDTH - 6, axes.bottom + 18, "step", "text-anchor:end;opacity:.7"))
    return "".join(parts)


def _shade(axes: _Axes, steps: tuple[int, int] | None, band: tuple[int, int] | None) -> str:
    """The candidate epochs as a region; at least a few pixels wide."""
    if steps is None or band is None:
        return ""
    left, right = axes.x(steps[0]), axes.x(steps[1])
    left, right = max(_LEFT, left - 3), min(WIDTH - _RIGHT, right + 3)
    return (
        f'<rect x="{left:.1f}" y="{axes.top:.1f}" width="{right - left:.1f}" height="{axes.bottom - axes.top:.1f}" '
        f'style="fill:{_BAND};opacity:.2"><title>candidates: epochs {band[0]} to {band[1]}</title></rect>'
    )


def _epoch_marks(axes: _Axes, epochs: Sequence[int], numbered: bool) -> str:
    """A dashed line at each epoch's end; numbers only as close as they can be read."""
    if not epochs:
        return ""
    spacing = (axes.x(epochs[-1]) - axes.x(axes.steps[0])) / len(epochs)
    every = max(1, math.ceil((10 + 8 * len(str(len(epochs)))) / max(spacing, 0.1)))
    shown = [number for number in range(every, len(epochs), every) if len(epochs) - number >= every] + [len(epochs)]
    parts = []
    if numbered:
        parts.append(_text(_LEFT - 8, axes.top - 6, "epoch", "text-anchor:end;font-size:11px;opacity:.7"))
    for number, step in ((number, epochs[number - 1]) for number in shown):
        x = axes.x(step)
        line = _rule(x, axes.top, x, axes.bottom, "stroke-dasharray:2 4;opacity:.45")
        label = _text(x, axes.top - 6, str(number), "text-anchor:middle;font-size:11px;opacity:.7") if numbered else ""
        parts.append(f"<g>{line}{label}<title>epoch {number} ends at step {step:,}</title></g>")
    return "".join(parts)


def _line(axes: _Axes, points: Sequence[Point], style: str) -> str:
    places = " ".join(f"{axes.x(step):.1f},{axes.y(value):.1f}" for step, value in points)
    return f'<polyline points="{places}" style="{style};stroke-linejoin:round;stroke-linecap:round"/>'


def _last_value(axes: _Axes, step: int, value: float, colour: str, text: str = "") -> str:
    x, y = axes.x(step), axes.y(value)
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" style="fill:{colour}"/>'
    return dot + _text(x + 8, y + 4, text or _number(value), "font-weight:600")


def _dot(axes: _Axes, step: int, value: float, colour: str, title: str) -> str:
    return (
        f'<circle cx="{axes.x(step):.1f}" cy="{axes.y(value):.1f}" r="4" style="fill:{colour}">'
        f"<title>{escape(title)}</title></circle>"
    )


def _measured(axes: _Axes, train: Sequence[Point], held_out: Sequence[Point]) -> list[str]:
    """Both measured curves with their last values and a legend over them; held-out is solid, training dashed."""
    parts, ends = [], []
    curves = ((train, _TRAIN, "training pictures", ";stroke-dasharray:6 3"), (held_out, _HELD_OUT, "held out", ""))
    for points, colour, name, dash in curves:
        if not points:
            continue
        parts.append(_line(axes, _every(points, 2 * _BUCKETS), f"stroke:{colour};stroke-width:2{dash}"))
        if len(points) <= _SLICES:
            parts += [_dot(axes, s, v, colour, f"step {s:,}: {name} {_number(v)}") for s, v in points]
        ends.append((axes.x(points[-1][0]) + 8, axes.y(points[-1][1]) + 4, _number(points[-1][1])))
    if len(ends) == 2 and abs(ends[0][1] - ends[1][1]) < 13:  # their numbers would overlap
        upper = min(range(2), key=lambda i: ends[i][1])
        middle = min(axes.bottom - 4, max(axes.top + 10, (ends[0][1] + ends[1][1]) / 2))
        ends = [(x, middle + (-6.5 if i == upper else 6.5), text) for i, (x, _, text) in enumerate(ends)]
    parts += [_text(x, y, text, "font-weight:600") for x, y, text in ends]
    keys = []
    if held_out:
        keys.append((_swatch(_HELD_OUT), "held-out pictures, measured"))
    if train:
        keys.append((_dashed_swatch(_TRAIN), "training pictures, measured"))
    return [*parts, _legend(keys, axes.top - 14)]


def _bad_marks(axes: _Axes, steps: Sequence[int]) -> str:
    """Red marks where the loss was not a number."""
    marks = []
    for step in _every(list(steps), _SLICES):
        x = axes.x(step)
        rule = _rule(x, axes.bottom - 10, x, axes.bottom, f"stroke:{_ALARM};stroke-width:3")
        marks.append(f"<g>{rule}<title>step {step:,}: the loss is not a number</title></g>")
    return "".join(marks)


def _swatch(colour: str) -> str:
    return f"stroke:{colour};stroke-width:2.25"


def _dashed_swatch(colour: str) -> str:
    return f"stroke:{colour};stroke-width:2;stroke-dasharray:6 3"


def _thin_swatch() -> str:
    return "opacity:.4"


def _band_swatch() -> str:
    return f"stroke:{_BAND};stroke-width:10;opacity:.35"


def _legend(keys: Sequence[tuple[str, str]], y: float) -> str:
    """Swatches (their line's style) and their words in a row at height `y`, where no curve runs."""
    parts, x = [], float(_LEFT)
    for style, words in keys:
        parts.append(_rule(x, y - 4, x + 18, y - 4, style))
        parts.append(_text(x + 24, y, words, "opacity:.8"))
        x += 24 + _CHARACTER * len(words) + 18
    return "".join(parts)


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
    height, parts = axes.bottom - axes.top, []
    for place, index in enumerate(picked):
        (step, loss), (_, mean), x = points[index], average[index], centres[place]
        parts.append(
            f'<g class="lora-loss-slice"><rect x="{edges[place]:.1f}" y="{axes.top}" '
            f'width="{edges[place + 1] - edges[place]:.1f}" height="{height}" style="fill:transparent"/>'
            f"{_rule(x, axes.top, x, axes.bottom, '')}"
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
