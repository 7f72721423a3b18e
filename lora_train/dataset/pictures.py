"""What is trained on: pictures, the folders that hold them, and all of it together."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from . import reg
from .options import CaptionOptions, Frame


@dataclass(frozen=True)
class Picture:
    """One picture; width and height in pixels after its EXIF orientation is applied.

    caption: the first line of its text file; all lines, joined by line ends, where wildcards choose among them.
    mask: the picture that says where the loss counts.
    """

    path: Path
    caption: str
    width: int
    height: int
    mask: Path | None = None


@dataclass(frozen=True)
class Concept:
    """One folder of pictures, each of which is used `repeats` times an epoch.

    group: the number of its [[datasets]] table; batches and the balance of regularisation stay inside a group.
    """

    folder: Path
    name: str
    repeats: int
    pictures: tuple[Picture, ...]
    is_reg: bool = False
    captions: CaptionOptions = field(default_factory=CaptionOptions)
    frame: Frame = field(default_factory=Frame)
    flip: bool = False
    random_crop: bool = False
    alpha_mask: bool = False
    masks: Path | None = None
    group: int = 0

    @property
    def images(self) -> int:
        """Pictures with repeats, before regularisation is balanced."""
        return len(self.pictures) * self.repeats


@dataclass(frozen=True)
class Use:
    """A picture as its folder wants it, `repeats` times an epoch."""

    concept: Concept
    picture: Picture
    repeats: int


@dataclass(frozen=True)
class Dataset:
    """All that is trained on, in sorted order, and what the user should know about it."""

    root: Path
    concepts: tuple[Concept, ...]
    warnings: tuple[str, ...]

    @property
    def picture_count(self) -> int:
        """Pictures to be learnt, each counted once."""
        return sum(len(concept.pictures) for concept in self.concepts if not concept.is_reg)

    @property
    def images_with_repeats(self) -> int:
        """Pictures of one epoch to be learnt; regularisation comes on top."""
        return sum(concept.images for concept in self.concepts if not concept.is_reg)

    @property
    def reg_with_repeats(self) -> int:
        """Regularisation pictures with their folders' repeats, before they are balanced (kohya's num_reg_images)."""
        return sum(concept.images for concept in self.concepts if concept.is_reg)

    def uses(self) -> list[Use]:
        """Every picture that an epoch uses, and how often: in each dataset what is learnt, then its regularisation."""
        found = []
        for _, group in groupby(sorted(self.concepts, key=lambda c: c.group), key=lambda c: c.group):
            members = list(group)
            found += [Use(c, p, c.repeats) for c in members if not c.is_reg for p in c.pictures]
            regs = [c for c in members if c.is_reg]
            images = sum(c.images for c in members if not c.is_reg)
            balanced = reg.balance(images, [(len(c.pictures), c.repeats) for c in regs])
            found += [
                Use(c, picture, repeats)
                for c, counts in zip(regs, balanced, strict=True)
                for picture, repeats in zip(c.pictures, counts, strict=True)
                if repeats
            ]
        return found

    def samples(self) -> list[Picture]:
        """The pictures of one epoch, each as often as it is used."""
        return [use.picture for use in self.uses() for _ in range(use.repeats)]
