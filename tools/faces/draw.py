"""Drawn heads and figures by chance, and where their faces are: what the detector of drawn faces is trained on.

Lengths of a head are in widths of its face: x from -0.5 to 0.5, y from -0.5 (below the hair line) to 0.55 (the chin).
"""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]
Face = tuple[float, float, float]
"""Middle x, middle y and side of the square from the brows to the chin, in pixels."""


def hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, min(1.0, max(0.0, saturation)), min(1.0, max(0.0, value)))
    return round(red * 255), round(green * 255), round(blue * 255)


def any_colour(rng: random.Random) -> Colour:
    return hsv(rng.random(), rng.random() ** 1.3, rng.uniform(0.08, 1))


def darker(colour: Colour, factor: float) -> Colour:
    red, green, blue = (max(0, min(255, round(channel * factor))) for channel in colour)
    return red, green, blue


class Head:
    """One head: how it is turned, what it wears, and its strokes."""

    def __init__(self, canvas: Image.Image, rng: random.Random, x: float, y: float, width: float) -> None:
        self.draw, self.rng = ImageDraw.Draw(canvas), rng
        self.x, self.y, self.width = x, y, width
        self.tilt = rng.gauss(0, 0.18) if rng.random() < 0.85 else rng.uniform(-0.6, 0.6)
        self.yaw = rng.gauss(0, 0.25) if rng.random() < 0.7 else rng.choice((-1, 1)) * rng.uniform(0.3, 0.7)
        self.pitch = rng.gauss(0, 0.05)
        self.tall = rng.uniform(0.9, 1.08)
        hue = rng.gauss(0.065, 0.02)
        pale = rng.random()
        self.skin = (
            hsv(hue, rng.uniform(0.05, 0.32), rng.uniform(0.9, 1))
            if pale < 0.8
            else hsv(hue, rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.9))
        )
        self.hair = rng.choice(
            (
                lambda: hsv(rng.random(), rng.uniform(0.2, 0.85), rng.uniform(0.35, 1)),
                lambda: hsv(rng.uniform(0.04, 0.14), rng.uniform(0.3, 0.8), rng.uniform(0.2, 1)),
                lambda: hsv(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.05, 0.3)),
                lambda: hsv(rng.random(), rng.uniform(0, 0.15), rng.uniform(0.75, 1)),
            )
        )()
        self.hair_shade = darker(self.hair, rng.uniform(0.55, 0.9))
        lined = rng.random()
        dark = darker(self.skin, rng.uniform(0.1, 0.45))
        self.line = (rng.randrange(50),) * 3 if lined < 0.5 else dark
        self.stroke = max(1, round(width * rng.choice((0.012, 0.02, 0.03, 0.045))))
        self.outlined = rng.random() < 0.85
        self.closed = rng.random() < 0.13

    def at(self, *points: Point, flat: float = 0.0) -> list[Point]:
        """Points of the head in pixels; flat: how much they follow the turn of the head (features: 1)."""
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        moved = []
        for px, py in points:
            if flat:
                px = px * (1 - 0.18 * abs(self.yaw) * flat) + 0.3 * self.yaw * flat - 0.12 * self.yaw * px * px * flat
                py = py + self.pitch * flat
            py *= self.tall
            moved.append((self.x + self.width * (px * cos - py * sin), self.y + self.width * (px * sin + py * cos)))
        return moved

    def shape(
        self, points: Sequence[Point], fill: Colour | None, flat: float = 0.0, line: Colour | None = None
    ) -> None:
        placed = self.at(*points, flat=flat)
        if fill is not None:
            self.draw.polygon(placed, fill)
        if line is not None:
            self.draw.line([*placed, placed[0]], line, self.stroke, joint="curve")

    def path(self, points: Sequence[Point], colour: Colour, thick: float = 1.0, flat: float = 1.0) -> None:
        self.draw.line(self.at(*points, flat=flat), colour, max(1, round(self.stroke * thick)), joint="curve")

    def outline(self, colour: Colour) -> Colour | None:
        return darker(colour, 0.35) if self.outlined else None

    # Parts, from the back to the front

    def back_hair(self) -> None:
        rng = self.rng
        long, wide, crown = rng.choice((0.5, 0.7, 1.0, 1.8, 2.8)), rng.uniform(0.62, 0.85), rng.uniform(0.8, 1.05)
        points = [(wide * math.cos(a), crown * math.sin(a)) for a in np.linspace(math.pi, 2 * math.pi, 15)]
        jagged = np.linspace(wide * rng.uniform(0.7, 1.3), -wide * rng.uniform(0.7, 1.3), rng.randrange(4, 14))
        points += [(px, long * rng.uniform(0.8, 1.05)) for px in jagged]
        self.shape(points, self.hair_shade, 0.25, self.outline(self.hair))
        for side in (-1, 1):
            if rng.random() < 0.2:  # a tail at that side
                out, low = rng.uniform(0.9, 1.5), rng.uniform(0.6, 2.8)
                tail = [(0.5, -0.7), (out, -0.7), (out + rng.uniform(0, 0.5), low / 2), (out, low), (0.7, 0)]
                self.shape([(side * px, py) for px, py in tail], self.hair, 0.2, self.outline(self.hair))
        if rng.random() < 0.15:  # ears of an animal, horns, ribbons
            kind = rng.choice((self.hair, any_colour(rng)))
            for side in (-1, 1):
                ear = [(0.25, -0.8), (rng.uniform(0.45, 0.7), -rng.uniform(1.2, 1.7)), (0.72, -0.6)]
                self.shape([(side * px, py) for px, py in ear], kind, 0.2, self.outline(kind))

    def skull(self) -> None:
        rng = self.rng
        chin, cheek = rng.uniform(0.06, 0.2), rng.uniform(0.1, 0.3)
        half = [(0.47, -0.35), (0.5, -0.05), (0.47, cheek), (0.3, 0.4), (chin, 0.53)]
        arch = [(0.47 * math.cos(a), -0.35 + 0.4 * math.sin(a)) for a in np.linspace(math.pi, 2 * math.pi, 9)]
        points = [*arch, *half[1:], (0, 0.56), *[(-px, py) for px, py in reversed(half[1:])]]
        for side in (-1, 1):
            if rng.random() < 0.5:
                ear = [(side * px, py) for px, py in ((0.46, -0.1), (0.58, -0.12), (0.55, 0.12), (0.46, 0.16))]
                self.shape(ear, self.skin, 0.3, self.outline(self.skin))
        self.shape(points, self.skin, 0.45, self.outline(self.skin))
        if rng.random() < 0.5:  # the shadow of the hair
            shade = darker(self.skin, rng.uniform(0.78, 0.95))
            self.shape([(-0.46, -0.4), (0.46, -0.4), (0.46, rng.uniform(-0.3, -0.1)), (-0.46, -0.2)], shade, 0.45)
        if rng.random() < 0.35:
            blush = hsv(0.98, rng.uniform(0.2, 0.5), 1)
            for side in (-1, 1):
                self.blot(side * 0.3, 0.22, 0.09, 0.05, blush)

    def blot(self, px: float, py: float, rx: float, ry: float, fill: Colour, flat: float = 1.0) -> None:
        ring = [(px + rx * math.cos(a), py + ry * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 17)[:-1]]
        self.shape(ring, fill, flat)

    def eyes(self) -> None:
        rng = self.rng
        apart, level = rng.uniform(0.2, 0.28), rng.uniform(-0.05, 0.14)
        rx, ry = rng.uniform(0.09, 0.15), rng.uniform(0.08, 0.19)
        hue, vivid = rng.random(), rng.uniform(0.2, 1)
        iris, pupil = hsv(hue, vivid, rng.uniform(0.35, 1)), hsv(hue, 0.5, rng.uniform(0, 0.3))
        look = rng.gauss(0, 0.02)
        lash, white = rng.uniform(1.2, 3.2), rng.random() < 0.85
        brows, slant = rng.random() < 0.8, rng.gauss(0, 0.04)
        smiling = rng.choice((-1, 1))
        simple = rng.random() < 0.12  # two dark dots or ovals
        winks = rng.choice((-1, 1)) if rng.random() < 0.06 else 0
        for side in (-1, 1):
            mid = side * apart
            narrow = 1 - 0.35 * max(0.0, side * self.yaw)
            wide = rx * narrow
            if self.closed or side == winks:
                arc = [
                    (mid + wide * 1.1 * u, level + smiling * ry * 0.5 * (u * u - 0.5)) for u in (-1, -0.5, 0, 0.5, 1)
                ]
                self.path(arc, self.line, lash)
            elif simple:
                self.blot(mid, level, min(wide, 0.07), ry * 0.7, self.line)
            else:
                if white:
                    self.blot(mid, level, wide * 1.15, ry * 0.95, (255, 255, 255) if rng.random() < 0.9 else self.skin)
                self.blot(mid + look, level + 0.01, wide * 0.85, ry, darker(iris, 0.55))
                self.blot(mid + look, level + ry * 0.25, wide * 0.75, ry * 0.7, iris)
                self.blot(mid + look, level, wide * 0.4, ry * 0.5, pupil)
                if rng.random() < 0.85:
                    self.blot(mid + look - 0.03, level - ry * 0.45, wide * 0.28, ry * 0.25, (255, 255, 255))
                top = [
                    (mid + wide * 1.25 * u, level - ry * (0.95 - 0.4 * u * u) + side * slant * u)
                    for u in (-1, -0.5, 0, 0.5, 1)
                ]
                self.path(top, self.line, lash)
                if rng.random() < 0.5:
                    low = [(mid + wide * 0.8 * u, level + ry * (1 - 0.15 * u * u)) for u in (-1, 0, 1)]
                    self.path(low, self.line, 0.7)
            if brows:
                high = level - ry - rng.uniform(0.06, 0.12)
                arc = [(mid + 0.13 * u, high - 0.03 * (1 - u * u) + side * slant * u) for u in (-1, 0, 1)]
                self.path(arc, rng.choice((self.line, darker(self.hair, 0.5))), rng.uniform(0.7, 2.2))
        if rng.random() < 0.12:  # glasses
            frame = rng.choice((self.line, any_colour(rng)))
            for side in (-1, 1):
                ring = [(side * apart + 0.2 * math.cos(a), level + 0.17 * math.sin(a)) for a in np.linspace(0, 6.3, 17)]
                self.path(ring, frame, 1.2)
            self.path([(-apart + 0.2, level), (apart - 0.2, level)], frame, 1.2)

    def mouth(self) -> None:
        rng = self.rng
        if rng.random() < 0.7:
            tip = (rng.gauss(0, 0.01), rng.uniform(0.18, 0.27))
            self.path([tip, (tip[0] + 0.02, tip[1] + 0.03)], self.line, 0.8)
        level, wide = rng.uniform(0.34, 0.42), rng.uniform(0.04, 0.16)
        kind = rng.random()
        if kind < 0.55:
            bow = rng.uniform(-0.04, 0.06)
            self.path(
                [(wide * u, level - bow * u * u) for u in (-1, -0.5, 0, 0.5, 1)], self.line, rng.uniform(0.6, 1.3)
            )
        elif kind < 0.92:
            high = rng.uniform(0.04, 0.12)
            inner = hsv(rng.uniform(-0.03, 0.03), rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.95))
            self.shape(
                [(-wide, level), (wide, level), (wide * 0.5, level + high), (-wide * 0.5, level + high)], inner, 1
            )
            if self.outlined:
                self.path([(-wide, level), (wide, level)], self.line)

    def fringe(self) -> None:
        rng = self.rng
        low, count, part = rng.uniform(-0.25, 0.05), rng.randrange(3, 9), rng.uniform(-0.4, 0.4)
        arch = [
            (0.56 * math.cos(a), -0.3 + rng.uniform(0.5, 0.62) * math.sin(a))
            for a in np.linspace(math.pi, 2 * math.pi, 11)
        ]
        teeth: list[Point] = []
        style = rng.random()
        for number, px in enumerate(np.linspace(0.55, -0.55, 2 * count + 1)):
            open_here = style < 0.35 and abs(px - part) < 0.2
            tip = low + 0.1 * abs(px) + rng.uniform(-0.08, 0.08)
            root = -0.45 + 0.2 * abs(px)
            if style > 0.85:  # cut straight
                teeth.append((px, low - 0.05))
            else:
                teeth.append((px, root if number % 2 == 0 or open_here else tip))
        self.shape([*arch, *teeth], self.hair, 0.45, self.outline(self.hair))
        for side in (-1, 1):
            if rng.random() < 0.75:  # a lock over the cheek
                reach, inner = rng.uniform(0.1, 1.1), rng.uniform(0.32, 0.46)
                lock = [
                    (0.6, -0.5),
                    (inner, -0.35),
                    (inner + 0.02, reach * 0.6),
                    (rng.uniform(0.4, 0.55), reach),
                    (0.64, reach * 0.5),
                ]
                self.shape([(side * px, py) for px, py in lock], self.hair, 0.4, self.outline(self.hair))
        if rng.random() < 0.1:  # an eye is hidden
            side = rng.choice((-1, 1))
            self.shape(
                [(side * px, py) for px, py in ((0.0, -0.6), (0.55, -0.5), (0.5, 0.3), (0.2, 0.2))], self.hair, 0.5
            )
        if rng.random() < 0.6:
            shine = darker(self.hair, rng.uniform(1.1, 1.6))
            ring = [(0.42 * u, -0.6 + 0.12 * u * u + rng.uniform(-0.03, 0.03)) for u in np.linspace(-1, 1, 7)]
            self.path(ring, shine, rng.uniform(1.5, 4), 0.4)
        for _ in range(rng.randrange(5)):
            px = rng.uniform(-0.5, 0.5)
            self.path([(px * 0.6, -0.85), (px, -0.3 + 0.2 * abs(px))], self.hair_shade, 0.7, 0.4)

    def hat(self) -> None:
        rng = self.rng
        if rng.random() > 0.14:
            return
        colour = any_colour(rng)
        high = rng.uniform(0.5, 0.9)
        crown = [(0.62 * math.cos(a), -0.42 + high * math.sin(a)) for a in np.linspace(math.pi, 2 * math.pi, 11)]
        self.shape(crown, colour, 0.3, self.outline(colour))
        if rng.random() < 0.6:
            brim = rng.uniform(0.65, 1.2)
            self.shape(
                [(-brim, -0.42), (brim, -0.42), (brim * 0.8, -0.3), (-brim * 0.8, -0.3)], darker(colour, 0.8), 0.3
            )

    def body(self) -> None:
        """Neck, shoulders, clothes with what may look like eyes, arms, legs."""
        rng = self.rng
        shirt = any_colour(rng)
        shade = darker(self.skin, rng.uniform(0.75, 0.95))
        broad, small = rng.uniform(0.6, 1.1), rng.uniform(0.9, 1.6)
        leaning = self.tilt
        self.tilt *= 0.3
        for side in (-1, 1):
            if rng.random() < 0.8:
                hand = (side * rng.uniform(0.2, 1.7), rng.uniform(0.9, 2.6))
                arm = [(side * broad * 0.8, 1.0), (side * broad * 1.3, rng.uniform(1.4, 2.2)), hand]
                limb = self.at(*arm)
                self.draw.line(limb, rng.choice((self.skin, shirt)), max(2, round(self.width * 0.24)), joint="curve")
                self.blot(*hand, 0.13, 0.13, self.skin, 0)
        torso = [
            (-broad, 0.95),
            (-0.2, 0.75),
            (0.2, 0.75),
            (broad, 0.95),
            (broad * 0.8, 1 + small),
            (-broad * 0.8, 1 + small),
        ]
        self.shape(torso, shirt, 0, self.outline(shirt))
        if rng.random() < 0.7:
            legs = rng.choice((self.skin, any_colour(rng)))
            for side in (-1, 1):
                leg = self.at((side * 0.35, 1 + small), (side * 0.4, 2.2 + small), (side * 0.35, 3.4 + small))
                self.draw.line(leg, legs, max(2, round(self.width * 0.33)), joint="curve")
        self.shape([(-0.17, 0.4), (0.17, 0.4), (0.22, 0.95), (-0.22, 0.95)], shade, 0, None)
        for _ in range(rng.randrange(6)):
            px, py = rng.uniform(-broad, broad) * 0.7, rng.uniform(0.95, 1 + small)
            self.blot(px, py, rng.uniform(0.03, 0.15), rng.uniform(0.03, 0.15), any_colour(rng), 0)
        if rng.random() < 0.4:
            bow = any_colour(rng)
            self.shape([(-0.3, 0.8), (0.3, 1.1), (0.3, 0.8), (-0.3, 1.1)], bow, 0, self.outline(bow))
        self.tilt = leaning

    def paint(self, from_behind: bool = False) -> Face | None:
        """Draw all of it; the square of the face, None for a head from behind."""
        if self.rng.random() < 0.85:
            self.back_hair()
            self.body()
        else:
            self.body()
            self.back_hair()
        self.skull()
        if from_behind:
            self.fringe()
            cap = [(0.58 * math.cos(a), -0.1 + 0.62 * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 24)]
            self.shape(cap, self.hair, 0, self.outline(self.hair))
            for _ in range(6):
                px = self.rng.uniform(-0.4, 0.4)
                self.path([(px * 0.5, -0.7), (px, 0.4)], self.hair_shade, 1, 0)
            return None
        behind = self.rng.random() < 0.25
        if behind:
            self.fringe()
        self.eyes()
        self.mouth()
        if not behind:
            self.fringe()
        self.hat()
        ((px, py),) = self.at((0.12 * self.yaw, 0.06))
        return px, py, self.width * 1.02


# Surroundings


def noise(rng: random.Random, size: int) -> Image.Image:
    """Clouds of any colour and coarseness."""
    generator = np.random.default_rng(rng.randrange(2**32))
    made = np.zeros((size, size, 3), np.float32)
    steep = rng.uniform(0.4, 1.1)
    for octave in range(2, 8):
        side = 2**octave
        layer = Image.fromarray(generator.integers(0, 256, (side, side, 3), dtype=np.uint8))
        made += (np.asarray(layer.resize((size, size), Image.Resampling.BICUBIC), np.float32) - 128) / side**steep
    made = made / (made.std() + 1e-6) * rng.uniform(8, 45) + np.asarray(any_colour(rng), np.float32)
    if rng.random() < 0.3:
        made[:] = made.mean(axis=2, keepdims=True)
    return Image.fromarray(np.clip(made, 0, 255).astype(np.uint8))


def backdrop(rng: random.Random, size: int) -> Image.Image:
    kind = rng.random()
    if kind < 0.3:
        canvas = Image.new("RGB", (size, size), (255, 255, 255) if rng.random() < 0.4 else any_colour(rng))
    elif kind < 0.55:
        ramp = Image.linear_gradient("L").rotate(rng.randrange(4) * 90).resize((size, size))
        canvas = Image.composite(
            Image.new("RGB", (size, size), any_colour(rng)), Image.new("RGB", (size, size), any_colour(rng)), ramp
        )
    else:
        canvas = noise(rng, size)
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.choice((0, 0, 4, 12, 30, 70))):
        clutter(draw, rng, size)
    return canvas


def clutter(draw: ImageDraw.ImageDraw, rng: random.Random, size: int) -> None:
    """A shape of any kind; pairs of discs, stripes, letters and skin-coloured blobs among them."""
    x, y, r = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0.01, 0.14) * size
    colour, kind = any_colour(rng), rng.randrange(8)
    line = rng.choice((None, (0, 0, 0), darker(colour, 0.5)))
    if kind == 0:
        draw.ellipse((x - r, y - r, x + r, y + r * rng.uniform(0.3, 1)), colour, line)
    elif kind == 1:
        draw.rectangle((x - r, y - r, x + r * rng.uniform(0.1, 2), y + r), colour, line)
    elif kind == 2:
        corners = [(x + rng.gauss(0, r), y + rng.gauss(0, r)) for _ in range(rng.randrange(3, 9))]
        draw.polygon(corners, colour, line)
    elif kind == 3:
        way = [(x + rng.gauss(0, 2 * r), y + rng.gauss(0, 2 * r)) for _ in range(4)]
        draw.line(way, colour, rng.randrange(1, 9), joint="curve")
    elif kind == 4:
        for n in range(rng.randrange(2, 9)):
            draw.line((x, y + n * r / 3, x + 2 * r, y + n * r / 3), colour, rng.randrange(1, 6))
    elif kind == 5:
        for side in (-1, 1):
            draw.ellipse((x + side * r - r / 3, y - r / 3, x + side * r + r / 3, y + r / 3), colour, line)
    elif kind == 6:
        text = "".join(rng.choice("AEOMKSX0938@#&") for _ in range(rng.randrange(1, 8)))
        draw.text((x, y), text, colour, font_size=max(6, r))
    else:
        skin = hsv(rng.gauss(0.065, 0.02), rng.uniform(0.1, 0.5), rng.uniform(0.6, 1))
        draw.ellipse((x - r, y - r * 1.2, x + r, y + r * 1.2), skin, line)
        if rng.random() < 0.5:
            draw.pieslice((x - r * 1.2, y - r * 1.4, x + r * 1.2, y + r * 0.6), 180, 360, colour, line)


def finish(canvas: Image.Image, rng: random.Random) -> Image.Image:
    """Light, tint, softness, grain and the marks of JPEG, as pictures come."""
    if rng.random() < 0.3:
        ramp = Image.linear_gradient("L").rotate(rng.randrange(4) * 90).resize(canvas.size)
        tint = Image.new("RGB", canvas.size, any_colour(rng))
        canvas = Image.composite(Image.blend(canvas, tint, rng.uniform(0.1, 0.45)), canvas, ramp)
    if rng.random() < 0.15:
        canvas = ImageChops.multiply(
            canvas, Image.new("RGB", canvas.size, hsv(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.4, 1)))
        )
    canvas = ImageEnhance.Color(canvas).enhance(
        rng.choice((1.0, rng.uniform(0.2, 1.6), 0.0 if rng.random() < 0.4 else 1.0))
    )
    canvas = ImageEnhance.Contrast(canvas).enhance(rng.uniform(0.75, 1.3))
    canvas = ImageEnhance.Brightness(canvas).enhance(rng.uniform(0.8, 1.15))
    if rng.random() < 0.3:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    if rng.random() < 0.3:
        grain = np.random.default_rng(rng.randrange(2**32)).normal(0, rng.uniform(2, 12), (*canvas.size[::-1], 1))
        canvas = Image.fromarray(np.clip(np.asarray(canvas) + grain, 0, 255).astype(np.uint8))
    if rng.random() < 0.4:
        written = BytesIO()
        canvas.save(written, "JPEG", quality=rng.randrange(25, 95))
        canvas = Image.open(written).convert("RGB")
    return canvas


SUPERSAMPLING = 3


def scene(seed: int, size: int = 160, sides: tuple[float, float] = (22, 48)) -> tuple[Image.Image, list[Face]]:
    """A picture of that size, and its faces: none to three, of sides within `sides`, or as large as the picture."""
    rng = random.Random(seed)
    canvas = backdrop(rng, size * SUPERSAMPLING)
    faces: list[Face] = []
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        low, high = sides if rng.random() < 0.85 else (sides[1], size * 0.9)
        width = math.exp(rng.uniform(math.log(low), math.log(high)))
        x, y = rng.uniform(0.1, 0.9) * size, rng.uniform(0.1, 0.9) * size
        if any(math.hypot(x - fx, y - fy) < 1.3 * (width + side) for fx, fy, side in faces):
            continue
        found = Head(canvas, rng, x * SUPERSAMPLING, y * SUPERSAMPLING, width * SUPERSAMPLING).paint(
            rng.random() < 0.12
        )
        if found:
            px, py, side = (value / SUPERSAMPLING for value in found)
            faces.append((px, py, side))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.choice((0, 0, 0, 2, 5))):  # in front
        x, y = rng.uniform(0, size), rng.uniform(0, size)
        if all(math.hypot(x - fx, y - fy) > side for fx, fy, side in faces):
            clutter(draw, rng, size * SUPERSAMPLING)
    canvas = canvas.resize(
        (size, size), rng.choice((Image.Resampling.BOX, Image.Resampling.LANCZOS, Image.Resampling.BILINEAR))
    )
    return finish(canvas, rng), faces


def texture(seed: int, size: int, photographs: Sequence[Image.Image] = ()) -> Image.Image:
    """What is easily taken for a face: fine grain, pebbles, discs and wheels; or a part of a photograph."""
    rng = random.Random(seed)
    if photographs and rng.random() < 0.6:
        canvas = _part(rng.choice(photographs), rng, size)
    else:
        canvas = rng.choice((_grain, _pebbles, _wheels))(rng, size)
    return finish(canvas, rng)


def _part(photograph: Image.Image, rng: random.Random, size: int) -> Image.Image:
    side = math.exp(rng.uniform(math.log(0.15), 0)) * min(photograph.size)
    x, y = rng.uniform(0, photograph.width - side), rng.uniform(0, photograph.height - side)
    part = photograph.resize((size, size), Image.Resampling.BILINEAR, (x, y, x + side, y + side), reducing_gap=2.0)
    part = part.rotate(rng.uniform(-25, 25), Image.Resampling.BILINEAR, fillcolor=any_colour(rng))
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def _grain(rng: random.Random, size: int) -> Image.Image:
    generator = np.random.default_rng(rng.randrange(2**32))
    side = max(8, round(size / rng.uniform(1, 7)))
    shape = (side, side, 1 if rng.random() < 0.5 else 3)
    values = generator.normal(128, rng.uniform(20, 70), shape) * np.ones((1, 1, 3))
    grain = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return Image.blend(grain, noise(rng, size), rng.uniform(0, 0.6))


def _pebbles(rng: random.Random, size: int) -> Image.Image:
    canvas = noise(rng, size * 2)
    draw = ImageDraw.Draw(canvas)
    tone, large = any_colour(rng), rng.uniform(5, 40)
    for _ in range(rng.randrange(60, 400)):
        x, y, a = rng.uniform(0, 2 * size), rng.uniform(0, 2 * size), rng.uniform(0.4, 1) * large
        fill = darker(tone, rng.uniform(0.4, 1.5))
        corners = [
            (x + a * math.cos(t) * rng.uniform(0.6, 1), y + a * math.sin(t) * rng.uniform(0.6, 1)) for t in range(6)
        ]
        draw.polygon(corners, fill, rng.choice((None, darker(fill, 0.4))))
        draw.line((x - a / 2, y - a / 2, x + a / 3, y - a / 2), darker(fill, 1.5), 2)
    return canvas.resize((size, size), Image.Resampling.BOX)


def _wheels(rng: random.Random, size: int) -> Image.Image:
    """Coins, wheels, plates, buttons: discs with marks inside."""
    canvas = backdrop(rng, size * 2)
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.randrange(2, 14)):
        x, y, r = rng.uniform(0, 2 * size), rng.uniform(0, 2 * size), rng.uniform(12, 110)
        fill = any_colour(rng)
        while r > 4:
            draw.ellipse(
                (x - r, y - r, x + r, y + r),
                fill,
                rng.choice((None, (0, 0, 0), darker(fill, 0.5))),
                rng.randrange(1, 4),
            )
            fill, r = darker(fill, rng.uniform(0.4, 1.6)), r * rng.uniform(0.3, 0.9)
            for _ in range(rng.choice((0, 0, 3, 9))):
                turn = rng.uniform(0, 6.3)
                draw.line((x, y, x + r * math.cos(turn), y + r * math.sin(turn)), any_colour(rng), rng.randrange(1, 8))
    return canvas.resize((size, size), Image.Resampling.BOX)
