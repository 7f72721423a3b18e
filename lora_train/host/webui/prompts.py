"""`<lora:NAME:te:unet:lbw=PRESET>` in any prompt of the WebUI, as long as LoRA Block Weight doesn't do it.

Nothing is drawn with weights that can't be read: the page says what is wrong. The numbers behind presets' names go into
the picture's text, and come back from there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ...blocks.families import FAMILIES, weights_by_block
from ...blocks.layout import family_of_file
from ...blocks.lbw import INFOTEXT, Tag, has_weights, infotext, parse_prompt, restore, without
from ...blocks.presets import PresetFile, format_numbers, shared_store
from ...errors import UserError
from ..shot import Applied
from . import live, temporary, xyz

_BLOCK_WEIGHT = "lora_block_weight.py"
_NETWORKS = ("lora", "lyco")
_STEPS = ("init", "setup_conds", "calculate_hr_conds")
"""What the WebUI does of a job between our calls and the first layer."""
_PROMPTS = ("Prompt", "Hires prompt")


def block_weight_is_there() -> bool:
    """Whether the extension LoRA Block Weight is loaded."""
    from modules import scripts

    return any(data.script_class.__module__ == _BLOCK_WEIGHT for data in getattr(scripts, "scripts_data", ()))


def _does_it(p: Any) -> bool:
    """Whether LoRA Block Weight looks at this job; our grids run without other extensions' scripts."""
    runner = getattr(p, "scripts", None)
    if runner is None:
        return block_weight_is_there()
    return any(type(script).__module__ == _BLOCK_WEIGHT for script in runner.alwayson_scripts)


def presets() -> PresetFile:
    """The user's own presets. Raises UserError: the file can't be read."""
    from .host import WebUIHost

    return shared_store(WebUIHost().data_dir()).file


def script() -> type:
    """The WebUI's kind of script that looks at every job; to be left in the namespace of a file in scripts/."""
    from modules import scripts

    class BlockWeights(scripts.Script):
        create_group = False
        filename, args_from, args_to = __file__, 0, 0  # the WebUI sets its own where it loads the script

        def title(self) -> str:
            return "LoRA block weights in prompts"

        def show(self, is_img2img: bool) -> Any:
            return scripts.AlwaysVisible

        def process(self, p: Any, *args: Any) -> None:
            check(p)

        def after_extra_networks_activate(self, p: Any, *args: Any, **told: Any) -> None:
            weigh(p, told.get("extra_network_data") or {})

        def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
            tidy(p)

    return BlockWeights


def check(p: Any) -> None:
    """Before a job draws: its text, and an error in place of a picture where weights can't be read."""
    if _does_it(p):
        return
    if live.extension() is None:
        temporary.clear()  # of a job that failed
        _bake_later(p)
    p.extra_generation_params.pop(INFOTEXT, None)  # of a plot's last cell
    prompts = [*(p.all_prompts or ()), *(getattr(p, "all_hr_prompts", None) or ())]
    weighted = [prompt for prompt in dict.fromkeys(prompts) if has_weights(prompt)]
    if not weighted:
        return
    try:
        tags = [tag for prompt in weighted for tag in _tags(prompt, presets())]
    except UserError as error:
        _refuse(p, error)
        return
    _keep(p, tags)


def weigh(p: Any, data: Mapping[str, Sequence[Any]]) -> None:
    """Once the WebUI has loaded a prompt's LoRAs: give them their weights.

    data: its arguments, by network. They get the numbers in the place of presets' names, so that the WebUI doesn't take
    the text states of other numbers for the same.
    """
    if not any(map(_has_weights, _arguments(data))) or live.extension() is None or _does_it(p):
        return
    try:
        file = presets()
        tags = _with_numbers(data, file)
        _with_numbers(getattr(p, "hr_extra_network_data", None) or {}, file)
        _keep(p, list(tags.values()))
        _give(tags)
    except Exception as error:  # noqa: BLE001 (the WebUI would write it on its console, and draw)
        _refuse(p, error)
    p.train_lora_weighed = True


def as_applied(prompt: str) -> tuple[str, list[Applied]]:
    """A prompt without its tags with weights, and what they stand for. Raises UserError."""
    if not has_weights(prompt):
        return prompt, []
    tags = _tags(prompt, presets())
    return without(prompt, tags), [_applied(tag) for tag in tags]


def tidy(p: Any) -> None:
    """After a job."""
    if getattr(p, "train_lora_weighed", False):
        live.plain()
        temporary.clear()


def pasted(text: str, params: dict[str, Any]) -> None:
    """A picture's text is read back: where a preset has other numbers now, the prompt gets those of the picture."""
    from modules import errors

    numbers = params.get(INFOTEXT)
    if not numbers:
        return
    try:
        now = presets().with_builtin
        for name in _PROMPTS:
            if params.get(name):
                params[name] = restore(params[name], numbers, now)
    except UserError as error:
        errors.report(f"Train LoRA: {error}")


def _warn(text: str) -> None:
    """On the page of whoever pressed the button, where gradio knows that; else on the console."""
    gradio = sys.modules.get("gradio")
    if gradio is not None:
        gradio.Warning(text.replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}"))


def _keep(p: Any, tags: list[Tag]) -> None:
    """The numbers behind presets' names, in the picture's text."""
    text = infotext(tags)
    if text:
        p.extra_generation_params.setdefault(INFOTEXT, text)


def _tags(prompt: str, file: PresetFile) -> list[Tag]:
    """The tags with weights. Raises UserError."""
    family = live.family()
    if family is None and live.extension() is not None:
        remedy = f"Leave lbw= out, or choose a checkpoint of {', '.join(FAMILIES)}"
        raise UserError("the blocks of this checkpoint are not known", where="lbw=", remedy=remedy)
    tags = parse_prompt(prompt, file.with_builtin, family, file.faults, only_weighted=True)
    names = [found.partition(">")[0].partition(":")[0] for part in _NETWORKS for found in prompt.split(f"<{part}:")[1:]]
    twice = next((tag.name for tag in tags if names.count(tag.name) > 1), None)
    if twice:
        what = "the WebUI applies a LoRA once, and this one stands there twice"
        raise UserError(what, where=f"prompt, {twice}", remedy="Keep one, with the sum of both")
    return tags


def _with_numbers(data: Mapping[str, Sequence[Any]], file: PresetFile) -> dict[str, Tag]:
    """Tags with weights by the names of their LoRAs; `data` has their numbers afterwards. Raises UserError."""
    found = {}
    for params in filter(_has_weights, _arguments(data)):
        [tag] = _tags(f"<lora:{':'.join(map(str, params.items))}>", file)
        numbers = f"lbw={format_numbers(tag.numbers or ())}"
        params.items = [numbers if _is_weights(item) else item for item in params.items]
        found[tag.name] = tag
    return found


def _bake_later(p: Any) -> None:
    """Where the WebUI's LoRAs can't be given weights, a file that has them is what it applies."""
    stock = p.parse_extra_network_prompts

    def parse() -> Any:
        made = stock()
        for name in ("extra_network_data", "hr_extra_network_data"):
            _bake(p, getattr(p, name, None) or {})
        return made

    p.parse_extra_network_prompts = parse


def _bake(p: Any, data: dict[str, list[Any]]) -> None:
    """Put a baked file in the place of a prompt's LoRAs with weights. Raises UserError."""
    if not any(map(_has_weights, _arguments(data))):
        return
    tags = _with_numbers(data, presets())
    _keep(p, list(tags.values()))
    p.train_lora_weighed = True
    for name in _NETWORKS:
        if name in data:
            data[name] = [params for params in data[name] if not _has_weights(params)]
    for made in temporary.baked([_applied(tag) for tag in tags.values()]):
        from modules.extra_networks import ExtraNetworkParams

        data.setdefault("lora", []).append(ExtraNetworkParams(items=[made.path.stem, "1"]))


def _applied(tag: Tag) -> Applied:
    networks = sys.modules.get("networks")
    found = xyz.find_network(networks, tag.name) if networks else None
    if found is None:
        raise UserError("there is no such LoRA", where=f"prompt, {tag.name}", remedy="Refresh the list, or correct it")
    if tag.dyn:
        raise UserError("dyn= and lbw= can't be had together here", where=f"prompt, {tag.name}", remedy="Leave one out")
    family = family_of_file(found)
    return Applied(Path(found), tag.te, tag.unet, weights_by_block(tag.numbers or (), family=family))


def _give(tags: Mapping[str, Tag]) -> None:
    family = live.family()
    assert family
    found = {}
    for place, net in enumerate(live.extension().loaded_networks):
        tag = tags.get(str(net.mentioned_name or net.name))
        if tag:
            found[place] = (tag.te, tag.unet, weights_by_block(tag.numbers or (), family=family))
    live.weigh(found)


def _arguments(data: Mapping[str, Sequence[Any]]) -> list[Any]:
    return [params for name in _NETWORKS for params in data.get(name, ())]


def _has_weights(params: Any) -> bool:
    return any(_is_weights(item) for item in params.items)


def _is_weights(item: object) -> bool:
    return str(item).partition("=")[0].strip() in ("lbw", "w") and "=" in str(item)


def _refuse(p: Any, error: Exception) -> None:
    """End the job before its first layer. The WebUI swallows what a script raises, and shows what a job raises.

    A plot goes on without the cell, and only the console says why: so it is said on the page besides.
    """
    _warn(str(error))

    def refuse(*_: object, **__: object) -> NoReturn:
        raise error

    for step in _STEPS:
        if hasattr(p, step):
            setattr(p, step, refuse)
