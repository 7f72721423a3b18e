"""Blocks by name: which a model's UNet has, which of them a list of numbers names, and what the others get.

Names are those of sd-webui-lora-block-weight: BASE is every text encoder, INnn, M00 and OUTnn are CompVis's
input_blocks.n, middle_block and output_blocks.n. OTHER is what lies in no block: the time and label embeddings and the
last convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..errors import UserError

BASE, MIDDLE, OTHER = "BASE", "M00", "OTHER"
UNLISTED = 0.0
"""Weight of the blocks that a short list doesn't name, unless told otherwise: sd-webui-lora-block-weight's rule."""


@dataclass(frozen=True)
class Topology:
    """The blocks of one family of models.

    blocks: all but OTHER, in order; attention: those with a transformer, which alone a LoRA without convolutions has;
    side: width of the latents at the size that the family was trained for.
    """

    name: str
    blocks: tuple[str, ...]
    attention: tuple[str, ...]
    side: int

    @cached_property
    def by_count(self) -> dict[int, tuple[str, ...]]:
        """The blocks that a list of so many numbers names."""
        return {len(self.attention): self.attention, len(self.blocks): self.blocks}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        return tuple(block for block in self.blocks if block.startswith("IN"))

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        return tuple(block for block in self.blocks if block.startswith("OUT"))

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Blocks that are moved together: BASE, IN, MID, OUT, and those of one width of the latents (`64` …)."""
        levels: dict[str, tuple[str, ...]] = {}
        count = len(self.inputs) // 3
        for level in range(count):
            middle = (MIDDLE,) if level == count - 1 else ()
            near, far = self.inputs[3 * level : 3 * level + 3], self.outputs[3 * (count - 1 - level) :][:3]
            levels[str(self.side >> level)] = (*near, *middle, *far)
        return {"BASE": (BASE,), "IN": self.inputs, "MID": (MIDDLE,), "OUT": self.outputs, **levels}

    @cached_property
    def partners(self) -> dict[str, str]:
        """The block at the other end of each skip connection: INn and OUT(last − n)."""
        pairs = dict(zip(self.inputs, reversed(self.outputs), strict=True))
        return pairs | {far: near for near, far in pairs.items()}

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "family": self.name,
            "blocks": self.blocks,
            "attention": self.attention,
            "groups": self.groups,
            "partners": self.partners,
        }


def _unet(last: int) -> tuple[str, ...]:
    return (BASE, *(f"IN{n:02}" for n in range(last + 1)), MIDDLE, *(f"OUT{n:02}" for n in range(last + 1)))


def _without(blocks: Sequence[str], left_out: str) -> tuple[str, ...]:
    return tuple(block for block in blocks if block not in left_out.split())


BLOCKS_26, BLOCKS_20 = _unet(11), _unet(8)
BLOCKS_17 = _without(BLOCKS_26, "IN00 IN03 IN06 IN09 IN10 IN11 OUT00 OUT01 OUT02")
BLOCKS_12 = _without(BLOCKS_20, "IN00 IN01 IN02 IN03 IN06 OUT06 OUT07 OUT08")

SD15 = "SD1.5"
_TOPOLOGIES = {
    SD15: Topology(SD15, BLOCKS_26, BLOCKS_17, 64),
    "SD2": Topology("SD2", BLOCKS_26, BLOCKS_17, 96),
    "SDXL": Topology("SDXL", BLOCKS_20, BLOCKS_12, 128),
}
FAMILIES = tuple(_TOPOLOGIES)
COUNTS = {17: "SD1.5 and SD2", 26: "SD1.5 and SD2", 12: "SDXL", 20: "SDXL"}
"""How many numbers a list may have, and for what."""
FOREIGN_COUNTS = {61: "FLUX"}
"""Lengths of lists that preset files hold and nothing here can use."""


def topology(family: str) -> Topology:
    """Blocks of SD1.5, SD2 or SDXL. Raises UserError for any other family."""
    if family not in _TOPOLOGIES:
        remedy = f"Block weights are for {', '.join(FAMILIES[:-1])} and {FAMILIES[-1]}"
        raise UserError(f"the blocks of {family} are not known here", remedy=remedy)
    return _TOPOLOGIES[family]


def blocks_of(family: str = SD15) -> tuple[str, ...]:
    """Every block in order, OTHER last."""
    return (*topology(family).blocks, OTHER)


def count_problem(count: int, family: str | None = None) -> str:
    """Why a list of so many numbers can't be used, for `family` or, with None, for any; empty where it can."""
    accepted = topology(family).by_count if family else COUNTS
    if count in accepted:
        return ""
    numbers = f"{count} number{'' if count == 1 else 's'}"
    foreign = {**COUNTS, **FOREIGN_COUNTS}.get(count)
    aside = f"; {count} are for {foreign}" if foreign else ""
    if family:
        few, many = accepted
        return f"{numbers} where {family} has {few} (or {many}){aside}"
    return f"{numbers} where SD1.5 and SD2 have 17 (or 26) and SDXL has 12 (or 20){aside}"


def names_for(count: int, family: str = SD15) -> tuple[str, ...]:
    """The blocks that a list of `count` numbers names. Raises UserError for any other length."""
    problem = count_problem(count, family)
    if problem:
        raise UserError(problem)
    return topology(family).by_count[count]


def weights_by_block(
    numbers: Sequence[float], unlisted: float = UNLISTED, family: str = SD15, other: float = 1.0
) -> dict[str, float]:
    """Weight of every block. Blocks that a short list doesn't name get `unlisted`, OTHER gets `other`.

    sd-webui-lora-block-weight gives them 0 and OTHER 1, as is the default here; kohya's svd_merge_lora leaves all at 1.
    Raises UserError as names_for.
    """
    named = dict(zip(names_for(len(numbers), family), map(float, numbers), strict=True))
    return {**dict.fromkeys(topology(family).blocks, float(unlisted)), **named, OTHER: float(other)}


def flat_weights(family: str = SD15) -> dict[str, float]:
    """1 for every block: a LoRA at its plain strength."""
    return dict.fromkeys(blocks_of(family), 1.0)


def numbers_of(
    weights: Mapping[str, float], family: str = SD15, unlisted: float = UNLISTED, full: bool = False
) -> tuple[float, ...]:
    """The list that weights_by_block reads back: the short one where it says all, else the long one.

    OTHER has no place in a list. full: the long one in any case.
    """
    blocks = topology(family)
    says_all = all(weights[block] == unlisted for block in blocks.blocks if block not in blocks.attention)
    return tuple(weights[block] for block in (blocks.attention if says_all and not full else blocks.blocks))


def unnamed(numbers: Sequence[float], present: set[str], family: str = SD15) -> list[str]:
    """Those of the blocks `present` in a file that a list says nothing about, in order; they get `unlisted`."""
    named = {*names_for(len(numbers), family), OTHER}
    return [block for block in topology(family).blocks if block in present - named]
