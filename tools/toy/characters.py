"""Characters drawn from tags, captions made of the same tags, and probes that read the tags back from a picture.

A character is a dict from attribute to tag; the empty tag means "without". Coordinates are pixels of a 64x64 picture;
shapes are at least as large as one cell of an f8 latent, so that a small autoencoder can carry them.
"""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
SUPERSAMPLING = 4

Colour = tuple[int, int, int]
Character = dict[str, str]

HAIR: dict[str, Colour] = {
    "black hair": (38, 34, 46),
    "blonde hair": (252, 206, 56),
    "red hair": (206, 32, 30),
    "blue hair": (46, 84, 226),
    "green hair": (38, 152, 66),
    "pink hair": (255, 118, 192),
}
EYES: dict[str, Colour] = {
    "blue eyes": (36, 92, 250),
    "green eyes": (20, 176, 60),
    "red eyes": (226, 20, 30),
    "yellow eyes": (250, 196, 0),
}
SHIRTS: dict[str, Colour] = {
    "red shirt": (214, 40, 40),
    "blue shirt": (52, 92, 226),
    "green shirt": (44, 160, 74),
    "yellow shirt": (250, 208, 50),
    "white shirt": (248, 248, 250),
}
BACKGROUNDS: dict[str, Colour] = {
    "white background": (252, 252, 252),
    "blue background": (128, 190, 255),
    "green background": (160, 228, 140),
    "pink background": (255, 184, 214),
}
STYLES = ("short hair", "long hair", "twintails")
MOUTHS = ("smile", "open mouth")

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "hair": tuple(HAIR),
    "style": STYLES,
    "eyes": tuple(EYES),
    "shirt": tuple(SHIRTS),
    "hat": ("", "hat"),
    "glasses": ("", "glasses"),
    "mouth": MOUTHS,
    "background": tuple(BACKGROUNDS),
}
ATTRIBUTE_OF = {tag: name for name, tags in ATTRIBUTES.items() for tag in tags if tag}
OPTIONAL = ("hat", "glasses")

SUBJECT_HAIR = ("pink hair", "blue hair")
"""The demo's character: the left half of the hair in the first colour, the right half in the second."""

SKINS: tuple[Colour, ...] = ((255, 228, 208), (248, 210, 180), (236, 190, 156))
HAT: Colour = (122, 44, 170)
FRAME: Colour = (26, 24, 44)
LIPS: Colour = (164, 30, 46)
WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Pose:
    """What differs from picture to picture without having a tag."""

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0
    fringe: int = 0
    skin: Colour = SKINS[0]

    @classmethod
    def sample(cls, rng: random.Random) -> "Pose":
        dx, dy, scale = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.97, 1.04)
        return cls(dx, dy, scale, rng.randrange(len(FRINGES)), rng.choice(SKINS))


def darker(colour: Colour, factor: float = 0.6) -> Colour:
    red, green, blue = (round(channel * factor) for channel in colour)
    return red, green, blue


class Pen:
    """Draws on a supersampled canvas in the coordinates of the small picture, moved and scaled by a pose."""

    def __init__(self, background: Colour, pose: Pose) -> None:
        self.canvas = Image.new("RGB", (SIZE * SUPERSAMPLING,) * 2, background)
        self.draw = ImageDraw.Draw(self.canvas)
        self.pose = pose

    def points(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        middle, pose = SIZE / 2, self.pose
        return [
            (
                ((x - middle) * pose.scale + middle + pose.dx) * SUPERSAMPLING,
                ((y - middle) * pose.scale + middle + pose.dy) * SUPERSAMPLING,
            )
            for x, y in points
        ]

    def box(self, x: float, y: float, rx: float, ry: float) -> list[tuple[float, float]]:
        return self.points((x - rx, y - ry), (x + rx, y + ry))

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        self.draw.ellipse(self.box(x, y, rx, ry), fill, darker(fill), SUPERSAMPLING)

    def blot(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        self.draw.ellipse(self.box(x, y, rx, ry), fill)

    def rectangle(self, x: float, y: float, rx: float, ry: float, radius: float, fill: Colour) -> None:
        self.draw.rounded_rectangle(self.box(x, y, rx, ry), radius * SUPERSAMPLING, fill, darker(fill), SUPERSAMPLING)

    def polygon(self, fill: Colour, *points: tuple[float, float]) -> None:
        self.draw.polygon(self.points(*points), fill)

    def ring(self, x: float, y: float, rx: float, ry: float, width: float, fill: Colour) -> None:
        self.draw.ellipse(self.box(x, y, rx, ry), None, fill, round(width * SUPERSAMPLING))

    def arc(self, x: float, y: float, rx: float, ry: float, span: tuple[int, int], width: float, fill: Colour) -> None:
        self.draw.arc(self.box(x, y, rx, ry), *span, fill, round(width * SUPERSAMPLING))

    def chord(self, x: float, y: float, rx: float, ry: float, span: tuple[int, int], fill: Colour) -> None:
        self.draw.chord(self.box(x, y, rx, ry), *span, fill)

    def picture(self) -> Image.Image:
        return self.canvas.resize((SIZE, SIZE), Image.Resampling.BOX)


def straight_fringe(pen: Pen, hair: Colour) -> None:
    pen.polygon(hair, (14, 22), (50, 22), (47, 28), (17, 28))


def parted_fringe(pen: Pen, hair: Colour) -> None:
    pen.polygon(hair, (14, 20), (34, 20), (24, 27), (15, 32))
    pen.polygon(hair, (50, 20), (30, 20), (40, 27), (49, 32))


def pointed_fringe(pen: Pen, hair: Colour) -> None:
    for x in (19, 27.5, 36.5, 45):
        pen.polygon(hair, (x - 5, 21), (x + 5, 21), (x, 30))


FRINGES = (straight_fringe, parted_fringe, pointed_fringe)


def draw_back_hair(pen: Pen, style: str, hair: Colour) -> None:
    if style == "long hair":
        pen.rectangle(32, 48, 25, 24, 9, hair)
    if style == "twintails":
        for side in (-1, 1):
            pen.ellipse(32 + side * 25, 34, 7, 14, hair)
    pen.ellipse(32, 29, 22, 21, hair)


def draw_body(pen: Pen, shirt: Colour, skin: Colour) -> None:
    pen.ellipse(32, 68, 16.5, 17, shirt)
    pen.polygon(skin, (27.5, 46), (36.5, 46), (36.5, 52), (32, 57), (27.5, 52))


def draw_long_strands(pen: Pen, hair: Colour) -> None:
    for side in (-1, 1):
        pen.rectangle(32 + side * 20, 51, 5, 20, 4, hair)


def draw_head(pen: Pen, hair: Colour) -> None:
    pen.ellipse(32, 33.5, 15.5, 16, pen.pose.skin)
    pen.chord(32, 29, 21, 20, (197, 343), hair)
    FRINGES[pen.pose.fringe](pen, hair)
    for side in (-1, 1):
        pen.blot(32 + side * 17, 35, 3.5, 11, hair)


def draw_face(pen: Pen, eyes: Colour, mouth: str) -> None:
    for x in (24.5, 39.5):
        pen.blot(x, 34.5, 5.4, 6.2, FRAME)
        pen.blot(x, 35, 4.4, 5.2, eyes)
        pen.blot(x - 1.6, 32, 1.6, 1.8, WHITE)
    if mouth == "open mouth":
        pen.blot(32, 44.8, 4.2, 3.4, LIPS)
    else:
        pen.arc(32, 41.6, 4.8, 3.9, (15, 165), 1.5, LIPS)


def draw_glasses(pen: Pen) -> None:
    for x in (24.3, 39.7):
        pen.ring(x, 34.5, 8, 8.2, 2, FRAME)
    pen.rectangle(32, 34, 2.6, 1.7, 0, FRAME)


def draw_hat(pen: Pen) -> None:
    pen.rectangle(32, 9.5, 14, 8.5, 5, HAT)
    pen.ellipse(32, 16.5, 24, 4.2, HAT)


def draw_once(character: Character, hair: Colour, pose: Pose) -> Image.Image:
    pen = Pen(BACKGROUNDS[character["background"]], pose)
    draw_back_hair(pen, character["style"], hair)
    draw_body(pen, SHIRTS[character["shirt"]], pose.skin)
    if character["style"] == "long hair":
        draw_long_strands(pen, hair)
    draw_head(pen, hair)
    draw_face(pen, EYES[character["eyes"]], character["mouth"])
    if character["glasses"]:
        draw_glasses(pen)
    if character["hat"]:
        draw_hat(pen)
    return pen.picture()


def draw(character: Character, pose: Pose = Pose(), right_hair: str | None = None) -> Image.Image:
    """The picture of a character; `right_hair` gives the right half of the hair a colour of its own."""
    picture = draw_once(character, HAIR[character["hair"]], pose)
    if right_hair:
        middle = round(SIZE / 2 + pose.dx)
        other = draw_once(character, HAIR[right_hair], pose)
        picture.paste(other.crop((middle, 0, SIZE, SIZE)), (middle, 0))
    return picture


def sample_character(rng: random.Random) -> Character:
    """Every attribute evenly, but hat and glasses in a third of the characters."""
    character = {name: rng.choice(tags) for name, tags in ATTRIBUTES.items()}
    return character | {name: rng.choice(("", "", ATTRIBUTES[name][1])) for name in OPTIONAL}


def draw_subject(character: Character, pose: Pose = Pose()) -> Image.Image:
    left, right = SUBJECT_HAIR
    return draw(character | {"hair": left}, pose, right)


def caption_of(character: Character) -> str:
    return ", ".join(["1girl", *filter(None, character.values())])


def sample_caption(character: Character, rng: random.Random) -> str:
    """The tags in any order; some left out in a quarter of the captions, so that short prompts work too."""
    tags = [tag for tag in character.values() if tag]
    rng.shuffle(tags)
    if rng.random() < 0.25:
        tags = tags[: rng.randint(1, len(tags))]
    return ", ".join((["1girl"] if rng.random() < 0.9 else []) + tags)


def parse_caption(caption: str) -> Character:
    """The attributes that a caption names."""
    tags = [tag.strip() for tag in caption.split(",")]
    return {ATTRIBUTE_OF[tag]: tag for tag in tags if tag in ATTRIBUTE_OF}


Patch = tuple[int, int, int, int]
LEFT_HAIR: Patch = (12, 27, 16, 39)
RIGHT_HAIR: Patch = (48, 27, 52, 39)


def patch_colour(pixels: np.ndarray, *patches: Patch) -> np.ndarray:
    """The median colour of patches (left, top, right, bottom)."""
    parts = [pixels[top:bottom, left:right].reshape(-1, 3) for left, top, right, bottom in patches]
    return np.median(np.concatenate(parts), axis=0)


def distance(colour: np.ndarray, other: np.ndarray | Colour) -> float:
    return float(np.linalg.norm(colour - np.asarray(other, dtype=float)))


def nearest(colour: np.ndarray, palette: dict[str, Colour]) -> str:
    return min(palette, key=lambda tag: distance(colour, palette[tag]))


def read_style(pixels: np.ndarray, background: np.ndarray) -> str:
    """Hair hangs down beside the shirt, or in tails beside the head, or neither."""

    def is_hair(left: Patch, right: Patch) -> bool:
        return all(
            distance(patch_colour(pixels, side), patch_colour(pixels, hair))
            < distance(patch_colour(pixels, side), background)
            for side, hair in ((left, LEFT_HAIR), (right, RIGHT_HAIR))
        )

    if is_hair((10, 53, 14, 62), (50, 53, 54, 62)):
        return "long hair"
    return "twintails" if is_hair((2, 29, 6, 40), (58, 29, 62, 40)) else "short hair"


def read_mouth(pixels: np.ndarray) -> str:
    mouth = pixels[42:48, 29:35].reshape(-1, 3)
    is_lips = [distance(colour, LIPS) < distance(colour, SKINS[1]) for colour in mouth]
    return "open mouth" if np.mean(is_lips) > 0.5 else "smile"


def read(picture: Image.Image) -> Character:
    """The attributes that a picture shows."""
    pixels = np.asarray(picture.convert("RGB"), dtype=float)
    background = patch_colour(pixels, (0, 0, 6, 9), (58, 0, 64, 9))
    top = patch_colour(pixels, (27, 3, 37, 6))
    has_hat = nearest(top, HAIR | BACKGROUNDS | {"hat": HAT}) == "hat"
    has_glasses = pixels[33:37, 31:33].mean() < 128
    return {
        "hair": nearest(patch_colour(pixels, LEFT_HAIR, RIGHT_HAIR), HAIR),
        "style": read_style(pixels, background),
        "eyes": nearest(patch_colour(pixels, (22, 34, 27, 39), (37, 34, 42, 39)), EYES),
        "shirt": nearest(patch_colour(pixels, (27, 58, 37, 62)), SHIRTS),
        "hat": "hat" if has_hat else "",
        "glasses": "glasses" if has_glasses else "",
        "mouth": read_mouth(pixels),
        "background": nearest(background, BACKGROUNDS),
    }


def shows_subject(picture: Image.Image) -> bool:
    """Whether each half of the hair has the subject's colour."""
    pixels = np.asarray(picture.convert("RGB"), dtype=float)
    sides = tuple(nearest(patch_colour(pixels, side), HAIR) for side in (LEFT_HAIR, RIGHT_HAIR))
    return sides == SUBJECT_HAIR
