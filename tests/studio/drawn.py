"""Pictures drawn in code: things that can be told apart, and a face that a cascade takes for one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def scene(seed: int = 0, width: int = 320, height: int = 320) -> Image.Image:
    """Shapes of random places and colours, with sharp edges."""
    chance = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height), tuple(int(c) for c in chance.integers(0, 256, 3)))
    draw = ImageDraw.Draw(picture)
    for _ in range(14):
        x, y = int(chance.integers(0, width)), int(chance.integers(0, height))
        w, h = (int(n) for n in chance.integers(max(2, width // 12), max(3, width // 3), 2))
        shape = draw.ellipse if chance.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=tuple(int(c) for c in chance.integers(0, 256, 3)))
    return picture


def face(size: int = 400, at: tuple[int, int] = (200, 150), height: int = 160) -> Image.Image:
    """Grey, with the light and shade that a frontal face has."""
    picture = Image.new("L", (size, size), 110)
    draw = ImageDraw.Draw(picture)
    x, y, h = *at, height
    w = round(h * 0.8)

    def ellipse(cx: float, cy: float, rx: float, ry: float, fill: int) -> None:
        box = (x + cx * w - rx * w, y + cy * h - ry * h, x + cx * w + rx * w, y + cy * h + ry * h)
        draw.ellipse(box, fill=fill)

    ellipse(0, -0.15, 0.66, 0.85, 40)  # hair
    ellipse(0, 0, 0.52, 0.68, 205)
    for side in (-0.22, 0.22):
        ellipse(side, -0.2, 0.15, 0.035, 60)  # brow
        ellipse(side, -0.1, 0.13, 0.07, 140)
        ellipse(side, -0.1, 0.1, 0.045, 235)
        ellipse(side, -0.1, 0.05, 0.045, 20)
    ellipse(0, 0.07, 0.05, 0.15, 225)
    ellipse(0, 0.18, 0.1, 0.035, 150)
    ellipse(0, 0.38, 0.2, 0.05, 90)
    return picture.filter(ImageFilter.GaussianBlur(h / 80)).convert("RGB")


def put(path: Path, picture: Image.Image | None = None, caption: str | None = None, **options: object) -> Path:
    """Write a picture, and its caption where one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture or scene()).save(path, **options)  # type: ignore[arg-type]
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def loaded(path: Path) -> Image.Image:
    """A picture file, read and closed."""
    with Image.open(path) as picture:
        return picture.copy()


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with what it holds."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
