"""Block weights in a prompt: `<lora:NAME:te:unet:lbw=PRESET>`, or numbers for PRESET.

The syntax is that of sd-webui-lora-block-weight. Nothing is guessed: an unknown preset or a wrong count is an error
that names the tag, where that extension takes all ones. A tag with weights follows its rule for strengths: te and unet
by place or by name, and where one is missing it is the other. Elements, steps and inherited weights (lbwe= start= stop=
step= x=) need that extension.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..errors import UserError, raise_all
from .presets import format_number, format_numbers, look_up, parse_number, parse_numbers, require_count

INFOTEXT = "LoRA block numbers"
"""Key in a picture's text under which the numbers of named presets stand."""

_TAG = re.compile(r"<(lora|lyco):([^>]+)>")
_KNOWN = ("te", "unet", "dyn", "lbw", "w")
_FOREIGN = ("lbwe", "start", "stop", "step", "x")
_INFO = re.compile(r"(?P<lora>[^:]+):(?P<preset>[^:]+):(?P<numbers>[-+.,eE\d]+)(?:; |$)")


@dataclass(frozen=True)
class Tag:
    """A LoRA in a prompt. weights: a preset's name, the numbers themselves, or None; numbers: what they are.

    span: where it stands in the prompt; place: of `lbw=…` in it; network: lora or lyco.
    """

    name: str
    te: float = 1.0
    unet: float = 1.0
    dyn: int | None = None
    weights: str | tuple[float, ...] | None = None
    numbers: tuple[float, ...] | None = None
    span: tuple[int, int] = (0, 0)
    place: tuple[int, int] | None = None
    network: str = "lora"


def parse_prompt(
    prompt: str,
    presets: Mapping[str, tuple[float, ...]],
    family: str | None = None,
    faults: Mapping[str, UserError] | None = None,
    only_weighted: bool = False,
) -> list[Tag]:
    """Every LoRA of a prompt, in order. family: what its LoRAs are for; None: any count that is known is taken.

    only_weighted: those with block weights alone; whatever the others may hold is left to those who read it.
    Raises all UserErrors at once, naming the tag: unknown preset, wrong count, no number, an argument twice.
    """
    tags, errors = [], []
    for found in _TAG.finditer(prompt):
        if only_weighted and not has_weights(found[0]):
            continue
        try:
            tags.append(_tag(found, presets, family, faults))
        except UserError as error:
            shown = found[0] if len(found[0]) <= 60 else found[0][:57] + "…>"
            errors.append(UserError(error.what, where=f"prompt, {shown}", remedy=error.remedy))
    raise_all(errors)
    return tags


def has_weights(prompt: str) -> bool:
    """Whether any LoRA of a prompt has block weights, right or wrong."""
    return any(_argument(item)[0] in ("lbw", "w") for tag in _TAG.finditer(prompt) for item in tag[2].split(":"))


def format_tag(tag: Tag) -> str:
    """The text that parse_prompt reads back. Raises UserError for a name that a prompt can't hold."""
    _check_text("LoRA", tag.name)
    if isinstance(tag.weights, str):
        _check_text("preset", tag.weights)
    parts = [tag.name, format_number(tag.te)]
    if tag.unet != tag.te or tag.dyn is not None:
        parts.append(format_number(tag.unet))
    if tag.dyn is not None:
        parts.append(f"dyn={tag.dyn}")
    if tag.weights is not None:
        parts.append("lbw=" + (tag.weights if isinstance(tag.weights, str) else format_numbers(tag.weights)))
    return f"<{tag.network}:{':'.join(parts)}>"


def _check_text(what: str, name: str) -> None:
    like_numbers = what == "preset" and ("," in name or parse_number(name) is not None)
    if not name or name != name.strip() or re.search(r"[:<>=]", name) or like_numbers:
        raise UserError(f"a prompt can't hold the {what}'s name {name!r}", remedy="Rename it")


def with_numbers(prompt: str, tags: list[Tag]) -> str:
    """The prompt with the numbers in the place of presets' names, so that it means the same anywhere."""
    for tag in reversed(tags):
        if tag.place and isinstance(tag.weights, str) and tag.numbers:
            prompt = prompt[: tag.place[0]] + "lbw=" + format_numbers(tag.numbers) + prompt[tag.place[1] :]
    return prompt


def without(prompt: str, tags: list[Tag]) -> str:
    """The prompt without these tags."""
    for tag in reversed(tags):
        before, after = prompt[: tag.span[0]], prompt[tag.span[1] :]
        prompt = before.rstrip() + (" " if before.strip() and after.strip() else "") + after.lstrip()
    return prompt


def infotext(tags: list[Tag]) -> str:
    """What to keep with a picture under INFOTEXT: the numbers behind each preset's name. Empty where there are none."""
    named = [tag for tag in tags if isinstance(tag.weights, str) and tag.numbers]
    return "; ".join(dict.fromkeys(f"{tag.name}:{tag.weights}:{format_numbers(tag.numbers or ())}" for tag in named))


def parse_infotext(text: str) -> dict[str, tuple[float, ...]]:
    """Presets as they were, from what infotext made. Raises UserError."""
    numbers, place = {}, 0
    while place < len(text):
        found = _INFO.match(text, place)
        if not found:
            near = text[place:][:40]
            raise UserError(f"{near!r} is not LORA:PRESET:NUMBERS", where=INFOTEXT, remedy="Leave it out")
        values = parse_numbers(found["numbers"].split(","))
        numbers[found["preset"]] = require_count(f"preset {found['preset']!r}", values)
        place = found.end()
    return numbers


def restore(prompt: str, text: str, presets: Mapping[str, tuple[float, ...]]) -> str:
    """A picture's prompt with its numbers, where a preset is another now than when the picture was made, or is gone.

    text: what stood under INFOTEXT. Raises UserError as parse_infotext and parse_prompt.
    """
    then = parse_infotext(text)
    tags = parse_prompt(prompt, {**presets, **then}, only_weighted=True)
    return with_numbers(prompt, [tag for tag in tags if tag.numbers != presets.get(str(tag.weights))])


def _tag(
    found: re.Match[str],
    presets: Mapping[str, tuple[float, ...]],
    family: str | None,
    faults: Mapping[str, UserError] | None,
) -> Tag:
    items = list(_items(found))
    name, *places = [item for key, item, _ in items if not key]
    named = _named(items)
    weighted = "lbw" in named or "w" in named
    spec, place = named.get("lbw", named.get("w", ("", (0, 0))))
    if weighted and (foreign := [key for key in _FOREIGN if key in named]):
        what = f"{foreign[0]}= is of the extension LoRA Block Weight, which is not in use"
        raise UserError(what, remedy="Leave it out, or install that extension")
    te = _strength(named["te"][0] if "te" in named else places[0] if places else None, "the text encoder's strength")
    unet = _strength(
        named["unet"][0] if "unet" in named else places[1] if len(places) > 1 else None, "the UNet's strength"
    )
    dyn = named["dyn"][0] if "dyn" in named else places[2] if len(places) > 2 else None
    if dyn is not None and not re.fullmatch(r"[1-9]\d*", dyn, re.ASCII):
        raise UserError(f"{dyn!r}, the rank to use, is not a whole number")
    if unet is None:
        unet = 1.0 if te is None else te
    if te is None:
        te = unet if weighted else 1.0
    tag = Tag(name, te, unet, int(dyn) if dyn else None, span=found.span(), network=found[1])
    if not weighted:
        return tag
    weights, numbers = _weights(spec, presets, family, faults)
    return replace(tag, weights=weights, numbers=numbers, place=place)


def _items(found: re.Match[str]) -> Iterator[tuple[str, str, tuple[int, int]]]:
    """(name of the argument or "", its text, where it stands in the prompt), between colons."""
    start = found.start(2)
    for n, item in enumerate(found[2].split(":")):
        key, text = ("", item) if n == 0 else _argument(item)
        yield key, text.strip(), (start, start + len(item))
        start += len(item) + 1


def _argument(item: str) -> tuple[str, str]:
    key, equals, text = item.partition("=")
    return (key.strip(), text) if equals else ("", item)


def _named(items: list[tuple[str, str, tuple[int, int]]]) -> dict[str, tuple[str, tuple[int, int]]]:
    named: dict[str, tuple[str, tuple[int, int]]] = {}
    for key, text, place in items:
        twice = key in named or (key in ("lbw", "w") and bool(named.keys() & {"lbw", "w"}))
        if key in _KNOWN and twice:
            raise UserError(f"{key}= stands there twice" if key in named else "lbw= and w= mean the same")
        if key:
            named[key] = text, place
    return named


def _strength(text: str | None, what: str) -> float | None:
    if text is None:
        return None
    value = parse_number(text)
    if value is None:
        remedy = f"Write lbw={text} if it is a preset" if text else "Write a number"
        raise UserError(f"{text!r} stands where {what} belongs", remedy=remedy)
    return value


def _weights(
    text: str,
    presets: Mapping[str, tuple[float, ...]],
    family: str | None,
    faults: Mapping[str, UserError] | None,
) -> tuple[str | tuple[float, ...], tuple[float, ...]]:
    """As in sd-webui-lora-block-weight a preset comes first, then a list of numbers."""
    if not text:
        raise UserError("lbw= is empty", remedy="Write a preset's name or numbers")
    if text not in presets and ("," in text or parse_number(text) is not None):
        numbers = require_count("the list", parse_numbers(text.split(",")), family)
        return numbers, numbers
    return text, look_up(text, presets, family, faults)
