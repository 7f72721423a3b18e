"""A mix: several LoRAs with strengths and block weights, and what is drawn with them. What the workbench edits.

As JSON it is {"loras": [{name, te, unet, weights, preset, hidden}], "shot": {prompt, negative_prompt, seeds, …}}.
Weights are by block: those that a short list doesn't name are UNLISTED (0) where they are not given, OTHER is 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, raise_all
from .families import (
    BASE,
    FAMILIES,
    OTHER,
    UNLISTED,
    blocks_of,
    flat_weights,
    numbers_of,
    topology,
    unnamed,
    weights_by_block,
)
from .layout import block_of
from .lbw import Tag, format_tag
from .presets import Presets, format_number, format_numbers, look_up
from .recipe import Item, Source, find_lora, find_loras, format_recipe, name_of, several_families
from .sound import held

_BLOCKS = {block for family in FAMILIES for block in blocks_of(family)}
_MOST_LORAS, _MOST_PICTURES, _MOST_TEXT = 16, 16, 20_000
_SIDES = (64, 2048)
_SEEDS = 2**32 - 1


@dataclass(frozen=True)
class Part:
    """One LoRA of a mix. name: in the LoRA folder, without an ending; weights: None for 1 everywhere.

    preset: what the weights are called, if anything; hidden: left out for now.
    """

    name: str
    te: float = 1.0
    unet: float = 1.0
    weights: Mapping[str, float] | None = None
    preset: str | None = None
    hidden: bool = False


@dataclass(frozen=True)
class Scene:
    """What is drawn: every prompt with every seed. prompt: the first one; prompts: further ones."""

    prompt: str = ""
    negative_prompt: str = ""
    prompts: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1,)
    steps: int = 20
    cfg_scale: float = 7.0
    sampler: str = "Euler"
    width: int = 512
    height: int = 512
    clip_skip: int = 1

    def pictures(self) -> list[tuple[str, int]]:
        """(prompt, seed) of each picture, in order."""
        return [(prompt, seed) for prompt in (self.prompt, *self.prompts) for seed in self.seeds]

    def smaller(self) -> Scene:
        """For a first look: half the size, or a little more, and two thirds of the steps."""
        width, height = (max(_SIDES[0], math.ceil(side / 16) * 8) for side in (self.width, self.height))
        return replace(self, width=width, height=height, steps=max(min(self.steps, 4), math.ceil(self.steps * 2 / 3)))


@dataclass(frozen=True)
class Mix:
    """LoRAs and a scene."""

    loras: tuple[Part, ...] = ()
    scene: Scene = field(default_factory=Scene)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; mix_from reads it back."""
        loras = [{**asdict(part), "weights": part.weights and dict(part.weights)} for part in self.loras]
        scene = {**asdict(self.scene), "seeds": list(self.scene.seeds), "prompts": list(self.scene.prompts)}
        return {"loras": loras, "shot": scene}


@dataclass(frozen=True)
class Found:
    """A LoRA of a mix whose file was found. weights: of every block of its family."""

    part: Part
    path: Path
    family: str
    weights: Mapping[str, float]
    present: frozenset[str]

    @property
    def counts(self) -> bool:
        """Whether it does anything."""
        strengths = {block: self.part.te if block == BASE else self.part.unet for block in self.present}
        return any(strengths[block] and self.weights[block] for block in self.present)

    @property
    def flat(self) -> bool:
        """Whether every block that it has counts fully."""
        return all(self.weights[block] == 1 for block in self.present)

    def numbers(self) -> tuple[float, ...]:
        """The list that says the same of this file: the short one, where that is enough."""
        short = topology(self.family).attention
        rest = unnamed([0.0] * len(short), set(self.present), self.family)
        full = any(self.weights[block] != UNLISTED for block in rest)
        return numbers_of(self.weights, self.family, full=True) if full else tuple(self.weights[b] for b in short)

    def source(self, lora_dir: Path, presets: Presets) -> Source:
        """For a bake. A preset is named where it still stands for these weights."""
        part = self.part
        te = None if part.te == part.unet else part.te
        other = None if self.weights[OTHER] == 1 or OTHER not in self.present else self.weights[OTHER]
        weights: str | tuple[float, ...] | None = None if self.flat else self.numbers()
        known = presets.get(part.preset) if part.preset else None
        if weights is not None and known is not None and self._stands_for(known):
            weights = part.preset
        item = Item(name_of(self.path, lora_dir), part.unet, weights, te, None if self.flat else other)
        numbers = None if weights is None else known if isinstance(weights, str) else weights
        return Source(item, self.path, numbers, self.weights, self.family)

    def _stands_for(self, numbers: Sequence[float]) -> bool:
        if len(numbers) not in topology(self.family).by_count:
            return False
        said = weights_by_block(numbers, family=self.family)
        return all(said[block] == self.weights[block] for block in self.present - {OTHER})


def mix_from(values: Any, where: str = "mix") -> Mix:
    """A mix from JSON. Raises every UserError at once, naming the field."""
    reader = _Reader()
    if not isinstance(values, Mapping):
        raise UserError("is not a JSON object", where=where, remedy="See openapi.json")
    reader.known(values, ("loras", "shot"), where)
    given = values.get("loras", [])
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) > _MOST_LORAS:
        reader.wrong(f"{where}.loras", f"is not a list of at most {_MOST_LORAS} LoRAs")
        given = []
    parts = [_part(reader, part, f"{where}.loras[{n}]") for n, part in enumerate(given)]
    scene = _scene(reader, values.get("shot") or {}, f"{where}.shot")
    raise_all(reader.errors)
    return Mix(tuple(parts), scene)


def find(mix: Mix, lora_dir: Path, presets: Presets, faults: Mapping[str, UserError] | None = None) -> list[Found]:
    """The files of a mix's LoRAs, the hidden and silent ones aside, with all their weights.

    A part without weights has those of its preset, without one 1 everywhere.
    Raises every UserError at once: unknown LoRA or preset, a wrong count, blocks that its family lacks or that have no
    weight, files that can't be read, two families.
    """
    files = find_loras(lora_dir)
    found: list[Found] = []
    errors: list[UserError] = []
    for part in mix.loras:
        if part.hidden:
            continue
        try:
            path = find_lora(part.name, lora_dir, files)
            index = held(path).index
            weights = _all_weights(part, index.family, presets, faults)
            present = frozenset(block_of(name, index.family) for name in index.modules)
            found.append(Found(part, path, index.family, weights, present))
        except UserError as error:
            errors.extend(getattr(error, "errors", [error]))
    raise_all([*errors, *several_families([(one.part.name, one.family) for one in found], "mix")])
    return [one for one in found if one.counts]


def with_weights(mix: Mix, found: Sequence[Found]) -> Mix:
    """The mix with the numbers of those that were found, whatever a preset's name may stand for later."""
    known = {id(one.part): one.weights for one in found}
    parts = (replace(part, weights=known[id(part)]) if id(part) in known else part for part in mix.loras)
    return replace(mix, loras=tuple(parts))


def _all_weights(part: Part, family: str, presets: Presets, faults: Mapping[str, UserError] | None) -> dict[str, float]:
    if part.weights is None:
        if part.preset is None:
            return flat_weights(family)
        return weights_by_block(_of(part.name, part.preset, presets, family, faults), family=family)
    the = topology(family)
    foreign = sorted(part.weights.keys() - {*the.blocks, OTHER})
    missing = [block for block in the.attention if block not in part.weights]
    if foreign:
        what = f"{family} has no block {', '.join(foreign)}"
        raise UserError(what, where=part.name, remedy=f"Its blocks are {', '.join(the.attention)}")
    if missing:
        raise UserError(f"there is no weight for {', '.join(missing)}", where=part.name, remedy="Give one for each")
    return {**dict.fromkeys(the.blocks, UNLISTED), OTHER: 1.0, **part.weights}


def _of(
    name: str, preset: str, presets: Presets, family: str, faults: Mapping[str, UserError] | None
) -> tuple[float, ...]:
    try:
        return look_up(preset, presets, family, faults)
    except UserError as error:
        raise UserError(error.what, where=", ".join(filter(None, [name, error.where])), remedy=error.remedy) from None


# As text


def recipe_of(found: Sequence[Found], lora_dir: Path, presets: Presets) -> str:
    """The recipe that bakes the same."""
    return format_recipe([one.source(lora_dir, presets).item for one in found])


def prompt_of(found: Sequence[Found], prompt: str) -> str:
    """The prompt with the LoRAs in it, by numbers. Raises UserError for a name that a prompt can't hold."""
    tags = [
        format_tag(Tag(one.path.stem, one.part.te, one.part.unet, weights=None if one.flat else one.numbers()))
        for one in found
    ]
    return ", ".join(filter(None, [prompt.strip().rstrip(","), " ".join(tags)]))


def numbers_text(one: Found) -> str:
    """With commas between."""
    return format_numbers(one.numbers())


def difference(before: Mix, after: Mix) -> str:
    """What changed from one mix to another, in a few words; empty where nothing did."""
    said = []
    old = {part.name: part for part in before.loras}
    new = {part.name: part for part in after.loras}
    for name, part in new.items():
        was = old.get(name)
        if was is None:
            said.append(f"+ {name}")
        elif was != part:
            said.append(f"{name} {_moved(was, part)}")
    said += [f"− {name}" for name in old if name not in new]
    changed = [f.name for f in fields(Scene) if getattr(before.scene, f.name) != getattr(after.scene, f.name)]
    return ", ".join([*said, *(name.replace("_", " ") for name in changed)])


def _moved(old: Part, new: Part) -> str:
    if old.hidden != new.hidden:
        return "off" if new.hidden else "on"
    words = [
        f"{word} {format_number(a)}→{format_number(b)}"
        for word, a, b in (("te", old.te, new.te), ("unet", old.unet, new.unet))
        if a != b
    ]
    if old.te == old.unet and new.te == new.unet and words:
        words = [f"{format_number(old.te)}→{format_number(new.te)}"]
    first, second = old.weights or {}, new.weights or {}
    blocks = [block for block in second if block in first and first[block] != second[block]]
    if new.preset and new.preset != old.preset:
        words.append(new.preset)
    elif len(blocks) == 1:
        words.append(f"{blocks[0]} {format_number(first[blocks[0]])}→{format_number(second[blocks[0]])}")
    elif blocks:
        words.append(f"{len(blocks)} blocks, {blocks[0]}–{blocks[-1]}")
    elif not words:
        words.append("weights")
    return " ".join(words)


# From JSON


class _Reader:
    """Takes values apart and collects what is wrong."""

    def __init__(self) -> None:
        self.errors: list[UserError] = []

    def wrong(self, where: str, what: str) -> None:
        self.errors.append(UserError(what, where=where, remedy="See openapi.json"))

    def known(self, values: Mapping[str, Any], names: Sequence[str], where: str) -> None:
        for name in values:
            if name not in names:
                self.wrong(f"{where}.{name}", "is not known here")

    def number(self, value: Any, where: str) -> float:
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not right or not math.isfinite(value) or abs(value) > 1000:
            self.wrong(where, f"{value!r} is not a number from -1000 to 1000")
            return 0.0
        return float(value) + 0.0

    def whole(self, value: Any, low: int, high: int, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.wrong(where, f"{value!r} is not a whole number from {low} to {high}")
            return low
        return value

    def text(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or len(value) > _MOST_TEXT:
            self.wrong(where, f"is not a text of at most {_MOST_TEXT} letters")
            return ""
        return value


def _part(reader: _Reader, values: Any, where: str) -> Part:
    if not isinstance(values, Mapping):
        reader.wrong(where, "is not a JSON object")
        return Part("")
    reader.known(values, [f.name for f in fields(Part)], where)
    name = reader.text(values.get("name"), f"{where}.name")
    if not name.strip():
        reader.wrong(f"{where}.name", "is missing")
    te, unet = (reader.number(values.get(key, 1.0), f"{where}.{key}") for key in ("te", "unet"))
    weights = values.get("weights")
    if weights is not None:
        weights = _weights(reader, weights, f"{where}.weights")
    preset, hidden = values.get("preset"), values.get("hidden", False)
    if not isinstance(hidden, bool):
        reader.wrong(f"{where}.hidden", "is not true or false")
    preset = None if preset is None or preset == "" else reader.text(preset, f"{where}.preset")
    return Part(name, te, unet, weights, preset, bool(hidden))


def _weights(reader: _Reader, values: Any, where: str) -> dict[str, float]:
    if not isinstance(values, Mapping):
        reader.wrong(where, "is not a JSON object of blocks and numbers")
        return {}
    for block in values.keys() - _BLOCKS:
        reader.wrong(f"{where}.{block}", f"there is no such block; {BASE}, IN01 … M00 … OUT11 and {OTHER} are blocks")
    return {block: reader.number(value, f"{where}.{block}") for block, value in values.items() if block in _BLOCKS}


def _scene(reader: _Reader, values: Any, where: str) -> Scene:
    if not isinstance(values, Mapping):
        reader.wrong(where, "is not a JSON object")
        return Scene()
    plain = Scene()
    reader.known(values, [f.name for f in fields(Scene)], where)
    given = {**asdict(plain), **values}
    texts = {key: reader.text(given[key], f"{where}.{key}") for key in ("prompt", "negative_prompt", "sampler")}
    prompts, seeds = given["prompts"] or (), given["seeds"]
    if not isinstance(prompts, (list, tuple)) or not isinstance(seeds, (list, tuple)) or not seeds:
        reader.wrong(f"{where}.seeds", "is not a list of at least one seed")
        prompts, seeds = (), (1,)
    if len(seeds) * (1 + len(prompts)) > _MOST_PICTURES:
        reader.wrong(f"{where}.seeds", f"are for more than {_MOST_PICTURES} pictures at once")
    width, height = (reader.whole(given[key], *_SIDES, f"{where}.{key}") for key in ("width", "height"))
    for key, side in (("width", width), ("height", height)):
        if side % 8:
            reader.wrong(f"{where}.{key}", f"{side} is not a multiple of 8")
    return Scene(
        **texts,
        prompts=tuple(reader.text(prompt, f"{where}.prompts") for prompt in prompts),
        seeds=tuple(dict.fromkeys(reader.whole(seed, 0, _SEEDS, f"{where}.seeds") for seed in seeds)),
        steps=reader.whole(given["steps"], 1, 150, f"{where}.steps"),
        cfg_scale=reader.number(given["cfg_scale"], f"{where}.cfg_scale"),
        width=width,
        height=height,
        clip_skip=reader.whole(given["clip_skip"], 1, 12, f"{where}.clip_skip"),
    )
